//! The clients of a cluster, and what this process remembers of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, future};
use aws_sdk_ecs::types::{Cluster, ClusterField};
use aws_smithy_http_client::tls::Provider::Rustls;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass};
use gantry_worker::secrets::{ExposeSecret, Secrets};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::config::Connection;
use crate::definition::Definitions;
use crate::error::Trouble;
use crate::pace::Pace;
use crate::since::Since;

/// How long a request may take, its repetitions included; and one of them.
const OPERATION: Duration = Duration::from_secs(15);
const ATTEMPT: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(3);
/// The first pause before a read is repeated.
const BACKOFF: Duration = Duration::from_millis(200);
/// How soon a secret that was changed counts.
const CREDENTIALS_LAST: Duration = Duration::from_secs(300);

/// One cluster, reached in one way.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) ecs: aws_sdk_ecs::Client,
    pub(crate) logs: aws_sdk_cloudwatchlogs::Client,
    pub(crate) definitions: Definitions,
    pub(crate) memory: Memory,
    pace: OnceCell<Arc<Pace>>,
}

/// What this process remembers of names and tasks.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Names that nothing is known of, from when they were first asked for.
    pub(crate) absent: Since,
    /// Tasks that this process launched or adopted.
    pub(crate) launched: Since,
    /// Tasks that ECS says it does not have.
    pub(crate) missing: Since,
    /// Tasks that were seen before their end.
    pub(crate) alive: Since,
    /// Tasks whose end was seen.
    pub(crate) ended: Since,
    /// Ended tasks that need not be told of any more.
    pub(crate) removed: Since,
}

impl Client {
    async fn connect(connection: Connection, secrets: &Secrets) -> Self {
        let http = aws_smithy_http_client::Builder::new().tls_provider(Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT)
            .operation_timeout(OPERATION)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(connection.region.clone()))
            .http_client(http)
            .timeout_config(timeouts)
            // For reads, and for requests that may be repeated. A launch goes without.
            .retry_config(RetryConfig::standard().with_initial_backoff(BACKOFF));
        if let Some(name) = &connection.credentials {
            loader = loader.credentials_provider(Named { name: name.clone(), secrets: secrets.clone() });
        }
        if let Some(url) = &connection.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        let config = loader.load().await;
        Self {
            ecs: aws_sdk_ecs::Client::new(&config),
            logs: aws_sdk_cloudwatchlogs::Client::new(&config),
            definitions: Definitions::default(),
            memory: Memory::default(),
            pace: OnceCell::new(),
            connection,
        }
    }

    /// The cluster as it is now. A failure if it cannot run anything.
    pub(crate) async fn cluster(&self) -> Result<Cluster, Failure> {
        let name = &self.connection.cluster;
        let described = self.ecs.describe_clusters().clusters(name).include(ClusterField::Settings).send().await;
        let described = described.map_err(|error| Trouble::of("DescribeClusters", &error).failure())?;
        let refuse = |why: String| Failure::new(FailureClass::BackendError, why);
        let Some(cluster) = described.clusters.unwrap_or_default().into_iter().next() else {
            return Err(refuse(format!("there is no cluster {name} in {}", self.connection.region)));
        };
        match cluster.status.as_deref() {
            Some("ACTIVE") => Ok(cluster),
            status => {
                Err(refuse(format!("the cluster {name} is {}, not ACTIVE", status.unwrap_or("in no known state"))))
            }
        }
    }

    /// The buckets of the cluster's account and region. The account is known by the cluster's ARN.
    pub(crate) async fn pace(&self) -> Result<&Pace, Failure> {
        let find = async || {
            let arn = self.cluster().await?.cluster_arn.unwrap_or_default();
            let account = arn.split(':').nth(4).unwrap_or_default().to_owned();
            Ok::<_, Failure>(Pace::of(&format!("{account}/{}", self.connection.region)))
        };
        Ok(self.pace.get_or_try_init(find).await?.as_ref())
    }
}

/// The clients of all hosts asked about so far. Hosts with one connection config share a client.
#[derive(Default)]
pub(crate) struct Clients {
    secrets: Secrets,
    all: Mutex<HashMap<Connection, Arc<OnceCell<Client>>>>,
}

/// A host's client.
pub(crate) struct Connected(Arc<OnceCell<Client>>);

impl Clients {
    pub(crate) fn with(secrets: Secrets) -> Self {
        Self { secrets, all: Mutex::default() }
    }

    pub(crate) async fn of(&self, host: &Host) -> Result<Connected, Failure> {
        let connection = Connection::of(host)?;
        let cell = {
            let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(connection.clone()).or_default())
        };
        cell.get_or_init(|| Client::connect(connection, &self.secrets)).await;
        Ok(Connected(cell))
    }
}

impl std::ops::Deref for Connected {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0.get().expect("it was made before this value was")
    }
}

/// Credentials from a secret of the worker.
#[derive(Debug)]
struct Named {
    name: String,
    secrets: Secrets,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl ProvideCredentials for Named {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(self.read())
    }
}

impl Named {
    fn read(&self) -> provider::Result {
        let text = self.secrets.resolve(&self.name).map_err(CredentialsError::not_loaded)?;
        // Not with the parser's own words, which may quote the text.
        let keys: Keys = serde_json::from_str(text.expose_secret()).map_err(|_| {
            let shape = r#"{"access_key_id": …, "secret_access_key": …, "session_token": … or absent}"#;
            CredentialsError::invalid_configuration(format!("the secret {:?} is not credentials: {shape}", self.name))
        })?;
        let until = SystemTime::now() + CREDENTIALS_LAST;
        Ok(Credentials::new(keys.access_key_id, keys.secret_access_key, keys.session_token, Some(until), "gantry"))
    }
}
