//! What a pending job waits for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// The closed set of reasons. Stored when a row is parked, else computed when somebody looks.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
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
pub enum WaitingReason {
    /// Its turn has come or is next; a worker will claim it in a moment.
    Dispatching,
    /// The last attempt failed; the next one comes after a pause.
    RetryBackoff,
    /// The producer asked for a later start.
    NotBefore,
    /// Every host that may run it is full.
    HostFull,
    /// Its hosts are cordoned, draining, or fail their health checks.
    HostUnavailable,
    /// No host of its executor type takes this tenant's jobs.
    NoHost,
    /// There are hosts, but no live worker serves them.
    NoWorker,
    /// The tenant runs as many jobs as it may.
    TenantLimit,
    /// The template runs as many jobs as it may.
    TemplateLimit,
    /// Another job with its concurrency key runs.
    KeyLimit,
    /// The tenant's budget is used up.
    Budget,
    /// A job that it depends on has not ended.
    Dependency,
}

impl WaitingReason {
    /// The name used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
