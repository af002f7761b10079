//! A port of loopback, or a socket, that passes connections on, with or without TLS on its side of the way.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::stream::{Stream, StreamExt, poll_fn};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
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
    /// `host:port`, or the socket's path.
    pub(crate) address: String,
    serving: JoinSet<()>,
    to: To,
    passed: Arc<AtomicUsize>,
}

impl Relay {
    pub(crate) async fn start(to: To) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut relay = Self::of(listener.local_addr().expect("bound").to_string(), to);
        relay.serve(clients(listener));
        relay
    }

    /// The same as a socket with this path.
    pub(crate) fn at(socket: &Path, to: To) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let mut relay = Self::of(socket.display().to_string(), to);
        relay.serve(poll_fn(move |context| {
            listener.poll_accept(context).map(|accepted| accepted.ok().map(|(client, _)| client))
        }));
        relay
    }

    fn of(address: String, to: To) -> Self {
        Self { address, serving: JoinSet::new(), to, passed: Arc::default() }
    }

    /// Ends every connection that there is, and takes new ones again.
    pub(crate) async fn cut(&mut self) {
        self.serving.shutdown().await;
        let listener = TcpListener::bind(&self.address).await.expect("the port is free again");
        self.serve(clients(listener));
    }

    /// How many connections came through, to where it leads.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }

    fn serve<C>(&mut self, clients: impl Stream<Item = C> + Send + 'static)
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (to, passed) = (Arc::new(self.to.clone()), Arc::clone(&self.passed));
        self.serving.spawn(async move {
            let mut clients = pin!(clients);
            let mut connections = JoinSet::new();
            while let Some(client) = clients.next().await {
                let (to, passed) = (Arc::clone(&to), Arc::clone(&passed));
                // A connection that breaks is the client's to notice.
                connections.spawn(async move { pass_on(client, &to, &passed).await.unwrap_or_default() });
                while connections.try_join_next().is_some() {}
            }
        });
    }
}

fn clients(listener: TcpListener) -> impl Stream<Item = TcpStream> + Send + 'static {
    poll_fn(move |context| listener.poll_accept(context).map(|accepted| accepted.ok().map(|(client, _)| client)))
}

async fn pass_on(client: impl AsyncRead + AsyncWrite + Unpin, to: &To, passed: &AtomicUsize) -> io::Result<()> {
    match to {
        To::Engine => both_ways(client, engine().await?, passed).await,
        To::EngineOverTls(acceptor) => both_ways(acceptor.accept(client).await?, engine().await?, passed).await,
        To::Address(address) => both_ways(client, TcpStream::connect(address).await?, passed).await,
    }
}

async fn engine() -> io::Result<UnixStream> {
    UnixStream::connect(common::endpoint().trim_start_matches("unix://")).await
}

async fn both_ways(
    mut one: impl AsyncRead + AsyncWrite + Unpin,
    mut other: impl AsyncRead + AsyncWrite + Unpin,
    passed: &AtomicUsize,
) -> io::Result<()> {
    passed.fetch_add(1, Ordering::Relaxed);
    copy_bidirectional(&mut one, &mut other).await.map(drop)
}
