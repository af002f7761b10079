//! Publishing with an answer.
//!
//! *Published* means confirmed by RabbitMQ and not returned. One task owns the
//! channel and keeps thousands of publishes in flight on it; each caller waits
//! for its own answer, for at most the deadline. When the channel is lost, what
//! was not confirmed is published again on the next one: a duplicate changes
//! nothing, by the fleet's design.

mod session;
mod task;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use gantry_failpoint::Side;

use crate::{Broker, Outgoing, Topology, metrics, trace};

/// What became of a publish that was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No queue takes messages with this key.
    #[error("no queue takes messages of exchange `{exchange}` with key `{routing_key}`")]
    Unroutable {
        /// Exchange it was published to.
        exchange: String,
        /// Key it was published with.
        routing_key: String,
    },
    /// The queue is full. Later may be better.
    #[error("the queue behind exchange `{exchange}`, key `{routing_key}`, is full and took no message")]
    Refused {
        /// Exchange it was published to.
        exchange: String,
        /// Key it was published with.
        routing_key: String,
    },
    /// No confirm within the deadline. The message may or may not be there.
    #[error("the broker did not confirm the message within {after:?}")]
    Unconfirmed {
        /// The deadline it was given.
        after: Duration,
    },
    /// RabbitMQ closed the channel over this very message: its exchange does
    /// not exist, or the user may not write to it.
    #[error("the broker rejected the message to exchange `{exchange}`: {reason}")]
    Rejected {
        /// Exchange it was published to.
        exchange: String,
        /// RabbitMQ's own words.
        reason: String,
    },
    /// Never sent: its body, its headers or one of its texts is too large.
    #[error("the message's {what} is too large: {size} bytes, {limit} allowed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Bytes it has.
        size: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// The publisher's task is gone: the process is ending.
    #[error("the publisher has stopped")]
    Stopped,
}

impl Error {
    /// Whether the same message may well get through later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unconfirmed { .. })
    }
}

/// A publish on its way to the task. `answer` is `None` where nobody waits.
struct Request {
    outgoing: Outgoing,
    answer: Option<oneshot::Sender<Result<(), Error>>>,
}

impl Request {
    /// Whether the caller has gone: the deadline is over.
    fn abandoned(&self) -> bool {
        self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
    }

    fn finish(self, result: Result<(), Error>) {
        if let Some(answer) = self.answer {
            // A caller that left meanwhile was told `Unconfirmed` already.
            let _ = answer.send(result);
        }
    }
}

/// Requests that may wait before [`Publisher::publish`] itself has to.
const QUEUED: usize = 4096;

/// A content header must fit one frame (128 KiB); more closes the connection.
const MAX_HEADERS: usize = 64 * 1024;

/// What a publish is called among the failpoints.
fn point(outgoing: &Outgoing) -> String {
    if outgoing.exchange.is_empty() { "reply".to_owned() } else { outgoing.exchange.clone() }
}

fn count(exchange: &str, result: &Result<(), Error>) {
    let outcome = match result {
        Ok(()) => "confirmed",
        Err(Error::Unroutable { .. }) => "unroutable",
        Err(Error::Refused { .. }) => "refused",
        Err(Error::Unconfirmed { .. }) => "unconfirmed",
        Err(Error::Rejected { .. }) => "rejected",
        Err(Error::TooLarge { .. }) => "too_large",
        Err(Error::Stopped) => "stopped",
    };
    metrics::published(exchange, outcome);
}

/// Publishes on a channel of its own; clones share it.
#[derive(Debug, Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    broker: Broker,
    _stop: Arc<DropGuard>,
}

impl Publisher {
    /// A publisher over this broker's connection. Its task ends with the last
    /// clone.
    pub fn new(broker: &Broker) -> Self {
        let (requests, queue) = mpsc::channel(QUEUED);
        let stop = CancellationToken::new();
        tokio::spawn(task::run(broker.clone(), queue, stop.clone()));
        Self { requests, broker: broker.clone(), _stop: Arc::new(stop.drop_guard()) }
    }

