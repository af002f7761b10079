//! A port of loopback that passes connections on, with or without TLS on its side of the way.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::common;

/// Where a relay leads.
#[derive(Clone)]
pub(crate) enum To {
    /// The test engine.
    Engine,
    /// The test engine, for those who show the right certificate.
    EngineOverTls(TlsAcceptor),
    /// Another address.
    Address(String),
}

/// Serves until it is dropped, and then every connection ends with it.
pub(crate) struct Relay {
    pub(crate) address: String,
    serving: JoinSet<()>,
    to: To,
}

impl Relay {
    pub(crate) async fn start(to: To) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let mut relay = Self { address, serving: JoinSet::new(), to };
        relay.serve(listener);
        relay
    }

    /// Ends every connection that there is, and takes new ones again.
    pub(crate) async fn cut(&mut self) {
        self.serving.shutdown().await;
        let listener = TcpListener::bind(&self.address).await.expect("the port is free again");
        self.serve(listener);
    }

    fn serve(&mut self, listener: TcpListener) {
        let to = Arc::new(self.to.clone());
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let to = Arc::clone(&to);
                // A connection that breaks is the client's to notice.
                connections.spawn(async move { pass_on(client, &to).await.unwrap_or_default() });
                while connections.try_join_next().is_some() {}
            }
        });
    }
}

async fn pass_on(client: TcpStream, to: &To) -> io::Result<()> {
    match to {
        To::Engine => both_ways(client, engine().await?).await,
        To::EngineOverTls(acceptor) => both_ways(acceptor.accept(client).await?, engine().await?).await,
        To::Address(address) => both_ways(client, TcpStream::connect(address).await?).await,
    }
}

async fn engine() -> io::Result<UnixStream> {
    UnixStream::connect(common::endpoint().trim_start_matches("unix://")).await
}

async fn both_ways(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    copy_bidirectional(&mut one, &mut other).await.map(drop)
}
