//! Where a job would go.

use gantry_core::ExecutorType;
use gantry_core::why::Waiting;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Host, Limit, schema};

pub use gantry_core::routing::failover::Decision as RoutingDecision;
pub use gantry_core::routing::{Candidate as RoutingCandidate, Verdict as RoutingVerdict};

/// Where a job would go if it were submitted now, and what it would meet there. Nothing was submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouteExplanation {
    /// Where it would go.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// Why, in words.
    pub reason: String,
    /// Every executor, those that were considered first and in order, and what became of each.
    #[schema(value_type = Vec<schema::RoutingCandidate>)]
    pub candidates: Vec<RoutingCandidate>,
    /// Where it would go on, in order, if that place refused to launch it. Empty if it would be tried again there.
    #[schema(value_type = Vec<schema::ExecutorType>)]
    pub failover: Vec<ExecutorType>,
    /// The hosts of the executors that were considered.
    pub hosts: Vec<Host>,
    /// The limits that would count it.
    pub limits: Vec<Limit>,
    /// The cap of the tenant's backlog, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backlog: Option<BacklogCap>,
    /// What would be said of it right after it had come, in one sentence.
    pub summary: String,
    /// What would let it start, where something must be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What it would wait for, its place in line and when it may start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::WhyWaiting>)]
    pub waiting: Option<Waiting>,
    /// What one run of it is expected to cost, in the currency of the hosts' prices: on the cheapest active host of that
    /// executor type, for the mean time of its template's latest completed runs, else for its timeout. Absent if there is no
    /// such host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub estimated_cost: Option<Decimal>,
}

/// How many jobs of a tenant may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BacklogCap {
    /// The most: while so many wait, a submission is refused.
    pub max_pending: i32,
    /// Those that wait now, counted up to the most.
    pub waiting: i64,
}
