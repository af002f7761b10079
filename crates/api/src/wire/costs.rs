//! What jobs cost. Money is in the operator's currency: the one of the hosts' prices.

use chrono::{DateTime, NaiveDate, Utc};
use gantry_core::cost::By;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// A page of costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CostList {
    /// What each line is of.
    #[schema(value_type = schema::CostBy)]
    pub by: By,
    /// The first day in UTC that counts.
    pub since: NaiveDate,
    /// The last.
    pub until: NaiveDate,
    /// The lines: by id, and jobs by their end, latest first.
    pub costs: Vec<Cost>,
    /// What to give as `after` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What attempts came to that ended within these days; of a job, all of its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cost {
    /// The id of the tenant, template, host or job, or the executor type. Absent for jobs without a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Its name. Absent for jobs without a template, and where it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Attempts that ended.
    pub runs: i64,
    /// Those of them that completed.
    pub completed: i64,
    /// Those that did not, whatever the reason.
    pub failed: i64,
    /// Those that were launched and whose backend told no times: what they cost is not known, and in no sum.
    pub untimed: i64,
    /// How long the attempts ran together, in milliseconds.
    pub run_millis: i64,
    /// What they cost together. Absent for a job of which that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cost: Option<Decimal>,
    /// The part of it that those cost which did not complete.
    #[schema(value_type = String)]
    pub failed_cost: Decimal,
    /// What the jobs that ended with one of these attempts had been expected to cost, each of them once. Absent for a job
    /// without an estimate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub estimated_cost: Option<Decimal>,
    /// When the job's end was recorded; only of jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
}
