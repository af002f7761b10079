//! What travels over RabbitMQ, versioned in the variant: a message of an unknown version does not decode, is
//! dead-lettered and can be replayed later. JSON Schemas of all of them are generated into `docs/contracts/`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::state::Outcome;
use crate::{EventId, ExecutorType, Failure, JobId, Problem, Status, TenantId};

/// The answer to a submission that named `reply_to`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Reply {
    /// The job is durable.
    Accepted {
        /// Its id.
        job_id: JobId,
        /// Whether the same idempotency key had made it before.
        existing: bool,
    },
    /// The submission made no job.
    Rejected(Problem),
}

/// Dispatched jobs, for the workers of one executor type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "version")]
pub enum Work {
    /// Version 1.
    #[serde(rename = "1")]
    V1 {
        /// The jobs, in the order in which they should start.
        jobs: Vec<WorkItem>,
    },
}

/// [`Work`] of which some items do not decode: each by itself, as the text that it was.
#[derive(Deserialize)]
struct RawWork<'a> {
    version: String,
    #[serde(borrow)]
    jobs: Vec<&'a RawValue>,
}

/// The items of [`Work`] that as a whole does not decode, none if it is no such list of this version: whoever reads one
/// does not lose the good ones for the sake of a bad one.
pub fn work_items(body: &[u8]) -> Option<Vec<&str>> {
    let list: RawWork<'_> = serde_json::from_slice(body).ok()?;
    (list.version == "1").then(|| list.jobs.into_iter().map(RawValue::get).collect())
}

/// [`Reports`] as the texts that they were.
#[derive(Deserialize)]
struct RawReports<'a> {
    version: String,
    #[serde(borrow)]
    reports: Vec<&'a RawValue>,
}

/// The same of [`Reports`].
pub fn reports(body: &[u8]) -> Option<Vec<&str>> {
    let list: RawReports<'_> = serde_json::from_slice(body).ok()?;
    (list.version == "1").then(|| list.reports.into_iter().map(RawValue::get).collect())
}

/// One dispatched job. A claim compares all three, so that a stale message does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkItem {
    /// The job.
    pub job: JobId,
    /// The attempt that the claim will create, from 1.
    pub attempt: i32,
    /// The dispatch sequence: moves when the row enters the window and when it is released.
    pub sequence: i32,
}

/// The fencing token of an attempt: whoever does not hold the current epoch writes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// The job.
    pub job: JobId,
    /// The attempt, from 1.
    pub attempt: i32,
    /// Raised by every adoption, from 1.
    pub epoch: i32,
}

/// Attempt reports, for the recorder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "version")]
pub enum Reports {
    /// Version 1. Each report is decoded by itself, so that a broken one hurts nobody else: see [`Report`].
    #[serde(rename = "1")]
    V1 {
        /// The reports, each a [`Report`].
        #[schemars(with = "Vec<Report>")]
        reports: Vec<Value>,
    },
}

/// [`Reports`] as whoever writes them has them: without a tree between.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "version")]
pub enum ReportsToWrite<'a> {
    /// Version 1.
    #[serde(rename = "1")]
    V1 {
        /// The reports.
        reports: Vec<&'a Report>,
    },
}

/// What a worker says of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Whose report it is.
    #[serde(flatten)]
    pub token: Token,
    /// The W3C trace context of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: ReportKind,
}

/// What happened to an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ReportKind {
    /// Its container runs. Left out for one that ended at once: the end says it all.
    Started {
        /// The backend's identifier of the container.
        execution_id: String,
    },
    /// It is over, and its container cannot come back.
    Ended(Ended),
}

/// An attempt's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ended {
    /// How it ended.
    pub outcome: ReportedOutcome,
    /// The backend's identifier, if it was ever launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_id: Option<String>,
    /// How long the container ran, in milliseconds, by the backend's own pair of times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_millis: Option<u64>,
    /// From the launch request to running, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_millis: Option<u64>,
    /// The highest memory use seen, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_usage: Option<u64>,
    /// The mean use of CPU, in percent of one CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_usage_percent: Option<f64>,
    /// Whether its container was certainly never launched, and never will be: then another place may take the job. False
    /// also where that is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_launched: bool,
    /// Whether part of the log could not be stored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub logs_incomplete: bool,
    /// What the executor wants kept with the job.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metadata: Value,
}

