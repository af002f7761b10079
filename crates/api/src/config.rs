//! What the API must be told; `deploy/config/api.example.toml` explains it.

use std::net::SocketAddr;

use gantry_runtime::{process, telemetry};
use serde::Deserialize;

/// The configuration of `gantry-api`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Postgres, as the role `gantry_api`, which row-level security holds.
    pub database: gantry_store::Config,
    /// RabbitMQ, where dispatchers and workers are nudged.
    pub broker: gantry_broker::Config,
    /// Where the API is served.
    #[serde(default)]
    pub http: Http,
    /// Logs, traces and metrics.
    #[serde(default)]
    pub telemetry: telemetry::Config,
}

impl process::Config for Config {
    fn telemetry(&self) -> &telemetry::Config {
        &self.telemetry
    }
}

/// Where the API is served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address and port; port 0 takes a free one. `/healthz`, `/readyz` and `/metrics` are served there too.
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)) }
    }
}
