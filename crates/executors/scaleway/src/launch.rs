//! Starting a run: never again for an attempt once a start may have been taken. One that was refused with 429 was not: the
//! worker may send it again.

use std::sync::Arc;

use gantry_core::spec::{ContainerSpec, ResolvedSpec};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, Launch, LaunchError};

use crate::client::Trouble;
use crate::config::Options;
use crate::place::Place;
use crate::wire::{Runs, Start};
use crate::{definition, owned, size, words};

/// Names of variables that the service keeps for itself, in any case of letters.
const RESERVED: &str = "SCW_SLS";

/// Refuses what a run cannot have.
pub(crate) fn validate(options: &Options, spec: &ResolvedSpec) -> Result<(), Failure> {
    let container = &spec.container;
    size::wanted(options, container)?;
    let refused = refusal(container).or_else(|| {
        let most = definition::LONGEST;
        let needs = definition::time_limit(spec.timeout_seconds());
        (needs > most).then(|| {
            let timeout = spec.timeout_seconds();
            format!("timeout_seconds: a run lasts at most {most} s here, and {timeout} s need {needs} s")
        })
    });
    refused.map_or(Ok(()), |message| Err(Failure::new(FailureClass::InvalidSpec, message)))
}

fn refusal(spec: &ContainerSpec) -> Option<String> {
    if !spec.mounts.is_empty() {
        return Some("mounts: a run of Serverless Jobs has no directories of a host".to_owned());
    }
    if spec.network.is_some() {
        return Some("network: Serverless Jobs join no networks".to_owned());
    }
    if spec.working_dir.is_some() {
        return Some("working_dir: Serverless Jobs start in the image's own directory".to_owned());
    }
    if spec.user.is_some() {
        return Some("user: Serverless Jobs run as the image's own user".to_owned());
    }
    if spec.read_only_root {
        return Some("read_only_root: Serverless Jobs can write to their root".to_owned());
    }
    if spec.gpus.is_some() {
        return Some("gpus: Serverless Jobs have none".to_owned());
    }
    let reserved = |name: &&String| name.to_ascii_uppercase().starts_with(RESERVED);
    let name = spec.environment.keys().find(reserved)?;
    Some(format!("environment.{name}: names that begin with {RESERVED} are the service's own"))
}

/// Sends one start request, whatever comes of it.
pub(crate) async fn launch(place: &Arc<Place>, options: &Options, launch: &Launch) -> Result<ExecutionId, LaunchError> {
    let ensured = definition::ensure(place, options, &launch.spec).await;
    let (definition, key) = ensured.map_err(LaunchError::NotLaunched)?;
    let started = place.api.post_once::<Runs>(&format!("/job-definitions/{definition}/start"), &body(launch)).await;
    match started {
        Ok(runs) => match runs.job_runs.as_slice() {
            [run] => {
                place.launched.put(&launch.name, run.id.clone());
                Ok(ExecutionId(run.id.clone()))
            }
            runs => Err(LaunchError::MaybeLaunched(format!("start: one run was asked for, {} are named", runs.len()))),
        },
        Err(trouble) => {
            if matches!(trouble, Trouble::Refused { status: 404, .. }) {
                // Somebody deleted it. The next attempt registers it again.
                place.definitions.forget(&key);
            }
            place.forget_lists();
            Err(trouble.launch_error())
        }
    }
}

fn body(launch: &Launch) -> Start {
    let container = &launch.spec.container;
    let mut environment_variables = container.environment.clone();
    environment_variables.extend(owned::variables(launch));
    Start {
        startup_command: container.entrypoint.as_deref().map(words::literal),
        args: container.command.as_deref().map(words::literal),
        environment_variables,
        replicas: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{FleetId, JobId};
    use serde_json::{Value, json};

    fn spec(value: Value) -> ResolvedSpec {
        let mut spec = json!({"image": "i"});
        spec.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
        serde_json::from_value(spec).expect("a spec")
    }

    #[test]
    fn what_a_run_cannot_have_is_refused_by_its_field() {
        for (value, field) in [
            (json!({"mounts": [{"source": "/a", "target": "/b"}]}), "mounts"),
            (json!({"network": "n"}), "network"),
            (json!({"working_dir": "/w"}), "working_dir"),
            (json!({"user": "1000"}), "user"),
            (json!({"read_only_root": true}), "read_only_root"),
            (json!({"gpus": 1}), "gpus"),
            (json!({"environment": {"scw_sls_x": "1"}}), "environment.scw_sls_x"),
            (json!({"timeout_seconds": 86_400}), "timeout_seconds"),
            (json!({"cpu_limit": 7.0}), "cpu_limit"),
        ] {
            let failure = validate(&Options::default(), &spec(value)).expect_err("refused");
            assert_eq!(failure.class, FailureClass::InvalidSpec);
            assert!(failure.message.starts_with(field), "{failure}");
        }
        validate(&Options::default(), &spec(json!({"timeout_seconds": 86_100}))).expect("just fits");
    }

    #[test]
    fn a_start_carries_who_it_is_for() {
        let launch = Launch {
            name: "g1-2-3".into(),
            fleet: FleetId::new(),
            job: JobId::new(),
            attempt: 3,
            spec: spec(json!({"command": ["$(x)"], "environment": {"A": "1", owned::NAME: "another's"}})),
        };
        let body = serde_json::to_value(body(&launch)).expect("JSON");
        assert_eq!(body["args"], json!(["$$(x)"]));
        assert_eq!(body.get("startup_command"), None, "the image's own entrypoint");
        assert_eq!(body["replicas"], 1);
        let variables = &body["environment_variables"];
        assert_eq!((&variables["A"], &variables[owned::NAME]), (&json!("1"), &json!("g1-2-3")));
        assert_eq!(variables[owned::ATTEMPT], "3");
    }
}
