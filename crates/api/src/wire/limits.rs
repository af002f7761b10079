//! How many jobs of one kind may run at once.

use gantry_core::limits::Kind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// A limit to set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    /// What it counts: `template` or `key`.
    #[schema(value_type = schema::LimitKind)]
    pub kind: Kind,
    /// The name of the template, or the concurrency key.
    pub name: String,
    /// The most jobs that may run at once; any number if absent. Fewer than run now is allowed: nothing more is started
    /// until enough have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub max_running: Option<i32>,
}

/// A limit as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    /// What it counts.
    #[schema(value_type = schema::LimitKind)]
    pub kind: Kind,
    /// The name of the template, or the concurrency key; empty for the tenant as a whole.
    pub name: String,
    /// The most jobs that may run at once; any number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<i32>,
    /// What runs now.
    pub running: i32,
    /// Jobs that were held back by it and wait for it, counted up to 1,000. Those behind them in line are not counted.
    pub waiting: i64,
}

/// The limits of a tenant, by kind and name: the first 1,000.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitList {
    /// The limits.
    pub limits: Vec<Limit>,
}
