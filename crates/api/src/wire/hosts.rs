//! Executor hosts.

use chrono::{DateTime, Utc};
use gantry_core::capacity::Condition;
use gantry_core::host::State;
use gantry_core::{ExecutorType, HostId};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::schema;

/// A place that runs containers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// The id.
    #[schema(value_type = Uuid)]
    pub id: HostId,
    /// The name, unique per owner.
    pub name: String,
    /// The kind of backend.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// Whether it serves every tenant; else it is the tenant's own.
    pub shared: bool,
    /// Whether it takes part at all.
    pub is_active: bool,
    /// What an operator allows: `active` for new jobs, `cordoned` for none, `draining` for none until it is empty,
    /// `lost` for one that does not come back.
    #[schema(value_type = String, example = "active")]
    pub state: State,
    /// The most jobs that it runs at once.
    pub max_concurrent_jobs: i32,
    /// The jobs that hold one of its slots now.
    pub current_job_count: i32,
    /// Slots that are free: 0 where more are held than there are.
    pub available_slots: i32,
    /// Slots that are held, of all of them, in percent to one decimal; absent for a host without slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization_percent: Option<f64>,
    /// Whether it takes jobs: `ready`, or why not: `full`, `inactive`, `cordoned`, `draining`, `lost`, `unreached`.
    #[schema(value_type = String, example = "ready")]
    pub condition: Condition,
    /// Why jobs wait for it, in one sentence. What a check of it said is told to operators and to its owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when no live worker reaches it, if one ever tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreached_since: Option<DateTime<Utc>>,
    /// Live workers that reach it and serve it; without one no job starts here.
    pub workers: i64,
    /// From the launch request to a running container, on average, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_startup_seconds: Option<f64>,
    /// When a worker last asked how it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_health_check: Option<DateTime<Utc>>,
    /// Health checks that failed in a row.
    pub health_check_failures: i32,
    /// How to reach it; its shape is the executor's own. Shown to operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_config: Option<Value>,
    /// How to run things there; its shape is the executor's own. Shown to operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor_config: Option<Value>,
}

/// The hosts that a tenant's jobs may run on: the shared ones and its own, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostList {
    /// The hosts.
    pub hosts: Vec<Host>,
}

/// A host to be added. Operators only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    /// The name, unique per owner, up to 255 characters.
    #[schema(min_length = 1, max_length = 255)]
    pub name: String,
    /// The kind of backend.
    #[schema(value_type = schema::ExecutorType)]
    pub executor_type: ExecutorType,
    /// How to reach it, such as `{"endpoint": "unix:///var/run/docker.sock"}` for docker; its shape is the executor's own.
    /// Credentials are named here and resolved by the worker, never written down.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub connection_config: Map<String, Value>,
    /// How to run things there; its shape is the executor's own.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub executor_config: Map<String, Value>,
    /// The most jobs that it runs at once. Default 10.
    #[serde(default = "default_max_concurrent_jobs")]
    #[schema(minimum = 0, default = 10)]
    pub max_concurrent_jobs: i32,
    /// The price of one start, not negative, in a currency of your choice. Default 0.
    #[serde(default)]
    #[schema(value_type = String, default = "0")]
    pub cost_per_job: Decimal,
    /// The price of one hour of a running container, not negative, in the same currency. Default 0.
    #[serde(default)]
    #[schema(value_type = String, default = "0")]
    pub cost_per_hour: Decimal,
    /// Whether it serves every tenant; else only the tenant of the key. Default false.
    #[serde(default)]
    pub shared: bool,
}

fn default_max_concurrent_jobs() -> i32 {
    10
}

/// The answer to a new host (201).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostCreated {
    /// Its id.
    #[schema(value_type = Uuid)]
    pub id: HostId,
    /// Its name.
    pub name: String,
}
