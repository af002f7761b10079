//! The clients of one host's region, and what this process remembers of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass, HostId};
use gantry_worker::secrets::Secrets;
use google_cloud_auth::credentials::Credentials;
use google_cloud_gax::client_builder::{self, ClientBuilder};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_logging_v2::client::LoggingServiceV2;
use google_cloud_run_v2::client::{Executions, Jobs, Tasks};
use tokio::sync::OnceCell;

use crate::config::Connection;
use crate::credentials;
use crate::pace::Pace;
use crate::sightings::Sightings;

/// Where Cloud Run answers, unless a host says otherwise.
const GOOGLE: &str = "https://run.googleapis.com";

/// One region of one project.
pub(crate) struct Region {
    pub(crate) connection: Connection,
    secrets: Secrets,
    clients: OnceCell<Clients>,
    pub(crate) names: Sightings,
    pub(crate) log_reads: Pace,
}

/// The clients of the APIs' parts, with one set of credentials.
pub(crate) struct Clients {
    pub(crate) jobs: Jobs,
    pub(crate) executions: Executions,
    pub(crate) tasks: Tasks,
    pub(crate) logging: LoggingServiceV2,
}

impl Region {
    fn new(connection: Connection, secrets: Secrets) -> Self {
        Self { connection, secrets, clients: OnceCell::new(), names: Sightings::default(), log_reads: Pace::new() }
    }

    /// The clients. Nothing is sent yet: this fails only on what the worker itself lacks, such as a key.
    pub(crate) async fn clients(&self) -> Result<&Clients, Failure> {
        self.clients.get_or_try_init(async || Clients::of(&self.connection, &self.secrets).await).await
    }

    /// The region and where it is asked for: a double has the name of a region that exists.
    pub(crate) fn identity(&self) -> String {
        let endpoint = self.connection.endpoint.as_deref().unwrap_or(GOOGLE);
        format!("{}/{}", endpoint.trim_end_matches('/'), self.connection.parent())
    }
}

impl Clients {
    async fn of(connection: &Connection, secrets: &Secrets) -> Result<Self, Failure> {
        let credentials = credentials::of(connection, secrets)?;
        let run = connection.endpoint.as_deref();
        let logging = connection.logging_endpoint.as_deref().or(run.filter(|_| connection.anonymous));
        let build = async || -> client_builder::Result<Self> {
            Ok(Self {
                jobs: configured(Jobs::builder(), run, &credentials).build().await?,
                executions: configured(Executions::builder(), run, &credentials).build().await?,
                tasks: configured(Tasks::builder(), run, &credentials).build().await?,
                logging: configured(LoggingServiceV2::builder(), logging, &credentials).build().await?,
            })
        };
        build().await.map_err(|error| Failure::new(FailureClass::BackendError, format!("Google's client: {error}")))
    }
}

/// Every request is sent once. Whether one may be repeated is the engine's to decide, which knows the attempt's lease
/// and deadline; and a repetition in the client could meet the Job of the first request and call it somebody else's.
fn configured<F>(
    builder: ClientBuilder<F, Credentials>,
    endpoint: Option<&str>,
    credentials: &Credentials,
) -> ClientBuilder<F, Credentials> {
    let builder = builder.with_retry_policy(NeverRetry).with_credentials(credentials.clone());
    match endpoint {
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    }
}

/// The regions of all hosts asked about so far.
#[derive(Default)]
pub(crate) struct Regions {
    secrets: Secrets,
    all: Mutex<HashMap<HostId, Arc<Region>>>,
}

impl Regions {
    pub(crate) fn with(secrets: Secrets) -> Self {
        Self { secrets, all: Mutex::default() }
    }

    /// The host's region; a new one when the host's connection config has changed.
    pub(crate) fn of(&self, host: &Host) -> Result<Arc<Region>, Failure> {
        let connection = Connection::of(host)?;
        let mut regions = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(region) = regions.get(&host.id)
            && region.connection == connection
        {
            return Ok(Arc::clone(region));
        }
        let region = Arc::new(Region::new(connection, self.secrets.clone()));
        regions.insert(host.id, Arc::clone(&region));
        Ok(region)
    }
}
