//! A proxy that misbehaves on demand, over TCP or over unix sockets.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Url;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A proxy in front of one server.
///
/// It begins by passing everything on; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    state: watch::Sender<State>,
    counters: Arc<Counters>,
    task: AbortHandle,
}

/// What a proxy has done to its connections so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were reset while they were open.
    pub reset: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Bytes that came during a stall, in either direction.
    pub held: u64,
    /// Bytes of responses that were thrown away.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    reset: AtomicU64,
    refused: AtomicU64,
    held: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Everything is passed on.
    Pass,
    /// Nothing is, in either direction; connections stay open.
    Stall,
    /// Requests are, responses are thrown away.
    DropResponses,
    /// New connections are reset before a byte is passed on.
    Refuse,
}

#[derive(Debug, Clone, Copy)]
struct State {
    flow: Flow,
    /// How often all connections were cut.
    cuts: u64,
    /// How long each piece of a response is kept back.
    delay: Duration,
}

/// Told the bytes of each read from a client that are passed on to the server.
type Listener = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// What a connection needs to know.
#[derive(Clone)]
struct Context {
    upstream: Upstream,
    state: watch::Receiver<State>,
    counters: Arc<Counters>,
    requests: Listener,
}

#[derive(Debug, Clone)]
enum Upstream {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 in front of the server in `upstream`, an address with a port
    /// (`amqp://guest:guest@127.0.0.1:5672/vhost`).
    pub async fn start(upstream: &str) -> Self {
        let mut url = Url::parse(upstream).expect("the upstream is an address");
        let host = url.host_str().expect("the upstream has a host").to_owned();
        let port = url.port_or_known_default().expect("the upstream has a port");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there are free ports");
        let own = listener.local_addr().expect("the port was bound");
        url.set_ip_host(own.ip()).expect("the upstream has a host to replace");
        url.set_port(Some(own.port())).expect("the upstream has a port to replace");
        Self::serving(url.into(), Entrance::Tcp(listener), Upstream::Tcp(host, port), Arc::new(|_| {}))
    }

    /// A proxy on a unix socket that is made at `listen`, in front of the one at `upstream`. `requests` is told the
    /// bytes of each read from a client that are passed on, just before they are.
    pub fn unix(listen: &Path, upstream: &Path, requests: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(listen).expect("the socket's folder is there, and the socket is not");
        let url = format!("unix://{}", listen.display());
        Self::serving(url, Entrance::Unix(listener), Upstream::Unix(upstream.to_owned()), Arc::new(requests))
    }

    fn serving(url: String, entrance: Entrance, upstream: Upstream, requests: Listener) -> Self {
        let (state, watched) = watch::channel(State { flow: Flow::Pass, cuts: 0, delay: Duration::ZERO });
        let counters = Arc::<Counters>::default();
        let context = Context { upstream, state: watched, counters: Arc::clone(&counters), requests };
        let task = tokio::spawn(serve(entrance, context)).abort_handle();
        Self { url, state, counters, task }
    }

    /// The upstream's address with the proxy's host and port.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Resets every open connection, on both sides. New ones are accepted.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets every open connection, and every new one at once.
    pub fn refuse(&self) {
        self.state.send_modify(|state| *state = State { flow: Flow::Refuse, cuts: state.cuts + 1, ..*state });
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

    /// Keeps each piece of a response back for so long from now on, like a server that is far away or has much to do.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Passes everything on again, first what was held back by `stall`.
    pub fn resume(&self) {
        self.set(Flow::Pass);
    }

    /// What it has done so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let Counters { reset, refused, held, dropped } = &*self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally { reset: count(reset), refused: count(refused), held: count(held), dropped: count(dropped) }
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

enum Entrance {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Entrance {
    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
            Self::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        })
    }
}

impl Upstream {
    async fn connect(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(host, port) => Stream::Tcp(TcpStream::connect((host.as_str(), *port)).await?),
            Self::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
        })
    }
}

type Halves<'a> = (Box<dyn AsyncRead + Unpin + Send + 'a>, Box<dyn AsyncWrite + Unpin + Send + 'a>);

impl Stream {
    /// A server that is cut off must see small packets as they come, like without a proxy.
    fn without_delay(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_nodelay(true);
        }
    }

    /// With nothing lingering, closing sends a reset instead of a polite end.
    fn without_farewell(&self) {
        if let Self::Tcp(stream) = self {
            let _ = stream.set_zero_linger();
        }
    }

    fn split(&mut self) -> Halves<'_> {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.split();
                (Box::new(read), Box::new(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.split();
                (Box::new(read), Box::new(write))
            }
        }
    }
}

async fn serve(entrance: Entrance, context: Context) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    while let Ok(client) = entrance.accept().await {
        if context.state.borrow().flow == Flow::Refuse {
            context.counters.refused.fetch_add(1, Ordering::Relaxed);
            client.without_farewell();
            continue;
        }
        connections.spawn(connection(client, context.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut client: Stream, context: Context) {
    let cuts = context.state.borrow().cuts;
    let Ok(mut server) = context.upstream.connect().await else { return };
    client.without_delay();
    server.without_delay();
    let was_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let requests = pump(from_client, to_server, &context, false);
        let responses = pump(from_server, to_client, &context, true);
        let mut state = context.state.clone();
        tokio::select! {
            _ = async { tokio::try_join!(requests, responses) } => false,
            _ = state.wait_for(|state| state.cuts != cuts) => true,
        }
    };
    if was_cut {
        context.counters.reset.fetch_add(1, Ordering::Relaxed);
        client.without_farewell();
        server.without_farewell();
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    context: &Context,
    responses: bool,
) -> io::Result<()> {
    let mut state = context.state.clone();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        if state.borrow().flow == Flow::Stall {
            context.counters.held.fetch_add(bytes, Ordering::Relaxed);
        }
        // Between reading and writing, so that nothing gets through once `stall` has returned.
        let Ok(flow) = state.wait_for(|state| state.flow != Flow::Stall).await.map(|state| state.flow) else {
            return Ok(());
        };
        if length == 0 {
            return to.shutdown().await;
        }
        if responses && flow == Flow::DropResponses {
            context.counters.dropped.fetch_add(bytes, Ordering::Relaxed);
            continue;
        }
        let delay = state.borrow().delay;
        if responses && !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if !responses {
            (context.requests)(&buffer[..length]);
        }
        to.write_all(&buffer[..length]).await?;
    }
}
