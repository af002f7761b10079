//! RunTask, once for each name.

use std::time::Duration;

use aws_sdk_ecs::error::SdkError;
use aws_sdk_ecs::operation::run_task::RunTaskError;
use aws_sdk_ecs::operation::run_task::builders::RunTaskFluentBuilder;
use aws_sdk_ecs::types::{
    AssignPublicIp, AwsVpcConfiguration, CapacityProviderStrategyItem, Failure as Refusal, LaunchType as EcsLaunchType,
    NetworkConfiguration, Tag,
};
use backon::{ExponentialBuilder, Retryable as _};
use gantry_core::Failure;
use gantry_worker::executor::{ExecutionId, Launch, LaunchError};

use crate::client::Client;
use crate::config::{LaunchType, Options};
use crate::definition::Definition;
use crate::error::{Kind, Trouble};
use crate::{overrides, owner, reasons};

/// A launch that was one too many is tried again, twice: a worker's request has a few seconds only, and what is
/// `throttled` then is tried again by Gantry.
const BACKOFF: ExponentialBuilder =
    ExponentialBuilder::new().with_min_delay(Duration::from_millis(250)).with_max_times(2);
/// Tags of one task, Gantry's own among them.
const TAGS: usize = 50;

pub(crate) async fn launch(client: &Client, options: &Options, launch: &Launch) -> Result<ExecutionId, LaunchError> {
    // Registering launches nothing, whatever becomes of it.
    let definition =
        Definition::of(&client.connection.region, options, &launch.spec.container).map_err(LaunchError::NotLaunched)?;
    let arn = client.definitions.ensure(client, options, &definition).await.map_err(LaunchError::NotLaunched)?;
    let overrides = overrides::of(&launch.spec.container).map_err(LaunchError::NotLaunched)?;
    let request = request(client, options, launch).task_definition(arn).overrides(overrides);
    let attempt = async || {
        // The token would make it harmless; but what this process does not know of it cannot wait for.
        let once = aws_sdk_ecs::config::Config::builder().retry_config(aws_config::retry::RetryConfig::disabled());
        match request.clone().customize().config_override(once).send().await {
            Ok(answer) => Ok(Ok((answer.tasks.unwrap_or_default(), answer.failures.unwrap_or_default()))),
            Err(SdkError::ServiceError(error)) if error.err().is_conflict_exception() => Ok(Err(taken(error.err()))),
            Err(error) => Err(Trouble::of("RunTask", &error)),
        }
    };
    let answer = attempt.retry(BACKOFF).when(|trouble: &Trouble| trouble.kind == Kind::Throttled).await;
    let id = match answer {
        Ok(Ok((tasks, failures))) => match tasks.into_iter().find_map(|task| task.task_arn) {
            Some(arn) => arn,
            None => return Err(none(&failures)),
        },
        // The name is taken: by this attempt's own task, which an earlier request with other parameters made.
        Ok(Err(Some(arn))) => arn,
        Ok(Err(None)) => {
            return Err(LaunchError::MaybeLaunched("RunTask: the token is taken, and no task named".into()));
        }
        Err(trouble) => {
            if names_the_definition(&trouble) {
                client.definitions.forget(&definition);
            }
            return Err(refused(trouble));
        }
    };
    client.memory.launched.note(&id);
    Ok(ExecutionId(id))
}

fn request(client: &Client, options: &Options, launch: &Launch) -> RunTaskFluentBuilder {
    let request = client
        .ecs
        .run_task()
        .cluster(&client.connection.cluster)
        .count(1)
        // A name has at most 48 characters; a token may have 64, `startedBy` 128.
        .client_token(&launch.name)
        .started_by(&launch.name)
        .group(owner::group(launch.fleet))
        .set_tags(Some(tags(launch)))
        .set_platform_version(options.platform_version.clone())
        .set_network_configuration(network(options));
    match options.launch_type {
        LaunchType::Fargate => request.launch_type(EcsLaunchType::Fargate),
        LaunchType::Ec2 => request.launch_type(EcsLaunchType::Ec2),
        LaunchType::FargateSpot => request.capacity_provider_strategy(
            CapacityProviderStrategyItem::builder()
                .capacity_provider("FARGATE_SPOT")
                .weight(1)
                .build()
                .expect("the provider is set"),
        ),
    }
}

fn network(options: &Options) -> Option<NetworkConfiguration> {
    let public = if options.assign_public_ip { AssignPublicIp::Enabled } else { AssignPublicIp::Disabled };
    options.has_own_interface().then(|| {
        let vpc = AwsVpcConfiguration::builder()
            .set_subnets(Some(options.subnets.clone()))
            .set_security_groups(Some(options.security_groups.clone()).filter(|groups| !groups.is_empty()))
            // ECS knows the setting for Fargate only.
            .set_assign_public_ip(options.is_fargate().then_some(public));
        NetworkConfiguration::builder().awsvpc_configuration(vpc.build().expect("the subnets are set")).build()
    })
}

