//! Giving up what can never be confirmed, and who did it.

use chrono::{DateTime, Utc};
use gantry_core::lost::{Abandon, Condition};
use gantry_core::{AuditId, JobId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::schema;

/// Who looks after an open attempt, and if nobody can, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Standing {
    /// In a word.
    #[schema(value_type = schema::Condition)]
    pub condition: Condition,
    /// Since when it has been out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Why it is; empty for one that is owned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// That an attempt was given up before its end was confirmed: its container may still run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Abandoned {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom: `key:` and the id of an API key, `host lost`, or `on_lost` for the job's own policy.
    pub by: String,
    /// Whether the job may be tried again.
    #[schema(value_type = schema::Abandon)]
    pub how: Abandon,
}

/// A request to give a job's open attempt up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AbandonRequest {
    /// Must be true: nobody makes sure that the container is gone, so it may run beside whatever comes next.
    #[serde(default)]
    pub force: bool,
    /// Let the infrastructure budget try the job again; else it ends as `failed`. Default false.
    #[serde(default)]
    pub retry: bool,
}

/// The answer to it (202).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AbandonReply {
    /// The job.
    #[schema(value_type = Uuid)]
    pub id: JobId,
    /// The attempt that is given up; its end is recorded soon.
    pub attempt: i32,
    /// Whether somebody had given it up before.
    pub already: bool,
}

/// A request to declare a host lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostLostRequest {
    /// Also if a live worker reaches it: what runs there runs on until the orphan reaper stops it. Default false.
    #[serde(default)]
    pub force: bool,
}

/// What an operator did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// The id: a UUIDv7, so that ids sort by time.
    #[schema(value_type = Uuid)]
    pub id: AuditId,
    /// When.
    pub at: DateTime<Utc>,
    /// Who: `key:` and the id of the API key.
    pub actor: String,
    /// What: `host_activated`, `host_cordoned`, `host_drained`, `host_limited`, `host_lost`, `job_abandoned`,
    /// `letters_replayed` or `letters_dropped`.
    pub action: String,
    /// The id of the host or job, or of the request about dead letters.
    pub subject: String,
    /// What else is worth knowing.
    pub detail: Value,
}

/// A page of what operators did, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditList {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Pass it as `before` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub next: Option<AuditId>,
}
