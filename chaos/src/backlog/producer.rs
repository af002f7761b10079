//! Hands jobs in by the thousand, over RabbitMQ and over HTTP.

use anyhow::Context;
use gantry_broker::{Broker, Outgoing, Publisher};
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::Tenant;

/// Publishes in flight at once.
const WAVE: usize = 1_000;

/// A connection to RabbitMQ.
pub(super) struct Producer {
    broker: Broker,
    publisher: Publisher,
}

impl Producer {
    pub(super) async fn connect(amqp: &str) -> anyhow::Result<Self> {
        let broker = Broker::connect(gantry_broker::Config::new(amqp), "gantry-load").await?;
        let publisher = Publisher::new(&broker);
        Ok(Self { broker, publisher })
    }

    /// Hands jobs in; returns when RabbitMQ has them all.
    pub(super) async fn submit(&self, tenant: &Tenant, jobs: impl IntoIterator<Item = Value>) -> anyhow::Result<()> {
        let mut messages = Vec::with_capacity(WAVE);
        for job in jobs {
            let mut message = Outgoing::json(self.broker.topology().submissions(), &job)?;
            message.headers.insert("x-gantry-api-key", &tenant.key);
            messages.push(message);
            if messages.len() == WAVE {
                self.publish(std::mem::take(&mut messages)).await?;
            }
        }
        self.publish(messages).await
    }

    async fn publish(&self, messages: Vec<Outgoing>) -> anyhow::Result<()> {
        for result in self.publisher.publish_all(messages).await {
            result.context("a submission was not confirmed")?;
        }
        Ok(())
    }
}

/// A job of a simulated container that runs for so many milliseconds, with a key of its own.
pub(super) fn job(millis: u64) -> Value {
    json!({
        "name": "load",
        "idempotency_key": Uuid::now_v7(),
        "preferred_executor": "mock",
        "spec": { "image": "simulated" },
        "labels": { "mock.duration": format!("{millis}ms") },
    })
}
