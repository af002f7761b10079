//! A tenant's work at a glance.

use chrono::{DateTime, Utc};
use gantry_core::{ExecutorType, FailureClass, JobId, Status, WaitingReason};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Host, schema};

/// What waits, what runs, what ended lately, and the hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// When it was so.
    pub at: DateTime<Utc>,
    /// Pending jobs, by executor type and reason.
    pub backlog: Vec<BacklogGroup>,
    /// Running jobs, by executor type.
    pub running: Vec<RunningGroup>,
    /// The hosts that the tenant's jobs may run on, by name. Their slots may be held by other tenants' jobs.
    pub hosts: Vec<Host>,
    /// How fast it goes.
    pub rates: OverviewRates,
    /// The last ten jobs that ended, latest first.
    pub recent: Vec<RecentEnd>,
}

/// Pending jobs with one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BacklogGroup {
    /// Where they were routed.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// What they wait for.
    #[schema(value_type = schema::WaitingReason)]
    pub reason: WaitingReason,
    /// How many, counted up to 10,000.
    pub jobs: i64,
    /// Whether there are more.
    pub more: bool,
}

/// Running jobs of one executor type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunningGroup {
    /// Where they run.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// How many hold a slot.
    pub jobs: i64,
    /// Those of them whose container has not been seen running yet.
    pub starting: i64,
}

/// How fast it goes, over two times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OverviewRates {
    /// Over the last minute.
    pub minute: Rates,
    /// Over the last five minutes.
    pub five_minutes: Rates,
}

/// What happened per second. Of the ends of that time the last 5,000 are counted: with more of them, over a shorter time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rates {
    /// Containers that started.
    pub started_per_second: f64,
    /// Jobs that completed.
    pub completed_per_second: f64,
    /// Jobs that failed, or ran or waited too long.
    pub failed_per_second: f64,
    /// Jobs that were cancelled.
    pub cancelled_per_second: f64,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecentEnd {
    /// The job.
    #[schema(value_type = Uuid)]
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// How it ended.
    #[schema(value_type = schema::Status)]
    pub status: Status,
    /// Where it was routed.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// The host of its last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The exit code of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::FailureClass>)]
    pub failure_class: Option<FailureClass>,
    /// When it first started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    pub completed_at: DateTime<Utc>,
}
