//! A received message: an owned value, settled by consuming it.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::{Headers, Properties, Settled, settle::Settler};

/// A body that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("the message's body is not valid: {source}")]
pub struct DecodeError {
    #[from]
    source: serde_json::Error,
}

/// A message that RabbitMQ handed to this process and that waits to be settled.
///
/// Settling takes the value, so a delivery is settled once. One that is dropped
/// unsettled (an early return, a panic) goes back to its queue, with a warning.
#[derive(Debug)]
pub struct Delivery {
    exchange: String,
    routing_key: String,
    redelivered: bool,
    properties: Properties,
    headers: Headers,
    body: Vec<u8>,
    tag: u64,
    settler: Arc<Settler>,
    settled: bool,
}

impl Delivery {
    pub(crate) fn new(received: lapin::message::Delivery, settler: &Arc<Settler>) -> Self {
        settler.took(received.delivery_tag);
        Self {
            exchange: received.exchange.to_string(),
            routing_key: received.routing_key.to_string(),
            redelivered: received.redelivered,
            properties: Properties::from(&received.properties),
            headers: received.properties.headers().as_ref().map(Headers::from).unwrap_or_default(),
            body: received.data,
            tag: received.delivery_tag,
            settler: settler.clone(),
            settled: false,
        }
    }

    /// The payload.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The payload read as JSON.
    ///
    /// # Errors
    /// Where it is not JSON or not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        Ok(serde_json::from_slice(&self.body)?)
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Message id, reply address and the like.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The exchange it was published to.
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The key it was published with.
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// Whether it may have been delivered before.
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// How often it was delivered before and came back, as a quorum queue
    /// counts; 0 the first time and from other queues.
    pub fn delivery_count(&self) -> u32 {
        let count = self.headers.get_integer("x-delivery-count").unwrap_or(0);
        u32::try_from(count).unwrap_or(0)
    }

    /// Done with it: RabbitMQ forgets the message.
    pub async fn ack(mut self) -> Settled {
        self.settled = true;
        gantry_failpoint::around("ack", &self.exchange, self.settler.ack(self.tag)).await
    }

    /// Cannot be processed: the queue dead-letters the message, as it is. Use
    /// [`dead_letter`](crate::dead_letter()) to say why and to strip credentials.
    pub async fn reject(mut self) -> Settled {
        self.settled = true;
        self.settler.nack(self.tag, false).await
    }

    /// Not now: the message goes back to its queue.
    pub async fn requeue(mut self) -> Settled {
        self.settled = true;
        self.settler.nack(self.tag, true).await
    }

    /// Whether settling still reaches RabbitMQ.
    pub fn is_live(&self) -> bool {
        self.settler.is_live()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.settled || !self.settler.is_live() {
            return;
        }
        tracing::warn!(
            message.exchange = self.exchange,
            message.routing_key = self.routing_key,
            "a delivery was dropped unsettled and goes back to its queue"
        );
        let (settler, tag) = (self.settler.clone(), self.tag);
        // Without a runtime the process is ending, and RabbitMQ requeues by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { settler.nack(tag, true).await });
        }
    }
}

/// Acks many deliveries with few frames. [`Settled::Stale`] where at least one
/// of them had lost its channel.
pub async fn ack_all(deliveries: impl IntoIterator<Item = Delivery>) -> Settled {
    let mut deliveries = deliveries.into_iter().peekable();
    // They come from one queue, so from one exchange.
    let Some(exchange) = deliveries.peek().map(|delivery| delivery.exchange.clone()) else { return Settled::Done };
    gantry_failpoint::around("ack", &exchange, ack_each(deliveries)).await
}

async fn ack_each(deliveries: impl Iterator<Item = Delivery>) -> Settled {
    // One channel nearly always, two around a reconnect.
    let mut channels: Vec<(Arc<Settler>, Vec<u64>)> = Vec::new();
    for mut delivery in deliveries {
        delivery.settled = true;
        match channels.iter_mut().find(|(settler, _)| Arc::ptr_eq(settler, &delivery.settler)) {
            Some((_, tags)) => tags.push(delivery.tag),
            None => channels.push((delivery.settler.clone(), vec![delivery.tag])),
        }
    }
    let mut all = Settled::Done;
    for (settler, tags) in channels {
        if settler.ack_many(&tags).await == Settled::Stale {
            all = Settled::Stale;
        }
    }
    all
}
