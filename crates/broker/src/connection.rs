//! One supervised connection to RabbitMQ.
//!
//! A task owns the connection and replaces it when it is lost. Whoever needs a
//! channel waits for the connection of the moment; whoever holds a channel of a
//! lost one gets errors and asks for a new one. Nothing is replayed behind the
//! back of its user: the publisher knows what to send again and the consumer
//! what its deliveries are worth, and only they do.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use lapin::{
    Channel, Connection, ConnectionProperties, Queue,
    options::{ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
    uri::AMQPUri,
};
use rand::seq::SliceRandom;
use secrecy::ExposeSecret;
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

mod supervise;

use supervise::{Standing, Supervisor};

use crate::{Config, Topology, message::short, topology};

/// Why there is no connection or no channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be read. Its text is left out: it may hold a password.
    #[error("the broker's url is not a valid AMQP URL: {0}")]
    Url(String),
    /// RabbitMQ answered and said no: wrong password, unknown vhost. Of a cluster, every node did.
    #[error("the broker at {at} refused the connection; check user, password and vhost")]
    Refused {
        /// Host, port and vhost.
        at: String,
        /// What RabbitMQ said.
        #[source]
        source: lapin::Error,
    },
    /// Nothing answered.
    #[error("no connection to the broker at {at}")]
    Unreachable {
        /// Host, port and vhost.
        at: String,
        /// What lapin said at the last attempt.
        #[source]
        source: lapin::Error,
    },
    /// Nothing happened in time.
    #[error("the broker at {at} did not answer within {after:?}")]
    TimedOut {
        /// Host, port and vhost.
        at: String,
        /// How long it was given.
        after: Duration,
    },
    /// It takes nothing at the moment, questions included: a memory or disk alarm.
    #[error("the broker at {at} takes nothing now: memory or disk alarm")]
    Blocked {
        /// Host, port and vhost.
        at: String,
    },
    /// The queue asked about does not exist, or its depth cannot be read.
    #[error("could not read the depth of queue `{queue}`")]
    Depth {
        /// Its name, prefix included.
        queue: String,
        /// What lapin said.
        #[source]
        source: lapin::Error,
    },
}

/// A handle of one supervised connection; clones share it, and the last one
/// dropped closes it.
#[derive(Debug, Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    topology: Topology,
    /// Host, port and vhost of each node, for messages.
    at: String,
    live: watch::Receiver<Option<Arc<Connection>>>,
    /// Whether RabbitMQ has said that it takes no messages.
    blocked: watch::Receiver<bool>,
    standing: Arc<Standing>,
    /// For passive declares, which are frequent and one at a time.
    depth: Mutex<Option<Channel>>,
    _stop: DropGuard,
}

impl Broker {
    /// Connects, and keeps connected from then on. `part` names the process in
    /// RabbitMQ's console: `gantry-<part>`.
    ///
    /// A broker that does not answer is tried for `connect_timeout`, so that
    /// the parts of a fleet can start in any order. The nodes of a cluster are
    /// tried in turn, each process beginning with any of them.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Refused`] at once; [`Error::Unreachable`] or
    /// [`Error::TimedOut`] when the time is up.
    pub async fn connect(config: Config, part: &str) -> Result<Self, Error> {
        let mut target = Target::new(&config, part)?;
        let at = target.at();
        let first = target.connect_first(config.connect_timeout).await?;
        let (sender, live) = watch::channel(None);
        let (block, blocked) = watch::channel(false);
        let (topology, standing) = (Topology::new(&config), Arc::new(Standing::default()));
        let stop = CancellationToken::new();
        let supervisor = Supervisor {
            target,
            live: sender,
            block,
            topology: topology.clone(),
            standing: standing.clone(),
            part: part.to_owned(),
        };
        tokio::spawn(supervisor.run(first, stop.clone()));
        let broker = Self {
            inner: Arc::new(Inner {
                topology,
                config,
                at,
                live,
                blocked,
                standing,
                depth: Mutex::new(None),
                _stop: stop.drop_guard(),
            }),
        };
        broker.connection().await?;
        Ok(broker)
    }

    /// Whether the connection is up at this moment, for health checks.
    pub fn is_connected(&self) -> bool {
        let live = self.inner.live.borrow();
        live.as_ref().is_some_and(|c| c.status().connected())
    }

