//! What becomes of an attempt whose container's end can never be confirmed, because its host does not come back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// The job's own policy for an attempt that is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// What to do. Default: wait until the host is back or somebody decides.
    pub action: Action,
    /// Seconds for which the attempt must have been out of reach, 10 to 604,800. Default 600. `wait` takes no notice.
    #[schemars(range(min = 10, max = 604_800))]
    pub after_seconds: u32,
}

impl Policy {
    /// Whether this is what a job without a policy has.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { action: Action::Wait, after_seconds: 600 }
    }
}

/// What to do with an attempt that is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Nothing: the host may come back, and its container may still run.
    #[default]
    Wait,
    /// End the attempt as `lost`; the infrastructure budget may pay for another one. The old container may still run.
    Retry,
    /// End the attempt as `lost`, and the job with it.
    Fail,
}

/// Who looks after an open attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// A live worker, which serves its host.
    Owned,
    /// A live worker, which does not reach its host now: the job stays as it is until the host is back.
    Unreachable,
    /// Nobody: its worker is gone, and no other has taken it.
    Unowned,
}

/// How an attempt is given up.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Abandon {
    /// The infrastructure budget decides whether there is another attempt.
    Retry,
    /// The job ends with it.
    Fail,
}
