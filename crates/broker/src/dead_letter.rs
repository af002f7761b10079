//! Putting aside what cannot be processed, and reading what was put aside.

use std::collections::BTreeMap;

use crate::{Delivery, Headers, Outgoing, Publisher, Topology, metrics, publish};

/// Headers that no dead letter keeps: they hold credentials.
pub const CREDENTIALS: &[&str] = &["x-gantry-api-key", "authorization"];

/// The header that names the queue a letter was in. Whoever composes a letter without [`dead_letter`] sets it, too.
pub const QUEUE: &str = "x-gantry-queue";

/// Why and whence: written by [`dead_letter`], read by [`read`].
const REASON: &str = "x-gantry-reason";
const MESSAGE: &str = "x-gantry-message";
const ORIGIN: &str = "x-gantry-origin";
const TENANT: &str = "x-gantry-tenant";

/// Headers of the transport: they say nothing of the letter itself.
const TRANSPORT: &[&str] = &["x-gantry-publish", "x-delivery-count"];

/// Longest `message` that is kept, in bytes.
const MAX_MESSAGE: usize = 2048;

/// Why a message was put aside; what `gantry dlq` shows.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a> {
    /// A code from a closed set of the caller's (`invalid_submission`).
    pub code: &'a str,
    /// The same for a person. Cut after 2048 bytes.
    pub message: &'a str,
    /// The part or queue that gave up on it.
    pub origin: &'a str,
    /// The tenant, where it is known.
    pub tenant: Option<&'a str>,
}

/// Publishes the message to `gantry.dead` with `x-gantry-reason`,
/// `x-gantry-message`, `x-gantry-origin`, `x-gantry-queue` and
/// `x-gantry-tenant`, its own headers but without credentials, and then acks
/// it. Where the publish fails the delivery goes back to its queue: it is never
/// lost.
///
/// # Errors
/// Why it could not be published.
pub async fn dead_letter(publisher: &Publisher, delivery: Delivery, reason: Reason<'_>) -> Result<(), publish::Error> {
    let letter = compose(publisher.topology(), &delivery, reason);
    match publisher.publish(letter).await {
        Ok(()) => {
            count(reason.origin, reason.code);
            delivery.ack().await;
            Ok(())
        }
        Err(error) => {
            delivery.requeue().await;
            Err(error)
        }
    }
}

/// Counts a letter that was put aside in another way than by [`dead_letter`].
pub fn count(origin: &str, reason: &str) {
    metrics::dead_lettered(origin, reason);
}

fn compose(topology: &Topology, delivery: &Delivery, reason: Reason<'_>) -> Outgoing {
    let mut letter = Outgoing::work(topology.dead(), delivery.body().to_vec());
    letter.properties = delivery.properties().clone();
    letter.properties.persistent = true;
    letter.headers = delivery.headers().clone();
    strip(&mut letter.headers);
    letter.headers.insert(REASON, reason.code);
    letter.headers.insert(MESSAGE, cut(reason.message));
    letter.headers.insert(ORIGIN, reason.origin);
    if let Some(queue) = topology.queue_of(delivery.exchange(), delivery.routing_key()) {
        letter.headers.insert(QUEUE, queue);
    }
    if let Some(tenant) = reason.tenant {
        letter.headers.insert(TENANT, tenant);
    }
    letter
}

/// Takes off credentials, what belongs to the transport, and what a sender may have forged.
fn strip(headers: &mut Headers) {
    for name in [CREDENTIALS, TRANSPORT, &[REASON, MESSAGE, ORIGIN, QUEUE, TENANT]].concat() {
        headers.remove(name);
    }
}

/// What the headers of a dead letter tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The queue that it was in, without the fleet's prefix, where that is known.
    pub queue: Option<String>,
    /// The part that gave up on it; `rabbitmq` where RabbitMQ itself did.
    pub origin: String,
    /// Why, for programs: [`Reason::code`], or RabbitMQ's own word (`delivery_limit`, `rejected`).
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// The tenant, where it is known.
    pub tenant: Option<String>,
    /// Its other headers that are text or integers, without credentials.
    pub headers: BTreeMap<String, String>,
}

/// Reads what a message in `gantry.dead` tells of itself, whether a part of Gantry put it there or RabbitMQ did.
pub fn read(topology: &Topology, letter: &Delivery) -> Label {
    let text = |name: &str| letter.headers().get(name).map(str::to_owned);
    let death = |what: &str| text(&format!("x-first-death-{what}"));
    let queue = text(QUEUE).or_else(|| death("queue").map(|queue| topology.without_prefix(&queue).to_owned()));
    let by_gantry = text(REASON);
    let origin = if by_gantry.is_some() { text(ORIGIN).unwrap_or_default() } else { "rabbitmq".to_owned() };
    let message = text(MESSAGE).unwrap_or_else(|| match &by_gantry {
        Some(_) => String::new(),
        None => "RabbitMQ gave up on it: it was delivered again and again, or rejected".to_owned(),
    });
    let reason = by_gantry.or_else(|| death("reason")).unwrap_or_else(|| "unknown".to_owned());
    let mut headers = letter.headers().clone();
    strip(&mut headers);
    let headers = headers.texts().map(|(name, value)| (name.to_owned(), value)).collect();
    Label { queue, origin, reason, message, tenant: text(TENANT), headers }
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}
