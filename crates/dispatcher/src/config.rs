//! What a dispatcher must be told.

use std::time::Duration;

use gantry_runtime::{process, serve, telemetry};
use serde::Deserialize;

/// The configuration of the process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Postgres, as the role `gantry_fleet`.
    pub database: gantry_store::Config,
    /// RabbitMQ.
    pub broker: gantry_broker::Config,
    /// Logs, traces, metrics.
    #[serde(default)]
    pub telemetry: telemetry::Config,
    /// Health and metrics over HTTP.
    #[serde(default)]
    pub serve: serve::Config,
    /// The dispatcher itself.
    #[serde(default)]
    pub dispatcher: Settings,
}

impl process::Config for Config {
    fn telemetry(&self) -> &telemetry::Config {
        &self.telemetry
    }
}

/// How a dispatcher works.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Submissions admitted in one transaction at most. Default 500.
    pub intake_batch: usize,
    /// Milliseconds after which the backlog is looked at even if nobody nudged. Default 500.
    pub poll_millis: u64,
    /// Milliseconds between two upkeep passes. Default 1,000.
    pub upkeep_millis: u64,
    /// Milliseconds between two looks at the fleet for its metrics. Default 3,000.
    pub observe_millis: u64,
    /// Dispatched jobs per free slot. Default 1.
    pub window_factor: f64,
    /// Whether dead letters are taken out of `gantry.dead` into the database, where `gantry dlq` has them. Off where
    /// tools of your own drain that queue. Default true.
    pub store_dead_letters: bool,
    /// Seconds for which jobs are kept after their end where their tenant says nothing else; 0 for ever. Default
    /// 2,592,000: 30 days.
    pub retain_jobs_seconds: u64,
    /// Seconds for which logs are kept after their job's end, and never longer than the job; 0 as long as the job.
    /// Default 604,800: 7 days.
    pub retain_logs_seconds: u64,
    /// Milliseconds between two looks for what was kept long enough. Default 60,000.
    pub retention_millis: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            intake_batch: 500,
            poll_millis: 500,
            upkeep_millis: 1_000,
            observe_millis: 3_000,
            window_factor: 1.0,
            store_dead_letters: true,
            retain_jobs_seconds: 30 * 86_400,
            retain_logs_seconds: 7 * 86_400,
            retention_millis: 60_000,
        }
    }
}

impl Settings {
    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_millis)
    }

    pub(crate) fn observe(&self) -> Duration {
        Duration::from_millis(self.observe_millis)
    }

    pub(crate) fn retention(&self) -> Duration {
        Duration::from_millis(self.retention_millis)
    }

    pub(crate) fn upkeep(&self) -> Duration {
        Duration::from_millis(self.upkeep_millis)
    }
}