    /// Publishes and waits for the confirm. The trace context of the current
    /// span goes along, unless the headers carry one.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Unconfirmed`] after `publish_deadline`.
    pub async fn publish(&self, outgoing: Outgoing) -> Result<(), Error> {
        let point = point(&outgoing);
        gantry_failpoint::around("publish", &point, async {
            let deadline = self.deadline();
            let exchange = outgoing.exchange.clone();
            let result = match self.send(outgoing, deadline).await {
                Ok(answer) => self.wait(answer, deadline).await,
                Err(error) => Err(error),
            };
            count(&exchange, &result);
            result
        })
        .await
    }

    /// Publishes all of them, in order and all in flight at once, and answers
    /// for each, in the same order.
    pub async fn publish_all(&self, outgoing: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let Some(point) = outgoing.first().map(point) else { return Vec::new() };
        gantry_failpoint::around("publish", &point, self.send_all(outgoing)).await
    }

    async fn send_all(&self, outgoing: Vec<Outgoing>) -> Vec<Result<(), Error>> {
        let deadline = self.deadline();
        let mut answers = Vec::with_capacity(outgoing.len());
        for message in outgoing {
            let exchange = message.exchange.clone();
            answers.push((exchange, self.send(message, deadline).await));
        }
        // One after the other is no slower, and arms one timer instead of thousands.
        let mut results = Vec::with_capacity(answers.len());
        for (exchange, sent) in answers {
            let result = match sent {
                Ok(answer) => self.wait(answer, deadline).await,
                Err(error) => Err(error),
            };
            count(&exchange, &result);
            results.push(result);
        }
        results
    }

    /// Publishes without an answer, for nudges, live logs and replies: what is
    /// lost with a connection stays lost, and during an alarm nothing is sent.
    pub fn publish_unconfirmed(&self, mut outgoing: Outgoing) {
        if !self.broker.is_connected() || self.broker.is_blocked() {
            return;
        }
        if let Err(error) = self.check(&outgoing) {
            tracing::warn!(%error, "a message that nobody waits for was not sent");
            return;
        }
        trace::inject(&mut outgoing.headers);
        let point = point(&outgoing);
        let request = Request { outgoing, answer: None };
        gantry_failpoint::pass("publish", &point, Side::Before);
        if self.requests.try_send(request).is_err() {
            tracing::debug!("the publisher is busy: a message that nobody waits for was dropped");
        }
        gantry_failpoint::pass("publish", &point, Side::After);
    }

    pub(crate) fn topology(&self) -> &Topology {
        self.broker.topology()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.broker.config().publish_deadline
    }

    async fn send(&self, mut outgoing: Outgoing, deadline: Instant) -> Result<Answer, Error> {
        self.check(&outgoing)?;
        trace::inject(&mut outgoing.headers);
        let (answer, answered) = oneshot::channel();
        let request = Request { outgoing, answer: Some(answer) };
        match timeout_at(deadline, self.requests.send(request)).await {
            Ok(Ok(())) => Ok(answered),
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(self.unconfirmed()),
        }
    }

    async fn wait(&self, answer: Answer, deadline: Instant) -> Result<(), Error> {
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::Stopped),
            Err(_) => Err(self.unconfirmed()),
        }
    }

    fn unconfirmed(&self) -> Error {
        Error::Unconfirmed { after: self.broker.config().publish_deadline }
    }

    /// What RabbitMQ would close the channel or the connection for, with
    /// everybody else's messages on it, is refused here.
    fn check(&self, outgoing: &Outgoing) -> Result<(), Error> {
        let properties = &outgoing.properties;
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        for (what, size, limit) in [
            ("body", outgoing.body.len(), self.broker.config().max_message_bytes),
            ("headers", outgoing.headers.wire_size(), MAX_HEADERS),
            ("exchange", outgoing.exchange.len(), 255),
            ("routing key", outgoing.routing_key.len(), 255),
            ("message_id", length(&properties.message_id), 255),
            ("correlation_id", length(&properties.correlation_id), 255),
            ("reply_to", length(&properties.reply_to), 255),
            ("content_type", length(&properties.content_type), 255),
            ("type", length(&properties.kind), 255),
        ] {
            if size > limit {
                return Err(Error::TooLarge { what, size, limit });
            }
        }
        Ok(())
    }
}

type Answer = oneshot::Receiver<Result<(), Error>>;