    /// Whether RabbitMQ takes no messages at this moment: a memory or disk alarm.
    pub fn is_blocked(&self) -> bool {
        *self.inner.blocked.borrow()
    }

    /// [`Broker::is_blocked`], for those who wait for its end.
    pub(crate) fn blocked(&self) -> watch::Receiver<bool> {
        self.inner.blocked.clone()
    }

    /// All of the topology was declared, with these executor types: from now on it is declared again whenever the
    /// connection is new, or something is found missing.
    pub(crate) fn stands(&self, executor_types: &[&str]) {
        self.inner.standing.add(executor_types);
    }

    /// A queue or an exchange is not there, or messages to it find no way. The supervisor looks after it.
    pub(crate) fn is_missing_something(&self) {
        self.inner.standing.is_missing_something();
    }

    /// The names of this broker's exchanges and queues.
    pub fn topology(&self) -> &Topology {
        &self.inner.topology
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Messages of `queue` that are ready to be delivered.
    ///
    /// # Errors
    /// [`Error::Depth`] where the queue does not exist or the connection broke
    /// meanwhile, [`Error::TimedOut`] where there is none, [`Error::Blocked`] during an alarm: RabbitMQ
    /// does not read the question then.
    pub async fn ready_messages(&self, queue: &str) -> Result<u32, Error> {
        Ok(self.declared(queue).await?.message_count())
    }

    /// Consumers of `queue`.
    ///
    /// # Errors
    /// Those of [`Broker::ready_messages`].
    pub async fn consumers(&self, queue: &str) -> Result<u32, Error> {
        Ok(self.declared(queue).await?.consumer_count())
    }

    async fn declared(&self, queue: &str) -> Result<Queue, Error> {
        if self.is_blocked() {
            return Err(Error::Blocked { at: self.inner.at.clone() });
        }
        let mut cached = self.inner.depth.lock().await;
        let channel = match cached.take().filter(|c| c.status().connected()) {
            Some(channel) => channel,
            None => self.channel().await?,
        };
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(short(queue), options, FieldTable::default());
        let declared = self.in_time(declare).await?;
        let found = declared.map_err(|source| {
            if topology::is_not_found(&source) {
                self.is_missing_something();
            }
            Error::Depth { queue: queue.to_owned(), source }
        })?;
        // Only a channel that answered well is kept: RabbitMQ closes it otherwise.
        *cached = Some(channel);
        Ok(found)
    }

    /// A new channel on the connection of the moment, waited for if there is
    /// none, at most for `connect_timeout`.
    pub(crate) async fn channel(&self) -> Result<Channel, Error> {
        let connection = self.connection().await?;
        self.open(&connection, connection.create_channel()).await
    }

    /// The same, with confirms.
    pub(crate) async fn confirming_channel(&self) -> Result<Channel, Error> {
        let connection = self.connection().await?;
        let ready = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        self.open(&connection, ready).await
    }

    /// A node that does not even open a channel is given up: nobody may have a channel by which its silence shows.
    async fn open(
        &self,
        connection: &Connection,
        channel: impl Future<Output = lapin::Result<Channel>>,
    ) -> Result<Channel, Error> {
        match self.in_time(channel).await {
            Ok(opened) => opened.map_err(|source| Error::Unreachable { at: self.inner.at.clone(), source }),
            Err(late) => {
                // During an alarm a node reads nothing, and is sound.
                if connection.status().connected() && !self.is_blocked() {
                    say_goodbye(connection, "no channel was opened").await;
                }
                Err(late)
            }
        }
    }

    /// Closes the connection of the moment, whose node does nothing any more: the next one is tried.
    pub(crate) async fn give_up(&self) {
        let connection = self.inner.live.borrow().clone();
        if let Some(connection) = connection {
            say_goodbye(&connection, "nothing was confirmed").await;
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, Error> {
        let mut live = self.inner.live.clone();
        let found = self.in_time(live.wait_for(Option::is_some)).await?;
        let connection = found.ok().and_then(|guard| guard.clone());
        // The supervisor outlives every handle, so its side cannot be closed.
        connection.ok_or_else(|| self.timed_out())
    }

    /// Half-open connections answer nothing: no request waits for ever.
    async fn in_time<F: Future>(&self, request: F) -> Result<F::Output, Error> {
        timeout(self.inner.config.connect_timeout, request).await.map_err(|_| self.timed_out())
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { at: self.inner.at.clone(), after: self.inner.config.connect_timeout }
    }
}

/// Whom to connect to, and as whom.
struct Target {
    /// Never empty. The first is the one to try next.
    nodes: VecDeque<Node>,
    name: String,
    attempt_timeout: Duration,
}

/// One node of the broker.
struct Node {
    uri: AMQPUri,
    /// Host, port and vhost, for messages.
    at: String,
}

impl Target {
    fn new(config: &Config, part: &str) -> Result<Self, Error> {
        let urls = config.url.expose_secret().split(',').map(str::trim).filter(|url| !url.is_empty());
        let mut nodes = urls.map(|url| Node::new(url, config.heartbeat)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(Error::Url("it is empty".to_owned()));
        }
        // So that a fleet whose parts all have the same list does not sit on one node.
        nodes.shuffle(&mut rand::rng());
        Ok(Self { nodes: nodes.into(), name: format!("gantry-{part}"), attempt_timeout: config.connect_timeout })
    }

    /// Host, port and vhost of each node.
    fn at(&self) -> String {
        let nodes: Vec<&str> = self.nodes.iter().map(|node| node.at.as_str()).collect();
        nodes.join(", ")
    }

    /// Tries each node once, until one answers.
    async fn connect(&mut self) -> Result<Connection, Error> {
        let mut failure = None;
        for _ in 0..self.nodes.len() {
            match self.nodes[0].connect(&self.name, self.attempt_timeout).await {
                Ok(connection) => return Ok(connection),
                // A node that is just starting or joining refuses what the others do not: only
                // when all refuse, it is final.
                Err(error) if failure.is_none() || !matches!(error, Error::Refused { .. }) => failure = Some(error),
                Err(_) => {}
            }
            self.pass_over();
        }
        Err(failure.expect("there is a node"))
    }

    /// The node that is connected to, or was tried last.
    fn current(&self) -> &str {
        &self.nodes[0].at
    }

    /// The node that was lost, or does not answer, is tried last.
    fn pass_over(&mut self) {
        self.nodes.rotate_left(1);
    }

    /// The first connection: a refusal is final, silence is waited out.
    async fn connect_first(&mut self, patience: Duration) -> Result<Connection, Error> {
        let started = tokio::time::Instant::now();
        let mut pauses = back_off();
        loop {
            match self.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error @ Error::Refused { .. }) => return Err(error),
                Err(error) => {
                    let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
                    if started.elapsed() + pause > patience {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
            }
        }
    }
}

impl Node {
    fn new(url: &str, heartbeat: Duration) -> Result<Self, Error> {
        let mut uri: AMQPUri = url.parse().map_err(Error::Url)?;
        if uri.query.heartbeat.is_none() {
            let seconds = heartbeat.as_secs().max(1);
            uri.query.heartbeat = Some(u16::try_from(seconds).unwrap_or(u16::MAX));
        }
        let at = format!("{}:{}{}", uri.authority.host, uri.authority.port, vhost(&uri));
        Ok(Self { uri, at })
    }

    async fn connect(&self, name: &str, limit: Duration) -> Result<Connection, Error> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let at = self.at.clone();
        match timeout(limit, Connection::connect_uri(self.uri.clone(), properties)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) if source.is_amqp_error() => Err(Error::Refused { at, source }),
            Ok(Err(source)) => Err(Error::Unreachable { at, source }),
            Err(_) => Err(Error::TimedOut { at, after: limit }),
        }
    }
}

fn vhost(uri: &AMQPUri) -> String {
    match uri.vhost.as_str() {
        "/" => "/".to_owned(),
        other => format!("/{other}"),
    }
}

/// The connection counts as gone from here on; a node that is given up may not even answer.
async fn say_goodbye(connection: &Connection, cause: &'static str) {
    tracing::warn!(broker.cause = cause, "the broker does nothing any more: closing the connection to it");
    let goodbye = connection.close(320, cause.into());
    let _ = timeout(GOODBYE, goodbye).await;
}

/// How long a node is given to agree that its connection is closed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Before its jitter, which may double it: a fleet must flow again within 10 s of its broker.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pauses between attempts: from 50 ms to 1 s and as much again of jitter, so
/// that a fleet does not come back in one wave.
pub(crate) fn back_off() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}
