//! Schedules.

use chrono::{DateTime, Utc};
use gantry_core::schedule::{Missed, Outcome, Overlap};
use gantry_core::{JobId, ScheduleId, Status};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::schema;

/// A schedule to be made, or to replace the one of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSchedule {
    /// When it is due: minute, hour, day of the month, month and day of the week, or six fields with seconds first; or
    /// `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    #[schema(example = "30 2 * * 1-5")]
    pub cron: String,
    /// The IANA name of the time zone in which `cron` is read. Default `UTC`.
    #[serde(default = "utc")]
    #[schema(default = "UTC", example = "Europe/Paris")]
    pub time_zone: String,
    /// What becomes of due times that nobody looked at within 60 seconds: `skip` for no job, `one` for one job for all of
    /// them together, `all` for a job for each. Default `one`.
    #[serde(default)]
    #[schema(value_type = String, default = "one", example = "one")]
    pub missed: Missed,
    /// What becomes of a due time while a job of the schedule is pending or running: `allow` for a job beside it, `skip`
    /// for no job, `queue` for a job when it has ended. Default `allow`.
    #[serde(default)]
    #[schema(value_type = String, default = "allow", example = "skip")]
    pub overlap: Overlap,
    /// What is submitted at each due time: a submission as `POST /v1/jobs` takes it, without `idempotency_key` and
    /// `not_before`.
    #[schema(value_type = schema::Submission)]
    pub submission: Value,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// A schedule and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    /// The id.
    #[schema(value_type = Uuid)]
    pub id: ScheduleId,
    /// The name, unique in the tenant.
    pub name: String,
    /// When it is due.
    pub cron: String,
    /// The time zone in which `cron` is read.
    pub time_zone: String,
    /// What becomes of due times that were missed: `skip`, `one` or `all`.
    #[schema(value_type = String, example = "one")]
    pub missed: Missed,
    /// What becomes of due times while a job is open: `allow`, `skip` or `queue`.
    #[schema(value_type = String, example = "allow")]
    pub overlap: Overlap,
    /// What is submitted at each due time.
    #[schema(value_type = schema::Submission)]
    pub submission: Value,
    /// Since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_at: Option<DateTime<Utc>>,
    /// When it is due next. Absent while it is paused, or if it is never due again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_due_at: Option<DateTime<Utc>>,
    /// The last due time that was decided about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_due_at: Option<DateTime<Utc>>,
    /// The last job that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub last_job_id: Option<JobId>,
    /// Where that job stands. Absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Status>)]
    pub last_job_status: Option<Status>,
    /// Why the last due time made no job. Absent since one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_at: Option<DateTime<Utc>>,
    /// Due times that wait for an open job to end.
    pub waiting: i32,
    /// Who put it last: `key:` and the id of the API key.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last put, paused or resumed.
    pub updated_at: DateTime<Utc>,
}

/// A page of schedules, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleList {
    /// The schedules.
    pub schedules: Vec<Schedule>,
    /// Pass it as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What became of a due time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRun {
    /// The due time; for a run outside the calendar, when it was asked for.
    pub due_at: DateTime<Utc>,
    /// What became of it: `submitted`, `skipped_missed`, `skipped_overlap`, `queued_overlap` while it waits for an open
    /// job to end, or `refused`.
    #[schema(value_type = String, example = "submitted")]
    pub outcome: Outcome,
    /// The job that it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub job_id: Option<JobId>,
    /// Where that job stands. Absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Status>)]
    pub job_status: Option<Status>,
    /// Who asked for a run outside the calendar: `key:` and the id of the API key. Absent for a due time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggered_by: Option<String>,
    /// Why it made no job, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it was decided.
    pub created_at: DateTime<Utc>,
}

/// A page of the due times of a schedule, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleRunList {
    /// The due times.
    pub runs: Vec<ScheduleRun>,
    /// Pass it as `before` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<DateTime<Utc>>,
}
