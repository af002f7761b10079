//! What is done to many jobs at once.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gantry_core::bulk::{Action, Filter, State};
use gantry_core::{BulkId, ExecutorType};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

pub use gantry_core::bulk::Done as BulkChange;

/// A request to do something to many jobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// What is done to each.
    #[schema(value_type = schema::BulkAction)]
    pub action: Action,
    /// To which jobs.
    #[serde(default)]
    #[schema(value_type = schema::BulkFilter)]
    pub filter: Filter,
    /// The new priority, -100 to 100; for `prioritise` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i16>,
    /// The new executor type; for `move` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ExecutorType>)]
    pub executor_type: Option<ExecutorType>,
    /// Only count what would be changed, and change nothing. Default false.
    #[serde(default)]
    pub dry_run: bool,
    /// Must be true where the filter names nothing: every job is meant that the action can change.
    #[serde(default)]
    pub all: bool,
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum BulkReply {
    /// To one that goes on: follow it by its id (202).
    Started(Box<BulkOperation>),
    /// To a dry run (200).
    Counted(BulkCount),
}

/// What a dry run found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkCount {
    /// Jobs that the filter meets.
    pub matched: i64,
    /// Those of them that would be changed.
    pub changed: i64,
    /// Those that would be left as they are, by reason.
    pub skipped: BTreeMap<String, i64>,
    /// Whether these are all: counting takes a few seconds at most.
    pub complete: bool,
}

/// Something that is done to many jobs, and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkOperation {
    /// The id: a UUIDv7, so that ids sort by time.
    #[schema(value_type = Uuid)]
    pub id: BulkId,
    /// What is done to each job.
    #[schema(value_type = schema::BulkAction)]
    pub action: Action,
    /// To which jobs. Jobs that were accepted after it are not meant.
    #[schema(value_type = schema::BulkFilter)]
    pub filter: Filter,
    /// The new priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i16>,
    /// The new executor type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::ExecutorType>)]
    pub executor_type: Option<ExecutorType>,
    /// Whether it goes on.
    #[schema(value_type = schema::BulkState)]
    pub state: State,
    /// Jobs that the filter met so far.
    pub matched: i64,
    /// Those of them that were changed.
    pub changed: i64,
    /// Those that were left as they are, by reason.
    pub skipped: BTreeMap<String, i64>,
    /// Who asked for it: `key:` and the id of the API key.
    pub actor: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was done or stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A page of operations, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BulkList {
    /// The operations.
    pub operations: Vec<BulkOperation>,
    /// Pass it as `before` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub next: Option<BulkId>,
}
