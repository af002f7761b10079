//! A TCP proxy that misbehaves on demand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use reqwest::Url;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A proxy on a free port of 127.0.0.1 in front of one server.
///
/// It begins by passing everything on; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Proxy {
    url: Url,
    state: watch::Sender<State>,
    task: AbortHandle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Everything is passed on.
    Pass,
    /// Nothing is, in either direction; connections stay open.
    Stall,
    /// Requests are, responses are thrown away.
    DropResponses,
}

#[derive(Debug, Clone, Copy)]
struct State {
    flow: Flow,
    /// How often all connections were cut.
    cuts: u64,
}

impl Proxy {
    /// A proxy in front of the server in `upstream`, an address with a port
    /// (`amqp://guest:guest@127.0.0.1:5672/vhost`).
    pub async fn start(upstream: &str) -> Self {
        let mut url = Url::parse(upstream).expect("the upstream is an address");
        let host = url.host_str().expect("the upstream has a host").to_owned();
        let port = url.port_or_known_default().expect("the upstream has a port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there are free ports");
        let own: SocketAddr = listener.local_addr().expect("the port was bound");
        url.set_ip_host(own.ip()).expect("the upstream has a host to replace");
        url.set_port(Some(own.port())).expect("the upstream has a port to replace");
        let (state, watched) = watch::channel(State { flow: Flow::Pass, cuts: 0 });
        let task = tokio::spawn(serve(listener, (host, port), watched)).abort_handle();
        Self { url, state, task }
    }

    /// The upstream's address with the proxy's host and port.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Resets every open connection, on both sides. New ones are accepted.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Stops passing bytes on, on open and on new connections, like a network that lost its way.
    pub fn stall(&self) {
        self.set(Flow::Stall);
    }

    /// Passes requests on and throws responses away: the server did it, and the client cannot
    /// know. A protocol does not survive the gap: `cut` before `resume`.
    pub fn drop_responses(&self) {
        self.set(Flow::DropResponses);
    }

    /// Passes everything on again, first what was held back by `stall`.
    pub fn resume(&self) {
        self.set(Flow::Pass);
    }

    fn set(&self, flow: Flow) {
        self.state.send_modify(|state| state.flow = flow);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, upstream: (String, u16), state: watch::Receiver<State>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(connection(client, upstream.clone(), state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut client: TcpStream, upstream: (String, u16), mut state: watch::Receiver<State>) {
    let cuts = state.borrow().cuts;
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    // A server that is cut off must see small packets as they come, like without a proxy.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let requests = pump(from_client, to_server, state.clone(), false);
    let responses = pump(from_server, to_client, state.clone(), true);
    let was_cut = tokio::select! {
        _ = async { tokio::try_join!(requests, responses) } => false,
        _ = state.wait_for(|state| state.cuts != cuts) => true,
    };
    if was_cut {
        // With nothing lingering, closing sends a reset instead of a polite end.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    responses: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        // Between reading and writing, so that nothing gets through once `stall` has returned.
        let Ok(flow) = state.wait_for(|state| state.flow != Flow::Stall).await.map(|state| state.flow) else {
            return Ok(());
        };
        if length == 0 {
            return to.shutdown().await;
        }
        if !(responses && flow == Flow::DropResponses) {
            to.write_all(&buffer[..length]).await?;
        }
    }
}
