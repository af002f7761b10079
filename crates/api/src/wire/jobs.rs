//! Jobs.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gantry_core::spec::ContainerSpec;
use gantry_core::state::StopReason;
use gantry_core::{ExecutorType, FailureClass, HostId, JobId, ProjectId, Status, TemplateId, WaitingReason};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Abandoned, BulkChange, ProblemDetails, RoutingDecision, Standing, schema};

/// The answer to one submission: 201 for a new job, 200 for an existing one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The job's id.
    #[schema(value_type = Uuid)]
    pub id: JobId,
    /// Whether the same submission had made it before, by its idempotency key.
    pub existing: bool,
    /// Where the job stands. Absent if it ended so long ago that only its key is still known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Status>)]
    pub status: Option<Status>,
}

/// The answer to one item of an array of submissions, in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum SubmitResult {
    /// The job is durable.
    Accepted(Accepted),
    /// This item made no job; the others are not concerned.
    Rejected(ProblemDetails),
}

/// The answer to `POST /v1/jobs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SubmitReply {
    /// To one submission.
    One(Accepted),
    /// To an array: an answer for each item, in order.
    Many(Vec<SubmitResult>),
}

/// A job and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// The id: a UUIDv7, so that ids sort by the time of admission.
    #[schema(value_type = Uuid)]
    pub id: JobId,
    /// A name for people.
    pub name: String,
    /// Where it stands. `completed`, `failed`, `timeout` and `cancelled` are final.
    #[schema(value_type = schema::Status)]
    pub status: Status,
    /// What a pending job waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::WaitingReason>)]
    pub waiting_reason: Option<WaitingReason>,
    /// Until when it waits at most before it is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_until: Option<DateTime<Utc>>,
    /// The project.
    #[schema(value_type = Uuid)]
    pub project_id: ProjectId,
    /// The template it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub template_id: Option<TemplateId>,
    /// Where it was routed.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// What the producer asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ExecutorType>)]
    pub preferred_executor: Option<ExecutorType>,
    /// Why it went to its executor type, in words.
    pub routing_reason: String,
    /// The host of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub host_id: Option<HostId>,
    /// The name of that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// -100 to 100; higher goes first.
    pub priority: i16,
    /// The number of the last attempt; 0 before the first.
    pub attempt: i32,
    /// The backend's identifier of the last attempt's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// The exit code of the last attempt's container; a signal is 128 + its number. Absent if none ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::FailureClass>)]
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The producer's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What one run of it was expected to cost when it was last routed, in the currency of the hosts' prices: on the cheapest
    /// active host of its executor type, for the mean time of its template's latest completed runs, else for its timeout.
    /// Absent if there was no such host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub estimated_cost: Option<Decimal>,
    /// What its attempts cost together as far as that is known, in the currency of the host's prices. Absent if nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub actual_cost: Option<Decimal>,
    /// What the executor keeps with the job; its shape is the executor's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_metadata: Option<Value>,
    /// When its end was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When the last attempt's container started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<DateTime<Utc>>,
    /// Who submitted it: `key:` and the id of the API key, or `schedule:` and the id of the schedule.
    pub created_by: String,
}

/// A job with what it runs and its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// What it runs: template, overrides and defaults resolved.
    #[schema(value_type = schema::ContainerSpec)]
    pub spec: ContainerSpec,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How it got to its executor: the decision when it came, and one for each refusal that sent it on, with every executor
    /// and why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::RoutingDecision>)]
    pub routing: Vec<RoutingDecision>,
    /// Its attempts, first to last.
    pub attempts: Vec<Attempt>,
    /// What operations on many jobs did to it, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::BulkChange>)]
    pub changes: Vec<BulkChange>,
}

/// One attempt to run a job: at most one container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    /// Its number, from 1.
    pub attempt: i32,
    /// The host's name.
    pub host: String,
    /// The name of its container at the backend.
    pub external_name: String,
    /// The backend's identifier of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// When a worker claimed it.
    pub claimed_at: DateTime<Utc>,
    /// When its container was seen running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Who looks after it, while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// That it was given up before its end was confirmed, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<Abandoned>,
    /// Why Gantry stopped it, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::StopReason>)]
    pub stop_reason: Option<StopReason>,
    /// The exit code; a signal is 128 + its number. Absent for a failure of the infrastructure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::FailureClass>)]
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// How long the container ran, in milliseconds, by the backend's own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_millis: Option<i64>,
    /// The highest memory use seen, in bytes. A container of a few milliseconds has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<i64>,
    /// The mean CPU use, in percent of one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage_percent: Option<f64>,
    /// What it cost, in the currency of the host's prices: 0 if its container never started. Absent while it is open, and if
    /// its backend told no times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cost: Option<Decimal>,
    /// Whether part of its log could not be stored.
    pub logs_incomplete: bool,
    /// From when its log and the excerpts of it are not kept any more, because their time was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs_expired_at: Option<DateTime<Utc>>,
    /// What the backend itself said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_log: Option<String>,
    /// The beginning of stdout, without terminal escapes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_output: Option<String>,
    /// stdout as JSON, or its last line that is JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parsed_output: Option<Value>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Pass it as `before` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub next: Option<JobId>,
}

/// The answer to a request to cancel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CancelReply {
    /// The job.
    #[schema(value_type = Uuid)]
    pub id: JobId,
    /// What the request did.
    pub result: CancelResult,
    /// Where the job stands now.
    #[schema(value_type = schema::Status)]
    pub status: Status,
}

/// What a request to cancel did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelResult {
    /// The job was pending and is cancelled (200).
    Cancelled,
    /// The job runs: its container is stopped, and its end comes later (202).
    Requested,
}
