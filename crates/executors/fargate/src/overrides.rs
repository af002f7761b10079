//! What a task has beside its definition: the job's words and variables.

use aws_sdk_ecs::types::{ContainerOverride, KeyValuePair, TaskOverride};
use gantry_core::spec::ContainerSpec;
use gantry_core::{Failure, FailureClass};
use serde_json::json;

/// The task's one container.
pub(crate) const CONTAINER: &str = "job";
/// The longest overrides, in characters, "including the JSON formatting characters" (`overrides` of RunTask, Amazon ECS
/// API Reference).
const LIMIT: usize = 8_192;
/// What Gantry's own variables may take of it: job, attempt, timeout, trace.
const RESERVED: usize = 384;

/// Refuses what would not fit. Before Gantry's own variables are added.
pub(crate) fn validate(spec: &ContainerSpec) -> Result<(), Failure> {
    check(spec, LIMIT - RESERVED)
}

/// The overrides of a launch.
pub(crate) fn of(spec: &ContainerSpec) -> Result<TaskOverride, Failure> {
    check(spec, LIMIT)?;
    let environment =
        spec.environment.iter().map(|(name, value)| KeyValuePair::builder().name(name).value(value).build());
    let container = ContainerOverride::builder()
        .name(CONTAINER)
        .set_command(spec.command.clone())
        .set_environment(Some(environment.collect()))
        .build();
    Ok(TaskOverride::builder().container_overrides(container).build())
}

fn check(spec: &ContainerSpec, limit: usize) -> Result<(), Failure> {
    let environment: Vec<_> =
        spec.environment.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let container = json!({ "name": CONTAINER, "command": spec.command, "environment": environment });
    let size = json!({ "containerOverrides": [container] }).to_string().chars().count();
    if size <= limit {
        return Ok(());
    }
    let message = format!(
        "command and environment take {size} characters as JSON, and a Fargate job has {limit}: {} too many. Put large \
         input where the job can fetch it, or into the image",
        size - limit
    );
    Err(Failure::new(FailureClass::InvalidSpec, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bytes: usize) -> ContainerSpec {
        serde_json::from_value(json!({"image": "i", "command": ["x".repeat(bytes)]})).expect("a spec")
    }

    #[test]
    fn what_is_too_long_is_refused_with_how_much() {
        let empty =
            json!({"containerOverrides": [{"name": "job", "command": [""], "environment": []}]}).to_string().len();
        let most = LIMIT - RESERVED - empty;
        validate(&spec(most)).expect("it fits");
        let failure = validate(&spec(most + 5)).expect_err("it does not");
        assert_eq!(failure.class, FailureClass::InvalidSpec);
        assert!(failure.message.contains("5 too many"), "{failure}");
    }

    #[test]
    fn gantrys_own_variables_have_their_place() {
        let mut spec = spec(LIMIT);
        spec.command = None;
        let own = [
            ("GANTRY_JOB_ID", "0190b2a6-6b1c-7def-8000-000000000000".to_owned()),
            ("GANTRY_ATTEMPT", i32::MAX.to_string()),
            ("GANTRY_TIMEOUT_SECONDS", u32::MAX.to_string()),
            ("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        ];
        let size = |spec: &ContainerSpec| {
            let all: Vec<_> = spec.environment.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
            json!(all).to_string().len()
        };
        let before = size(&spec);
        spec.environment = own.map(|(name, value)| (name.to_owned(), value)).into();
        assert!(size(&spec) - before < RESERVED, "{}", size(&spec) - before);
    }

    #[test]
    fn quotes_and_breaks_count_as_they_are_sent() {
        let mut spec = spec(0);
        spec.command = Some(vec!["\n".repeat(LIMIT / 2)]);
        assert!(validate(&spec).is_err());
    }
}
