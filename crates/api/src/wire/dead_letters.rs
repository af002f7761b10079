//! What could not be processed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gantry_core::letter::State;
use gantry_core::{JobId, LetterId, LetterRequestId, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Data, schema};

/// A message that could not be processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Letter {
    /// The id: a UUIDv7, so that ids sort by first arrival.
    #[schema(value_type = Uuid)]
    pub id: LetterId,
    /// What has become of it.
    #[schema(value_type = schema::LetterState)]
    pub state: State,
    /// Whose it is; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub tenant: Option<TenantId>,
    /// The part that gave up on it: `dispatcher`, `worker`, `recorder`, or `rabbitmq` itself.
    pub origin: String,
    /// The queue that it was in, such as `gantry.submissions`; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Why, for programs: of a submission the code of its refusal, else `invalid_message`, `poison_report` or
    /// RabbitMQ's own word, such as `delivery_limit`.
    #[schema(example = "unknown_template")]
    pub reason: String,
    /// Why, for people.
    pub detail: String,
    /// The message's `message_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Length of its body, in bytes.
    pub body_bytes: i64,
    /// How often the same message came.
    pub arrivals: i32,
    /// When it came first.
    pub received_at: DateTime<Utc>,
    /// When it came last.
    pub last_received_at: DateTime<Utc>,
    /// How often it was replayed, refusals included.
    pub replays: i32,
    /// When it was last handed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<DateTime<Utc>>,
    /// The job that it made, or had made before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub replayed_as: Option<JobId>,
    /// Why its last replay was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_problem: Option<String>,
    /// When it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_at: Option<DateTime<Utc>>,
}

/// A dead letter with what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LetterDetail {
    /// The letter.
    #[serde(flatten)]
    pub letter: Letter,
    /// The message's `content_type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Its headers that are text or numbers, without credentials.
    pub headers: BTreeMap<String, String>,
    /// Whether the body was too long to be kept whole: what is here is its beginning, and it cannot be replayed.
    pub truncated: bool,
    /// Its body, as one field `text` or `base64`.
    pub body: Data,
}

/// A page of dead letters, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LetterList {
    /// The letters.
    pub letters: Vec<Letter>,
    /// Pass it as `before` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub next: Option<LetterId>,
}

/// Which of the letters that wait; what is left out restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LetterFilter {
    /// With this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// That this part gave up on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// That were in this queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// That last came at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
}

/// A request to replay dead letters: those named by `ids`, or those that match `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayRequest {
    /// These, at most 1,000; also such as were replayed before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Uuid>, max_items = 1_000)]
    pub ids: Vec<LetterId>,
    /// Those that wait and match it, oldest first; an empty one matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LetterFilter>,
    /// With a filter: so many at most, 1 to 10,000. Default 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: Option<i64>,
    /// So many in a second, 1 to 1,000. Default 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000)]
    pub rate_per_second: Option<u32>,
}

/// A request to drop dead letters: those named by `ids`, or those that match `filter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DropRequest {
    /// These, at most 1,000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Uuid>, max_items = 1_000)]
    pub ids: Vec<LetterId>,
    /// Those that wait and match it, oldest first; an empty one matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LetterFilter>,
    /// With a filter: so many at most, 1 to 10,000. Default 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: Option<i64>,
}

/// What a request about dead letters came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LettersReply {
    /// The request: list the letters with `request` to see what becomes of them.
    #[schema(value_type = Uuid)]
    pub request: LetterRequestId,
    /// Letters that it concerns.
    pub letters: usize,
    /// Whether more match than it concerns.
    pub more: bool,
    /// When the last of them is due to be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<DateTime<Utc>>,
}