/// Gantry's own, and the job's labels as far as they can be tags. For people and for the bill: Gantry itself goes by
/// `group` and `startedBy`, because a task's tags are deleted when it is stopped.
fn tags(launch: &Launch) -> Vec<Tag> {
    let own = [
        ("gantry:fleet", launch.fleet.to_string()),
        ("gantry:job", launch.job.to_string()),
        ("gantry:attempt", launch.attempt.to_string()),
    ];
    let own = own.map(|(key, value)| Tag::builder().key(key).value(value).build());
    let labels = launch.spec.labels.iter().filter(|(key, value)| is_tag(key, value));
    let labels = labels.map(|(key, value)| Tag::builder().key(key).value(value).build());
    own.into_iter().chain(labels).take(TAGS).collect()
}

/// Source: `tags` of RunTask, Amazon ECS API Reference.
fn is_tag(key: &str, value: &str) -> bool {
    let is_allowed = |character: char| character.is_alphanumeric() || " +-=._:/@".contains(character);
    let reserved = |text: &str| ["aws:", "gantry:"].iter().any(|prefix| text.to_ascii_lowercase().starts_with(prefix));
    (1..=128).contains(&key.chars().count())
        && value.chars().count() <= 256
        && key.chars().chain(value.chars()).all(is_allowed)
        && !reserved(key)
        && !value.to_ascii_lowercase().starts_with("aws:")
}

/// The task that has the token.
fn taken(error: &RunTaskError) -> Option<String> {
    match error {
        RunTaskError::ConflictException(conflict) => conflict.resource_ids.as_ref()?.first().cloned(),
        _ => None,
    }
}

fn none(failures: &[Refusal]) -> LaunchError {
    let Some(first) = failures.first() else {
        return LaunchError::MaybeLaunched("RunTask: an answer without a task and without a reason".into());
    };
    let said = |part: &Option<String>| part.clone().unwrap_or_default();
    let (reason, detail) = (said(&first.reason), said(&first.detail));
    LaunchError::NotLaunched(Failure::new(reasons::not_placed(&reason), format!("RunTask: {} {detail}", reason.trim())))
}

/// "TaskDefinition is inactive", "Unable to find task definition": somebody deregistered it.
fn names_the_definition(trouble: &Trouble) -> bool {
    let words = trouble.text.to_ascii_lowercase();
    trouble.kind == Kind::Refused && (words.contains("task definition") || words.contains("taskdefinition"))
}

fn refused(trouble: Trouble) -> LaunchError {
    match trouble.kind {
        Kind::NoAnswer | Kind::Failed => LaunchError::MaybeLaunched(trouble.text),
        Kind::Refused => {
            LaunchError::NotLaunched(Failure::new(reasons::refused(&trouble.code, &trouble.text), trouble.text))
        }
        Kind::Unreachable | Kind::Unsigned | Kind::Throttled => LaunchError::NotLaunched(trouble.failure()),
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::FailureClass;

    use super::*;

    #[test]
    fn labels_that_cannot_be_tags_are_left_out() {
        assert!(is_tag("team", "a b"));
        assert!(is_tag("größe", ""));
        for (key, value) in
            [("", "x"), ("aws:x", "x"), ("AWS:x", "x"), ("gantry:job", "x"), ("k", "aws:x"), ("a#b", "x"), ("k", "x\n")]
        {
            assert!(!is_tag(key, value), "{key}={value}");
        }
        assert!(!is_tag(&"k".repeat(129), "") && !is_tag("k", &"v".repeat(257)));
    }

    #[test]
    fn what_may_have_been_done_may_have_been_launched() {
        let of = |kind| refused(Trouble { kind, code: "X".into(), text: "t".into() });
        for kind in [Kind::NoAnswer, Kind::Failed] {
            assert!(matches!(of(kind), LaunchError::MaybeLaunched(_)), "{kind:?}");
        }
        for (kind, class) in [
            (Kind::Unreachable, FailureClass::HostUnreachable),
            (Kind::Unsigned, FailureClass::BackendError),
            (Kind::Throttled, FailureClass::Throttled),
            (Kind::Refused, FailureClass::LaunchRejected),
        ] {
            assert!(matches!(of(kind), LaunchError::NotLaunched(failure) if failure.class == class), "{kind:?}");
        }
        assert!(matches!(none(&[]), LaunchError::MaybeLaunched(_)));
    }
}
