//! What operators do to hosts, and who holds their slots.

use chrono::{DateTime, Utc};
use gantry_core::lost::Condition;
use gantry_core::{HostId, JobId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// A request to empty a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Stop what runs there and try it again elsewhere; else it runs to its end. Default false.
    #[serde(default, rename = "move")]
    pub moves: bool,
}

/// A change of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostPatch {
    /// The most jobs that it runs at once.
    #[schema(minimum = 0)]
    pub max_concurrent_jobs: i32,
}

/// The answer to what an operator asked of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostReply {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Slots in use. With a lost host: attempts that are given up now.
    pub slots: i32,
}

/// A slot that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Slot {
    /// The host's name.
    pub host: String,
    /// The job.
    #[schema(value_type = Uuid)]
    pub job: JobId,
    /// The job's name.
    pub name: String,
    /// The attempt, from 1.
    pub attempt: i32,
    /// Since when: the claim.
    pub since: DateTime<Utc>,
    /// When its container was seen running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// Whether its end was asked for.
    pub stopping: bool,
    /// Who looks after it.
    #[schema(value_type = schema::Condition)]
    pub condition: Condition,
}

/// The slots that are held, by host and by age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotList {
    /// The slots.
    pub slots: Vec<Slot>,
}
