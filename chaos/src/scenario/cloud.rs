//! Clouds by their doubles: they live in this process, and so outlive every worker that is killed. Their machines are a
//! Docker Engine, which tells what really ran.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use gantry_core::ExecutorType;
use gantry_double::Faults;
use gantry_executor_cloudrun::double as cloudrun;
use gantry_executor_fargate::double as fargate;
use gantry_executor_scaleway::double as scaleway;
use gantry_servers::Ministack;
use serde_json::{Value, json};

use super::engine::Engine;

/// The name of a worker's secret.
const SECRET: &str = "double";

/// Which cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cloud {
    Cloudrun,
    Fargate,
    Scaleway,
}

impl Cloud {
    pub(crate) fn executor_type(self) -> ExecutorType {
        match self {
            Self::Cloudrun => ExecutorType::Cloudrun,
            Self::Fargate => ExecutorType::Fargate,
            Self::Scaleway => ExecutorType::Scaleway,
        }
    }

    pub(crate) fn worker(self) -> &'static str {
        match self {
            Self::Cloudrun => "gantry-worker-cloudrun",
            Self::Fargate => "gantry-worker-fargate",
            Self::Scaleway => "gantry-worker-scaleway",
        }
    }

    /// Whether a worker says that it launches before it does: where a launch under one name may be another container.
    pub(crate) fn stores_launches(self) -> bool {
        self != Self::Cloudrun
    }

    /// Whether what is over stays for a while, and is removed by the cloud itself: ECS shows a stopped task for an hour.
    pub(crate) fn keeps_what_is_over(self) -> bool {
        self == Self::Fargate
    }

    /// Whether a launch is never repeated, so that one whose worker died between its note and its answer ends as lost.
    pub(crate) fn loses_launches(self) -> bool {
        self == Self::Scaleway
    }
}

/// A cloud as a host knows it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) cloud: Cloud,
    pub(crate) connection_config: Value,
    pub(crate) executor_config: Value,
    /// The folder of its workers' secrets.
    pub(crate) secrets: PathBuf,
    /// Its machines.
    pub(crate) engine: Engine,
}

/// A running double; it ends with the value.
pub(crate) enum Double {
    Cloudrun(cloudrun::Double),
    Fargate(fargate::Double, Ministack),
    Scaleway(scaleway::Double),
}

impl Double {
    /// Starts the double of a cloud on an engine, with what it keeps in `folder`.
    pub(crate) async fn start(cloud: Cloud, engine: &Engine, folder: &Path) -> anyhow::Result<(Self, Place)> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let docker = engine.endpoint();
        let secrets = folder.join("secrets");
        std::fs::create_dir_all(&secrets)?;
        let (double, connection_config, executor_config) = match cloud {
            Cloud::Cloudrun => {
                let double = cloudrun::Double::start(any, &docker, Faults::new(0)).await?;
                let url = double.url();
                let connection =
                    json!({ "project": "double", "region": "europe-west1", "endpoint": url, "anonymous": true });
                // Nothing here is slow, and nobody else shares the quota.
                let options = json!({ "log_delay_seconds": 1, "log_reads_per_minute": 100_000 });
                (Self::Cloudrun(double), connection, options)
            }
            Cloud::Fargate => {
                // Any will do.
                let keys = json!({ "access_key_id": "double", "secret_access_key": "double" });
                std::fs::write(secrets.join(SECRET), keys.to_string())?;
                let ministack = Ministack::start(folder, &docker).await?;
                let double = fargate::Double::start(any, &ministack.url()).await.context("the double of ECS")?;
                let mut connection = double.connection_config();
                connection["credentials"] = json!(SECRET);
                (Self::Fargate(double, ministack), connection, fargate::Double::executor_config())
            }
            Cloud::Scaleway => {
                std::fs::write(secrets.join(SECRET), scaleway::SECRET_KEY)?;
                let double = scaleway::Double::start(any, &docker, Faults::new(0)).await?;
                let url = double.url();
                let connection = json!({
                    "region": "fr-par", "project": scaleway::PROJECT, "credentials": SECRET, "api_url": url,
                    "logs": { "url": url, "settle_millis": 500 }, "visible_within_millis": 2_000,
                });
                (Self::Scaleway(double), connection, json!({}))
            }
        };
        let place = Place { cloud, connection_config, executor_config, secrets, engine: engine.clone() };
        Ok((double, place))
    }

    /// Ends it. Its containers end with the engine.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self {
            Self::Fargate(double, ministack) => {
                drop(double);
                ministack.stop().await?;
            }
            Self::Cloudrun(double) => drop(double),
            Self::Scaleway(double) => drop(double),
        }
        Ok(())
    }
}
