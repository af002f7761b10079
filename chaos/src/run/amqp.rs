//! The producer's own connection to RabbitMQ: nothing of Gantry's client, and made anew whenever it is lost.

#![expect(clippy::disallowed_methods, reason = "a client of its own, and not a part of the fleet")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::producer::{Received, publish};

/// The producer's queue, for answers and events. Durable, because what it is told while RabbitMQ is away must not be
/// lost: an end that nobody was told of counts.
const QUEUE: &str = "chaos.producer";
/// Every queue of the fleet that outlives its connection.
const WORK: [&str; 5] =
    ["gantry.submissions", "gantry.jobs.mock", "gantry.jobs.docker", "gantry.reports", "gantry.dead"];
/// The longest that anything here is waited for, before it is tried anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two connections.
const PAUSE: Duration = Duration::from_millis(300);

/// The connection, while there is one.
pub(crate) struct Amqp {
    url: String,
    channel: Mutex<Option<Channel>>,
    received: Arc<Mutex<Received>>,
}

impl Amqp {
    pub(crate) fn new(url: &str, received: Arc<Mutex<Received>>) -> Self {
        Self { url: url.to_owned(), channel: Mutex::new(None), received }
    }

    /// Connects, and gathers what comes, for ever.
    pub(crate) async fn stay_connected(&self) {
        loop {
            // Why it was lost is the schedule's to say.
            let _ = self.session().await;
            self.put(None);
            sleep(PAUSE).await;
        }
    }

    async fn session(&self) -> anyhow::Result<()> {
        let connection = timeout(PATIENCE, connect(&self.url)).await??;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        channel.queue_declare(QUEUE.into(), durable, quorum).await?;
        let nothing = FieldTable::default;
        channel
            .queue_bind(QUEUE.into(), "gantry.events".into(), "job.#".into(), QueueBindOptions::default(), nothing())
            .await?;
        let mut consumer =
            channel.basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), nothing()).await?;
        self.put(Some(channel));
        while let Some(delivery) = consumer.next().await {
            let delivery = delivery?;
            let correlation = delivery.properties.correlation_id().as_ref().map(ToString::to_string);
            self.received.lock().unwrap_or_else(PoisonError::into_inner).take(correlation, &delivery.data);
            delivery.acker.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    fn put(&self, channel: Option<Channel>) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }

    /// Hands in a job; an error means that it may have arrived or not.
    pub(crate) async fn submit(&self, key: &str, body: &Value) -> anyhow::Result<()> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let channel = channel.context("not connected")?;
        timeout(PATIENCE, publish(&channel, QUEUE, key, body)).await?
    }
}

async fn connect(url: &str) -> lapin::Result<Connection> {
    Connection::connect(url, ConnectionProperties::default()).await
}

/// Throws away every message that is ready in the fleet's queues; returns how many there were in which.
pub(crate) async fn purge(url: &str) -> anyhow::Result<Vec<(&'static str, u32)>> {
    let connection = timeout(PATIENCE, connect(url)).await??;
    let channel = connection.create_channel().await?;
    let mut purged = Vec::new();
    for queue in WORK {
        purged.push((queue, channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await?));
    }
    connection.close(200, "done".into()).await?;
    Ok(purged)
}
