//! One supervised connection to RabbitMQ.
//!
//! A task owns the connection and replaces it when it is lost. Whoever needs a
//! channel waits for the connection of the moment; whoever holds a channel of a
//! lost one gets errors and asks for a new one. Nothing is replayed behind the
//! back of its user: the publisher knows what to send again and the consumer
//! what its deliveries are worth, and only they do.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{Stream, StreamExt};
use lapin::{
    Channel, Connection, ConnectionProperties, Event, options::QueueDeclareOptions, types::FieldTable, uri::AMQPUri,
};
use secrecy::ExposeSecret;
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Config, Topology, message::short};

/// Why there is no connection or no channel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be read. Its text is left out: it may hold a password.
    #[error("the broker's url is not a valid AMQP URL: {0}")]
    Url(String),
    /// RabbitMQ answered and said no: wrong password, unknown vhost.
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
    /// Host, port and vhost, for messages.
    at: String,
    live: watch::Receiver<Option<Arc<Connection>>>,
    /// For passive declares, which are frequent and one at a time.
    depth: Mutex<Option<Channel>>,
    _stop: DropGuard,
}

impl Broker {
    /// Connects, and keeps connected from then on. `part` names the process in
    /// RabbitMQ's console: `gantry-<part>`.
    ///
    /// A broker that does not answer is tried for `connect_timeout`, so that
    /// the parts of a fleet can start in any order.
    ///
    /// # Errors
    /// [`Error::Url`] and [`Error::Refused`] at once; [`Error::Unreachable`] or
    /// [`Error::TimedOut`] when the time is up.
    pub async fn connect(config: Config, part: &str) -> Result<Self, Error> {
        let target = Target::new(&config, part)?;
        let first = target.connect_first(config.connect_timeout).await?;
        let (sender, live) = watch::channel(None);
        let stop = CancellationToken::new();
        let at = target.at.clone();
        tokio::spawn(supervise(target, first, sender, stop.clone()));
        let broker = Self {
            inner: Arc::new(Inner {
                topology: Topology::new(&config),
                config,
                at,
                live,
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
    /// meanwhile, [`Error::TimedOut`] where there is none.
    pub async fn ready_messages(&self, queue: &str) -> Result<u32, Error> {
        let mut cached = self.inner.depth.lock().await;
        let channel = match cached.take().filter(|c| c.status().connected()) {
            Some(channel) => channel,
            None => self.channel().await?,
        };
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = channel.queue_declare(short(queue), options, FieldTable::default());
        let declared = self.in_time(declare).await?;
        let found = declared.map_err(|source| Error::Depth { queue: queue.to_owned(), source })?;
        // Only a channel that answered well is kept: RabbitMQ closes it otherwise.
        *cached = Some(channel);
        Ok(found.message_count())
    }

    /// A new channel on the connection of the moment, waited for if there is
    /// none, at most for `connect_timeout`.
    pub(crate) async fn channel(&self) -> Result<Channel, Error> {
        let connection = self.connection().await?;
        self.in_time(connection.create_channel())
            .await?
            .map_err(|source| Error::Unreachable { at: self.inner.at.clone(), source })
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
    uri: AMQPUri,
    at: String,
    name: String,
    attempt_timeout: Duration,
}

impl Target {
    fn new(config: &Config, part: &str) -> Result<Self, Error> {
        let mut uri: AMQPUri = config.url.expose_secret().parse().map_err(Error::Url)?;
        if uri.query.heartbeat.is_none() {
            let seconds = config.heartbeat.as_secs().max(1);
            uri.query.heartbeat = Some(u16::try_from(seconds).unwrap_or(u16::MAX));
        }
        Ok(Self {
            at: format!("{}:{}{}", uri.authority.host, uri.authority.port, vhost(&uri)),
            uri,
            name: format!("gantry-{part}"),
            attempt_timeout: config.connect_timeout,
        })
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let properties = ConnectionProperties::default().with_connection_name(self.name.as_str().into());
        let attempt = Connection::connect_uri(self.uri.clone(), properties);
        match timeout(self.attempt_timeout, attempt).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(source)) if source.is_amqp_error() => Err(Error::Refused { at: self.at.clone(), source }),
            Ok(Err(source)) => Err(Error::Unreachable { at: self.at.clone(), source }),
            Err(_) => Err(Error::TimedOut { at: self.at.clone(), after: self.attempt_timeout }),
        }
    }

    /// The first connection: a refusal is final, silence is waited out.
    async fn connect_first(&self, patience: Duration) -> Result<Connection, Error> {
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

fn vhost(uri: &AMQPUri) -> String {
    match uri.vhost.as_str() {
        "/" => "/".to_owned(),
        other => format!("/{other}"),
    }
}

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Pauses between attempts: from 50 ms to 5 s, with jitter so that a fleet
/// does not come back in one wave.
pub(crate) fn back_off() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        .build()
}

/// Publishes the connection of the moment, and replaces it when it is lost,
/// until the last handle is gone.
async fn supervise(
    target: Target,
    first: Connection,
    live: watch::Sender<Option<Arc<Connection>>>,
    stop: CancellationToken,
) {
    let mut connection = Arc::new(first);
    loop {
        let events = connection.events_listener();
        live.send_replace(Some(connection.clone()));
        let cause = tokio::select! {
            () = stop.cancelled() => break,
            cause = lost(&connection, events) => cause,
        };
        live.send_replace(None);
        tracing::warn!(broker.at = target.at, broker.cause = cause, "lost the broker, reconnecting");
        let replacement = tokio::select! {
            () = stop.cancelled() => return,
            replacement = reconnect(&target) => replacement,
        };
        connection = Arc::new(replacement);
        tracing::info!(broker.at = target.at, "reconnected to the broker");
    }
    // A courtesy that lets RabbitMQ requeue at once; it finds out anyway.
    let goodbye = connection.close(200, "OK".into());
    if let Ok(Err(error)) = timeout(Duration::from_secs(1), goodbye).await {
        tracing::debug!(%error, "the broker's connection did not close cleanly");
    }
}

/// Resolves with the cause when the connection is gone. The status is looked
/// at besides the events, because an event from before the listener is missed.
async fn lost(connection: &Connection, events: impl Stream<Item = Event>) -> String {
    let mut events = std::pin::pin!(events);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Event::Error(error)) => return error.to_string(),
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(broker.reason = reason, "the broker takes no messages: memory or disk alarm");
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker takes messages again");
                }
                Some(_) => {}
                None => return "closed".to_owned(),
            },
            () = sleep(Duration::from_secs(1)) => {}
        }
        if !connection.status().connected() {
            return "closed".to_owned();
        }
    }
}

async fn reconnect(target: &Target) -> Connection {
    for pause in back_off() {
        match target.connect().await {
            Ok(connection) => return connection,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, broker.cause = cause, "still without the broker");
            }
        }
        sleep(pause).await;
    }
    unreachable!("the back-off never ends")
}
