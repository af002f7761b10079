//! What a recorder must be told.

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
}

impl process::Config for Config {
    fn telemetry(&self) -> &telemetry::Config {
        &self.telemetry
    }
}
