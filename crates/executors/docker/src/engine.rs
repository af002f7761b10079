//! The connections to the engines, one per host, and what this process remembers of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};
use gantry_core::host::Host;
use gantry_core::{Failure, HostId};
use tokio::sync::OnceCell;

use crate::changes::Changes;
use crate::config::Connection;
use crate::error;
use crate::image::Images;
use crate::logs::Readers;
use crate::stop::Stops;
use crate::usage::Usage;

/// How long the engine may take to begin its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// One engine.
pub(crate) struct Engine {
    connection: Connection,
    client: OnceCell<Docker>,
    pub(crate) changes: Changes,
    pub(crate) images: Images,
    pub(crate) readers: Readers,
    pub(crate) stops: Stops,
    pub(crate) usage: Usage,
}

impl Engine {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            client: OnceCell::new(),
            changes: Changes::default(),
            images: Images::default(),
            readers: Readers::default(),
            stops: Stops::default(),
            usage: Usage::default(),
        }
    }

    /// The client, which speaks the version that the engine knows. While the engine is away this fails with
    /// `host_unreachable`; nothing but the question for its version was sent then.
    pub(crate) async fn docker(&self) -> Result<&Docker, Failure> {
        let connect = async || self.connect()?.negotiate_version().await;
        self.client.get_or_try_init(connect).await.map_err(|error| error::failure(&self.connection.endpoint, &error))
    }

    fn connect(&self) -> Result<Docker, Error> {
        let (endpoint, timeout) = (&self.connection.endpoint, REQUEST_TIMEOUT.as_secs());
        if endpoint.starts_with("unix://") {
            Docker::connect_with_unix(endpoint, timeout, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_http(endpoint, timeout, API_DEFAULT_VERSION)
        }
    }

    /// Forgets what is only of use while the container exists.
    pub(crate) fn forget(&self, id: &str) {
        self.readers.forget(id);
        self.stops.forget(id);
        self.usage.forget(id);
    }
}

/// The engines of all hosts asked about so far.
#[derive(Default)]
pub(crate) struct Engines(Mutex<HashMap<HostId, Arc<Engine>>>);

impl Engines {
    /// The host's engine; a new one when the host's connection config has changed.
    pub(crate) fn of(&self, host: &Host) -> Result<Arc<Engine>, Failure> {
        let connection = Connection::of(host)?;
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&host.id)
            && engine.connection == connection
        {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Engine::new(connection));
        engines.insert(host.id, Arc::clone(&engine));
        Ok(engine)
    }
}
