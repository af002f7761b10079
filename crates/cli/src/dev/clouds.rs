//! Doubles of the clouds, for those who want to try routing without an account: they speak the clouds' protocols, and
//! their machines are the Docker Engine of this one. They forget their jobs when Gantry stops.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, bail};
use clap::ValueEnum;
use gantry_core::ExecutorType;
use gantry_double::Faults;
use gantry_executor_cloudrun::double as cloudrun;
use gantry_executor_fargate::double as fargate;
use gantry_executor_scaleway::double as scaleway;
use gantry_servers::Ministack;
use serde_json::{Value, json};

use super::folder::Folder;

/// The names under which workers find the credentials for doubles.
const AWS: &str = "double-fargate";
const SCALEWAY: &str = "double-scaleway";

/// A cloud that has a double.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cloud {
    /// Google Cloud Run Jobs
    Cloudrun,
    /// AWS ECS on Fargate; needs ministack, in the Python environment that GANTRY_PYTHON names
    Fargate,
    /// Scaleway Serverless Jobs
    Scaleway,
}

impl Cloud {
    pub(super) fn executor_type(self) -> ExecutorType {
        match self {
            Self::Cloudrun => ExecutorType::Cloudrun,
            Self::Fargate => ExecutorType::Fargate,
            Self::Scaleway => ExecutorType::Scaleway,
        }
    }
}

/// The doubles that run.
#[derive(Default)]
pub(super) struct Clouds {
    cloudrun: Option<cloudrun::Double>,
    fargate: Option<(fargate::Double, Ministack)>,
    scaleway: Option<scaleway::Double>,
}

/// A host at a double.
pub(super) struct CloudHost {
    pub(super) name: String,
    pub(super) executor_type: ExecutorType,
    /// Where the double answers, and takes faults at `/_faults`.
    pub(super) url: String,
    pub(super) connection: Value,
    pub(super) options: Value,
}

impl Clouds {
    /// Starts the doubles of these clouds, with containers on the engine at `docker`. Each keeps its port, so that its
    /// host's row stays true.
    pub(super) async fn start(which: &[Cloud], folder: &Folder, docker: &str) -> anyhow::Result<Self> {
        let mut clouds = Self::default();
        match clouds.start_all(which, folder, docker).await {
            Ok(()) => Ok(clouds),
            Err(error) => {
                // Why one did not start is the better story than what went wrong afterwards.
                let _ = clouds.stop().await;
                Err(error)
            }
        }
    }

    async fn start_all(&mut self, which: &[Cloud], folder: &Folder, docker: &str) -> anyhow::Result<()> {
        for cloud in which {
            let at = listen(folder.path(), *cloud)?;
            match cloud {
                Cloud::Cloudrun => self.cloudrun = Some(cloudrun::Double::start(at, docker, Faults::new(0)).await?),
                Cloud::Scaleway => {
                    folder.write_secret(SCALEWAY, scaleway::SECRET_KEY)?;
                    self.scaleway = Some(scaleway::Double::start(at, docker, Faults::new(0)).await?);
                }
                Cloud::Fargate => {
                    // Any will do.
                    folder.write_secret(AWS, r#"{"access_key_id": "double", "secret_access_key": "double"}"#)?;
                    let ministack = Ministack::start(folder.path(), docker).await?;
                    match fargate::Double::start(at, &ministack.url()).await {
                        Ok(double) => self.fargate = Some((double, ministack)),
                        Err(error) => {
                            ministack.stop().await?;
                            bail!("the double of ECS: {error}");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// The hosts at the doubles.
    pub(super) fn hosts(&self) -> Vec<CloudHost> {
        let host = |cloud: Cloud, url: String, connection, options| {
            let executor_type = cloud.executor_type();
            CloudHost { name: format!("double-{executor_type}"), executor_type, url, connection, options }
        };
        let cloudrun = self.cloudrun.as_ref().map(|double| {
            let connection =
                json!({ "project": "double", "region": "europe-west1", "endpoint": double.url(), "anonymous": true });
            // Nothing here is slow, and nobody else shares the quota.
            let options = json!({ "log_delay_seconds": 1, "log_reads_per_minute": 100_000 });
            host(Cloud::Cloudrun, double.url(), connection, options)
        });
        let fargate = self.fargate.as_ref().map(|(double, _)| {
            let mut connection = double.connection_config();
            connection["credentials"] = json!(AWS);
            host(Cloud::Fargate, double.url(), connection, fargate::Double::executor_config())
        });
        let scaleway = self.scaleway.as_ref().map(|double| {
            let connection = json!({
                "region": "fr-par", "project": scaleway::PROJECT, "credentials": SCALEWAY, "api_url": double.url(),
                "logs": { "url": double.url(), "settle_millis": 500 }, "visible_within_millis": 2_000,
            });
            host(Cloud::Scaleway, double.url(), connection, json!({}))
        });
        [cloudrun, fargate, scaleway].into_iter().flatten().collect()
    }

    /// Stops them all, with their containers.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let cloudrun = match self.cloudrun {
            Some(double) => double.remove_containers().await.map_err(anyhow::Error::msg),
            None => Ok(()),
        };
        let scaleway = match self.scaleway {
            Some(double) => double.end().await.map_err(anyhow::Error::from),
            None => Ok(()),
        };
        if let Some((double, ministack)) = self.fargate {
            drop(double);
            ministack.stop().await?;
        }
        cloudrun.and(scaleway)
    }
}

/// The port that a double had at its last start, if it is still free.
fn listen(data: &Path, cloud: Cloud) -> anyhow::Result<SocketAddr> {
    let file = data.join(format!("double-{}.port", cloud.executor_type()));
    let port = gantry_servers::kept_port(&file).with_context(|| format!("the double of {}", cloud.executor_type()))?;
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}
