//! The task that keeps a connection, and what must stand at the broker whenever there is one.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures::{Stream, StreamExt};
use lapin::{Connection, Event};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Target, back_off};
use crate::{Topology, metrics, topology};

/// The shortest time between two declarations of the topology on one connection.
const RESTORE_PAUSE: Duration = Duration::from_secs(1);

/// How long a declaration may take: what works without it is not held up for longer.
const RESTORE_WITHIN: Duration = Duration::from_secs(3);

/// What must stand at the broker, even at one that came back empty.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The executor types whose queues were declared; none before anything was.
    executor_types: Mutex<Option<BTreeSet<String>>>,
    /// Something of it was found missing.
    missing: Notify,
}

impl Standing {
    /// It was declared, with these executor types.
    pub(super) fn add(&self, executor_types: &[&str]) {
        let mut declared = self.lock();
        declared.get_or_insert_default().extend(executor_types.iter().map(|&name| name.to_owned()));
    }

    pub(super) fn is_missing_something(&self) {
        self.missing.notify_one();
    }

    fn declared(&self) -> Option<BTreeSet<String>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        self.executor_types.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Publishes the connection of the moment, and replaces it when it is lost.
pub(super) struct Supervisor {
    pub(super) target: Target,
    pub(super) live: watch::Sender<Option<Arc<Connection>>>,
    pub(super) block: watch::Sender<bool>,
    pub(super) topology: Topology,
    pub(super) standing: Arc<Standing>,
    /// Whose connection it is, for the metrics.
    pub(super) part: String,
}

impl Supervisor {
    /// Until the last handle is gone.
    pub(super) async fn run(mut self, first: Connection, stop: CancellationToken) {
        let mut connection = Arc::new(first);
        loop {
            let events = connection.events_listener();
            self.live.send_replace(Some(connection.clone()));
            metrics::connected(&self.part, true);
            metrics::blocked(&self.part, false);
            let cause = tokio::select! {
                () = stop.cancelled() => break,
                cause = self.lost(&connection, events) => cause,
                never = self.keep_standing(&connection) => match never {},
            };
            self.live.send_replace(None);
            // A connection that is gone blocks nobody: there is none to publish on.
            self.blocked(false);
            metrics::connected(&self.part, false);
            tracing::warn!(broker.at = self.target.current(), broker.cause = cause, "lost the broker, reconnecting");
            self.target.pass_over();
            let replacement = tokio::select! {
                () = stop.cancelled() => return,
                replacement = reconnect(&mut self.target) => replacement,
            };
            connection = Arc::new(replacement);
            metrics::reconnected(&self.part);
            tracing::info!(broker.at = self.target.current(), "reconnected to the broker");
            // Before anybody uses the connection: the broker may have lost its data, and come back empty.
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.restore(&connection) => {}
            }
        }
        metrics::connected(&self.part, false);
        // A courtesy that lets RabbitMQ requeue at once; it finds out anyway.
        let goodbye = connection.close(200, "OK".into());
        if let Ok(Err(error)) = timeout(Duration::from_secs(1), goodbye).await {
            tracing::debug!(%error, "the broker's connection did not close cleanly");
        }
    }

    /// Resolves with the cause when the connection is gone. The status is looked
    /// at besides the events, because an event from before the listener is missed.
    async fn lost(&self, connection: &Connection, events: impl Stream<Item = Event>) -> String {
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
            self.blocked(connection.status().blocked());
        }
    }

    fn blocked(&self, now: bool) {
        self.block.send_if_modified(|blocked| std::mem::replace(blocked, now) != now);
        metrics::blocked(&self.part, now);
    }

    /// Declares the topology again each time that something is found missing.
    async fn keep_standing(&self, connection: &Connection) -> std::convert::Infallible {
        loop {
            self.standing.missing.notified().await;
            self.restore(connection).await;
            sleep(RESTORE_PAUSE).await;
        }
    }

    /// Declares what was declared before. A failure is told and left at that: whoever misses something says so again.
    async fn restore(&self, connection: &Connection) {
        let Some(executor_types) = self.standing.declared() else { return };
        let executor_types: Vec<&str> = executor_types.iter().map(String::as_str).collect();
        let declare = async {
            let channel = connection.create_channel().await.map_err(topology::Error::Channel)?;
            self.topology.declare_on(&channel, &executor_types).await
        };
        match timeout(RESTORE_WITHIN, declare).await {
            Ok(Ok(())) => {
                metrics::topology_declared(&self.part);
                tracing::debug!("exchanges, queues and bindings stand");
            }
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, broker.cause = cause, "the topology could not be declared again");
            }
            Err(_) => tracing::warn!("the topology was not declared again in time"),
        }
    }
}

async fn reconnect(target: &mut Target) -> Connection {
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
