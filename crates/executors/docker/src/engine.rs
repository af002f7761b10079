//! The connections to the engines, one per host, and what this process remembers of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass, HostId};
use gantry_worker::secrets::Secrets;

use crate::changes::Changes;
use crate::connection::{Connection, Endpoint};
use crate::disk::Disk;
use crate::doubts::Doubts;
use crate::image::Images;
use crate::logs::Readers;
use crate::observe::Asks;
use crate::ssh::Tunnel;
use crate::stop::Stops;
use crate::usage::Usage;
use crate::{error, tls};

/// How long the engine may take to begin its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to connect, ssh and the engine's whole answer included.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);

/// One engine.
pub(crate) struct Engine {
    connection: Connection,
    pub(crate) asks: Asks,
    pub(crate) secrets: Secrets,
    link: Mutex<Option<Connecting>>,
    pub(crate) changes: Changes,
    pub(crate) disk: Disk,
    pub(crate) doubts: Doubts,
    pub(crate) images: Images,
    pub(crate) readers: Readers,
    pub(crate) stops: Stops,
    pub(crate) usage: Usage,
}

/// A way to an engine that has answered.
struct Link {
    docker: Docker,
    tunnel: Option<Mutex<Tunnel>>,
}

/// A link that is made, or was. Whoever wants it drives it on: one that waits for it and is not polled holds up nobody
/// else, as it would if it held a lock meanwhile.
type Connecting = Shared<BoxFuture<'static, Result<Arc<Link>, Failure>>>;

impl Link {
    fn is_open(&self) -> bool {
        self.tunnel.as_ref().is_none_or(|tunnel| tunnel.lock().unwrap_or_else(PoisonError::into_inner).is_open())
    }
}

impl Engine {
    fn new(connection: Connection, secrets: Secrets) -> Self {
        Self {
            connection,
            asks: Asks::default(),
            secrets,
            link: Mutex::default(),
            changes: Changes::default(),
            disk: Disk::default(),
            doubts: Doubts::default(),
            images: Images::default(),
            readers: Readers::default(),
            stops: Stops::default(),
            usage: Usage::default(),
        }
    }

    /// The client, which speaks the version that the engine knows. While the engine is away this fails with
    /// `host_unreachable`; nothing but the question for its version was sent then.
    pub(crate) async fn docker(&self) -> Result<Docker, Failure> {
        let link = self.link();
        link.await.map(|link| link.docker.clone())
    }

    /// The link that is open or being made; a new one if there is none.
    fn link(&self) -> Connecting {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |link: &Connecting| link.peek().is_none_or(|made| made.as_ref().is_ok_and(|link| link.is_open()));
        if let Some(link) = link.as_ref().filter(|link| usable(link)) {
            return link.clone();
        }
        let (connection, secrets) = (self.connection.clone(), self.secrets.clone());
        let made = async move {
            let connecting = tokio::time::timeout(CONNECT_WITHIN, connect(&connection, &secrets)).await;
            connecting.map_or_else(|_| Err(silent(&connection)), |made| made.map(Arc::new))
        };
        link.insert(made.boxed().shared()).clone()
    }

    /// Connects anew the next time: certificates and keys may have been replaced. A tunnel stays, which notices by itself
    /// that it is dead, and which others may be using.
    pub(crate) fn reconnect(&self) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.take_if(|link| link.peek().is_some_and(|made| made.as_ref().is_ok_and(|link| link.tunnel.is_none())));
    }

    /// Whether the engine runs on this machine, as far as its address tells.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.connection.endpoint(), Ok(Endpoint::Unix(_)))
    }

    /// Forgets what is only of use while the container exists.
    pub(crate) fn forget(&self, id: &str) {
        self.asks.forget(id);
        self.doubts.forget(id);
        self.readers.forget(id);
        self.stops.forget(id);
        self.usage.forget(id);
    }
}

async fn connect(connection: &Connection, secrets: &Secrets) -> Result<Link, Failure> {
    let failure = |error: &Error| error::failure(&connection.endpoint, error);
    let unix = |path: &str| Docker::connect_with_unix(path, REQUEST_TIMEOUT.as_secs(), API_DEFAULT_VERSION);
    let endpoint = connection.endpoint().map_err(|error| Failure::new(FailureClass::BackendError, error))?;
    let mut tunnel = None;
    let docker = match (endpoint, &connection.tls) {
        (Endpoint::Unix(path), _) => unix(path).map_err(|error| failure(&error))?,
        (Endpoint::Tcp(address), Some(tls)) => tls::client(address, tls, secrets, REQUEST_TIMEOUT.as_secs())?,
        (Endpoint::Tcp(address), None) => {
            Docker::connect_with_http(address, REQUEST_TIMEOUT.as_secs(), API_DEFAULT_VERSION)
                .map_err(|error| failure(&error))?
        }
        (Endpoint::Ssh(address), _) => {
            let ssh = connection.ssh.clone().unwrap_or_default();
            let opened = tunnel.insert(Tunnel::open(&address, &ssh, secrets).await?);
            unix(&opened.socket().to_string_lossy()).map_err(|error| failure(&error))?
        }
    };
    let docker = docker.negotiate_version().await.map_err(|error| failure(&error))?;
    Ok(Link { docker, tunnel: tunnel.map(Mutex::new) })
}

fn silent(connection: &Connection) -> Failure {
    let message = format!("{}: no connection within {CONNECT_WITHIN:?}", connection.endpoint);
    Failure::new(FailureClass::HostUnreachable, message)
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