impl Ended {
    /// An end without any numbers.
    pub fn bare(outcome: ReportedOutcome) -> Self {
        Self {
            outcome,
            execution_id: None,
            run_millis: None,
            startup_millis: None,
            max_memory_usage: None,
            cpu_usage_percent: None,
            not_launched: false,
            logs_incomplete: false,
            metadata: Value::Null,
        }
    }
}

/// [`Outcome`] on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ReportedOutcome {
    /// The container ran and ended.
    Exited {
        /// Its exit code; a signal is 128 + its number.
        exit_code: i32,
    },
    /// Anything else.
    Failed(Failure),
}

impl From<ReportedOutcome> for Outcome {
    fn from(outcome: ReportedOutcome) -> Self {
        match outcome {
            ReportedOutcome::Exited { exit_code } => Self::Exited(exit_code),
            ReportedOutcome::Failed(failure) => Self::Failed(failure),
        }
    }
}

impl From<Outcome> for ReportedOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Exited(exit_code) => Self::Exited { exit_code },
            Outcome::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// A nudge over `gantry.control`: saves a poll, and changes nothing if it is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "version")]
pub enum Control {
    /// Version 1.
    #[serde(rename = "1")]
    V1(Nudge),
}

/// Where a look is worth while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "nudge", rename_all = "snake_case")]
pub enum Nudge {
    /// Jobs were admitted or slots became free: dispatchers look.
    Dispatch {
        /// For these executor types.
        executors: Vec<ExecutorType>,
        /// Whether slots became free, and that is all: who knows that nobody waits for one need not look.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        only_slots: bool,
        /// The jobs that came into line, if that is all, and they are few. Who knows of slots for them that nobody else waits
        /// for moves them without a look.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        newcomers: Vec<Newcomer>,
    },
    /// Somebody asked for the end of running jobs: their workers look.
    Cancel {
        /// The jobs.
        jobs: Vec<JobId>,
    },
}

/// A job that came into line, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Newcomer {
    /// The job.
    pub job: JobId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Where it was routed.
    pub executor: ExecutorType,
    /// Its priority.
    pub priority: i16,
}

/// A public event: a CloudEvent 1.0 in structured mode, as `application/cloudevents+json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent {
    /// `1.0`.
    pub specversion: String,
    /// Stable: the same event published twice has the same id.
    pub id: EventId,
    /// `/gantry`.
    pub source: String,
    /// `gantry.job.started`, `.retrying`, `.completed`, `.failed`, `.timeout` or `.cancelled`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The job's id.
    pub subject: JobId,
    /// When it was committed, RFC 3339.
    pub time: String,
    /// `application/json`.
    pub datacontenttype: String,
    /// What happened.
    pub data: JobEvent,
}

/// The data of a public event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobEvent {
    /// The job.
    pub job_id: JobId,
    /// Its tenant.
    pub tenant_id: TenantId,
    /// Its name.
    pub name: String,
    /// Its status after the event.
    pub status: Status,
    /// Where it ran or was to run.
    pub executor_type: ExecutorType,
    /// The attempt it is about; 0 if there was none.
    pub attempt: i32,
    /// Grows with every event of the job; order by it.
    pub sequence: i32,
    /// The exit code, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// What an event is about; its order within an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The attempt's container runs.
    Started,
    /// The attempt failed, and the job waits for another.
    Retrying,
    /// The job ended.
    Ended(Status),
}

impl EventKind {
    /// The last part of the event's type and of its routing key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Retrying => "retrying",
            Self::Ended(status) => status.as_str(),
        }
    }

    /// The sequence of this event among all of its job: derived, so that nobody has to count.
    pub fn sequence(self, attempt: i32) -> i32 {
        attempt * 4
            + match self {
                Self::Started => 1,
                Self::Retrying => 2,
                Self::Ended(_) => 3,
            }
    }

    /// The id of this event: derived, so that it stays the same however often it is made.
    pub fn id(self, job: JobId, attempt: i32) -> EventId {
        Uuid::new_v5(&job.uuid(), &self.sequence(attempt).to_be_bytes()).into()
    }
}

/// Every contract by the name of its file in `docs/contracts/`.
pub fn schemas() -> Vec<(&'static str, schemars::Schema)> {
    vec![
        ("submission", schemars::schema_for!(crate::spec::Submission)),
        ("reply", schemars::schema_for!(Reply)),
        ("work", schemars::schema_for!(Work)),
        ("reports", schemars::schema_for!(Reports)),
        ("control", schemars::schema_for!(Control)),
        ("event", schemars::schema_for!(CloudEvent)),
    ]
}
