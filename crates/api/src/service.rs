//! The API as a component.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use gantry_runtime::Shutdown;
use gantry_runtime::serve::Readiness;
use gantry_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::Keys;
use crate::config::Http;
use crate::nudge::Nudges;
use crate::routes;
use crate::watch::Watcher;

/// How long requests may go on after the wish to stop. Those that wait or follow end at once by themselves.
const DRAIN: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) nudges: Nudges,
    pub(crate) keys: Keys,
    pub(crate) watcher: Watcher,
    pub(crate) stopping: CancellationToken,
}

/// The API, listening.
#[derive(Debug)]
pub struct Service {
    listener: TcpListener,
    app: Arc<App>,
}

impl Service {
    /// Takes the address; requests wait there until [`Service::run`]. The store connects as the role `gantry_api`.
    ///
    /// # Errors
    /// Where the address cannot be had.
    pub async fn bind(config: &Http, store: Store, nudges: Nudges) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let watcher = Watcher::new(store.clone());
        let stopping = CancellationToken::new();
        let app = Arc::new(App { store, nudges, keys: Keys::default(), watcher, stopping });
        tracing::info!(http.addr = %address, "the API listens");
        Ok((Self { listener, app }, address))
    }

    /// Serves until `shutdown`. Then nobody new is let in, those who wait for a job are told where it stands, those
    /// who follow a log are sent away to come back, and everybody else is served to the end, for 10 seconds at most.
    ///
    /// # Errors
    /// Where serving failed.
    pub async fn run(self, shutdown: Shutdown) -> io::Result<()> {
        let readiness = Readiness::new();
        readiness.watch("database", &self.app.store, |store: Store| async move {
            store.ping().await.map_err(|error| error.to_string())
        });
        let stopping = self.app.stopping.clone();
        let router = routes::router(self.app, readiness);
        // Small answers and events must not wait for more to come.
        let listener = self.listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection delays small packets");
            }
        });
        let stop = stopping.clone();
        let asked = async move {
            shutdown.requested().await;
            stop.cancel();
        };
        let served = axum::serve(listener, router).with_graceful_shutdown(asked);
        tokio::select! {
            served = async { served.await } => served,
            () = async { stopping.cancelled().await; tokio::time::sleep(DRAIN).await } => {
                tracing::warn!("stopped with requests still open");
                Ok(())
            }
        }
    }
}
