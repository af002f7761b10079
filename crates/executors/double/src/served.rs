//! A double that answers.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running server; it ends when this value is dropped.
#[derive(Debug)]
pub struct Served {
    address: SocketAddr,
    _end: DropGuard,
}

impl Served {
    /// Serves on `listen`; port 0 takes a free one.
    pub async fn start(listen: SocketAddr, router: Router) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let asked = end.clone();
        tokio::spawn(async move {
            let serve = axum::serve(listener, router).into_future();
            // Not gracefully: a client that keeps its connection open must not keep the double.
            tokio::select! {
                served = serve => if let Err(error) = served {
                    tracing::error!(%error, "a double ended");
                },
                () = asked.cancelled() => {}
            }
        });
        Ok(Self { address, _end: end.drop_guard() })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
