//! The connections to the engines, one per host, and what this process remembers of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass, HostId};
use gantry_worker::secrets::Secrets;

use crate::changes::Changes;
use crate::connection::{Connection, Endpoint};
use crate::disk::Disk;
use crate::image::Images;
use crate::logs::Readers;
use crate::observe::Asks;
use crate::ssh::Tunnel;
use crate::stop::Stops;
use crate::usage::Usage;
use crate::{error, tls};

/// How long the engine may take to begin its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// One engine.
pub(crate) struct Engine {
    connection: Connection,
    pub(crate) asks: Asks,
    pub(crate) secrets: Secrets,
    link: tokio::sync::Mutex<Option<Link>>,
    pub(crate) changes: Changes,
    pub(crate) disk: Disk,
    pub(crate) images: Images,
    pub(crate) readers: Readers,
    pub(crate) stops: Stops,
    pub(crate) usage: Usage,
}

/// A way to an engine that has answered.
struct Link {
    docker: Docker,
    tunnel: Option<Tunnel>,
}

impl Engine {
    fn new(connection: Connection, secrets: Secrets) -> Self {
        Self {
            connection,
            asks: Asks::default(),
            secrets,
            link: tokio::sync::Mutex::default(),
            changes: Changes::default(),
            disk: Disk::default(),
            images: Images::default(),
            readers: Readers::default(),
            stops: Stops::default(),
            usage: Usage::default(),
        }
    }

    /// The client, which speaks the version that the engine knows. While the engine is away this fails with
    /// `host_unreachable`; nothing but the question for its version was sent then.
    pub(crate) async fn docker(&self) -> Result<Docker, Failure> {
        // Held while it connects: the others wait for the one connection that they all want.
        let mut link = self.link.lock().await;
        if let Some(link) = &mut *link
            && link.tunnel.as_mut().is_none_or(Tunnel::is_open)
        {
            return Ok(link.docker.clone());
        }
        *link = None;
        let made = self.connect().await?;
        Ok(link.insert(made).docker.clone())
    }

    /// Connects anew the next time: certificates and keys may have been replaced. A tunnel stays, which notices by itself
    /// that it is dead, and which others may be using.
    pub(crate) async fn reconnect(&self) {
        self.link.lock().await.take_if(|link| link.tunnel.is_none());
    }

    /// Whether the engine runs on this machine, as far as its address tells.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.connection.endpoint(), Ok(Endpoint::Unix(_)))
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let failure = |error: &Error| error::failure(&self.connection.endpoint, error);
        let unix = |path: &str| Docker::connect_with_unix(path, REQUEST_TIMEOUT.as_secs(), API_DEFAULT_VERSION);
        let endpoint = self.connection.endpoint().map_err(|error| Failure::new(FailureClass::BackendError, error))?;
        let mut tunnel = None;
        let docker = match (endpoint, &self.connection.tls) {
            (Endpoint::Unix(path), _) => unix(path).map_err(|error| failure(&error))?,
            (Endpoint::Tcp(address), Some(tls)) => tls::client(address, tls, &self.secrets, REQUEST_TIMEOUT.as_secs())?,
            (Endpoint::Tcp(address), None) => {
                Docker::connect_with_http(address, REQUEST_TIMEOUT.as_secs(), API_DEFAULT_VERSION)
                    .map_err(|error| failure(&error))?
            }
            (Endpoint::Ssh(address), _) => {
                let ssh = self.connection.ssh.clone().unwrap_or_default();
                let opened = tunnel.insert(Tunnel::open(&address, &ssh, &self.secrets).await?);
                unix(&opened.socket().to_string_lossy()).map_err(|error| failure(&error))?
            }
        };
        let docker = docker.negotiate_version().await.map_err(|error| failure(&error))?;
        Ok(Link { docker, tunnel })
    }

    /// Forgets what is only of use while the container exists.
    pub(crate) fn forget(&self, id: &str) {
        self.asks.forget(id);
        self.readers.forget(id);
        self.stops.forget(id);
        self.usage.forget(id);
    }
}

/// The engines of all hosts asked about so far.
#[derive(Default)]
pub(crate) struct Engines {
    secrets: Secrets,
    engines: Mutex<HashMap<HostId, Arc<Engine>>>,
}

impl Engines {
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self { secrets, engines: Mutex::default() }
    }

    /// The host's engine; a new one when the host's connection config has changed.
    pub(crate) fn of(&self, host: &Host) -> Result<Arc<Engine>, Failure> {
        let connection = Connection::of(host)?;
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&host.id)
            && engine.connection == connection
        {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Engine::new(connection, self.secrets.clone()));
        engines.insert(host.id, Arc::clone(&engine));
        Ok(engine)
    }
}
