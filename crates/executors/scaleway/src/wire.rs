//! The bodies of Serverless Jobs, v1alpha2, as far as they are used. What the service leaves out is `None`, never a
//! zero: an exit code that is not there is not 0.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// `POST /job-definitions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct CreateDefinition<'a> {
    pub(crate) name: &'a str,
    pub(crate) project_id: &'a str,
    pub(crate) description: &'a str,
    /// In thousandths of a vCPU.
    pub(crate) cpu_limit: u32,
    /// In MiB.
    pub(crate) memory_limit: u32,
    /// In MiB.
    pub(crate) local_storage_capacity: u32,
    pub(crate) image_uri: &'a str,
    /// Seconds with an `s`.
    pub(crate) job_timeout: String,
    pub(crate) retry_policy: RetryPolicy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetryPolicy {
    #[serde(default)]
    pub(crate) max_retries: u32,
}

/// A job definition.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Definition {
    pub(crate) id: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) cpu_limit: u32,
    #[serde(default)]
    pub(crate) memory_limit: u32,
    #[serde(default)]
    pub(crate) image_uri: String,
    pub(crate) created_at: Option<DateTime<Utc>>,
    pub(crate) retry_policy: Option<RetryPolicy>,
}

/// `GET /job-definitions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Definitions {
    #[serde(default)]
    pub(crate) job_definitions: Vec<Definition>,
    pub(crate) total_count: Option<u64>,
}

/// `POST /job-definitions/{id}/start`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Start {
    /// Replaces the image's entrypoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) startup_command: Option<Vec<String>>,
    /// Replaces the image's command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) args: Option<Vec<String>>,
    pub(crate) environment_variables: BTreeMap<String, String>,
    pub(crate) replicas: u32,
}

/// The answer to [`Start`], and `GET /job-runs`.
#[derive(Debug, Deserialize)]
pub(crate) struct Runs {
    #[serde(default)]
    pub(crate) job_runs: Vec<Run>,
    pub(crate) total_count: Option<u64>,
}

/// A job run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Run {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) job_definition_id: String,
    #[serde(default)]
    pub(crate) state: String,
    pub(crate) created_at: Option<DateTime<Utc>>,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) terminated_at: Option<DateTime<Utc>>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) reason: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) environment_variables: Option<BTreeMap<String, String>>,
}

/// `GET /job-resources`: the sizes that a job can have.
#[derive(Debug, Deserialize)]
pub(crate) struct Resources {
    #[serde(default)]
    pub(crate) resources: Vec<Resource>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Resource {
    pub(crate) compute_limit_mvcpu: u32,
    pub(crate) memory_limit_bytes: u64,
}

/// The states of a run that is not over.
pub(crate) const ACTIVE: [&str; 6] = ["initialized", "validated", "queued", "running", "interrupting", "retrying"];

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Running,
    Over,
    /// A state that this version does not know: nothing is said about the run.
    Unknown,
}

impl Run {
    pub(crate) fn phase(&self) -> Phase {
        match self.state.as_str() {
            "initialized" | "validated" | "queued" => Phase::Starting,
            "running" | "interrupting" | "retrying" => Phase::Running,
            "succeeded" | "failed" | "interrupted" => Phase::Over,
            _ => Phase::Unknown,
        }
    }

    /// One of its environment variables.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment_variables.as_ref()?.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_not_zero() {
        let run: Run = serde_json::from_str(r#"{"id": "r", "state": "failed"}"#).expect("the least");
        assert_eq!((run.exit_code, run.reason, run.started_at), (None, None, None));
        let run: Run = serde_json::from_str(r#"{"id": "r", "state": "succeeded", "exit_code": 0}"#).expect("valid");
        assert_eq!(run.exit_code, Some(0));
    }

    #[test]
    fn every_state_has_its_phase() {
        let of = |state: &str| Run { state: state.into(), ..Run::default() }.phase();
        assert!(ACTIVE.iter().all(|state| matches!(of(state), Phase::Starting | Phase::Running)));
        assert!(["succeeded", "failed", "interrupted"].iter().all(|state| of(state) == Phase::Over));
        assert_eq!((of("unknown_state"), of("")), (Phase::Unknown, Phase::Unknown));
    }
}
