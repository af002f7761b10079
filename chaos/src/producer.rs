//! A producer that knows nothing of Gantry's own client: it keeps the ledger of what was accepted, and listens to the
//! public events.

#![expect(clippy::disallowed_methods, reason = "a producer's own client, and not a part of the fleet")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, ensure};
use futures::StreamExt;
use gantry_core::JobId;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;

use crate::fleet::KEY;

/// What came back so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Every answer, by correlation id. The same submission may be answered twice.
    answers: BTreeMap<String, Vec<Value>>,
    /// The ids of the terminal events of each job: an event may come twice, with the same id.
    ends: BTreeMap<JobId, BTreeSet<String>>,
}

/// A connection with its own queue for answers and events.
pub(crate) struct Producer {
    channel: Channel,
    connection: Connection,
    queue: String,
    received: Arc<Mutex<Received>>,
}

impl Producer {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?.name().to_string();
        channel
            .queue_bind(
                queue.as_str().into(),
                "gantry.events".into(),
                "job.#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        let received = Arc::<Mutex<Received>>::default();
        let mut consumer = channel
            .basic_consume(queue.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await?;
        let gathered = received.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                let correlation = delivery.properties.correlation_id().as_ref().map(ToString::to_string);
                lock(&gathered).take(correlation, &delivery.data);
                // The queue ends with the connection: what is not acked is of no use to anybody.
                let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            }
        });
        Ok(Self { channel, connection, queue, received })
    }

    /// A channel of its own, with confirms.
    pub(crate) async fn channel(&self) -> anyhow::Result<Channel> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    /// Hands in a job under a key, which is also what the answer is found by; returns when RabbitMQ has it.
    pub(crate) async fn submit(&self, key: &str, body: &Value) -> anyhow::Result<()> {
        publish(&self.channel, &self.queue, key, body).await
    }

    /// The answers to a submission.
    pub(crate) fn answers(&self, key: &str) -> Vec<Value> {
        lock(&self.received).answers(key).to_vec()
    }

    /// How many different terminal events a job had.
    pub(crate) fn ends(&self, job: JobId) -> usize {
        lock(&self.received).ends(job)
    }

    /// All that came back so far.
    pub(crate) fn received(&self) -> Received {
        lock(&self.received).clone()
    }
}

impl Received {
    /// The answers to a submission.
    pub(crate) fn answers(&self, key: &str) -> &[Value] {
        self.answers.get(key).map_or(&[], Vec::as_slice)
    }

    /// The job that a submission made.
    pub(crate) fn accepted(&self, key: &str) -> Option<JobId> {
        let accepted = self.answers(key).iter().find(|answer| answer["result"] == "accepted")?;
        accepted["job_id"].as_str()?.parse().ok()
    }

    /// How many different terminal events a job had.
    pub(crate) fn ends(&self, job: JobId) -> usize {
        self.ends.get(&job).map_or(0, BTreeSet::len)
    }

    /// How many jobs had one.
    pub(crate) fn ended(&self) -> usize {
        self.ends.len()
    }

    /// Notes an answer, whichever way it came.
    pub(crate) fn answer(&mut self, key: &str, answer: Value) {
        self.answers.entry(key.to_owned()).or_default().push(answer);
    }

    /// Notes a message: an answer if it is correlated to something, else an event.
    pub(crate) fn take(&mut self, correlation: Option<String>, body: &[u8]) {
        // Whatever is not JSON is nobody's answer, and is missed as one.
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
        if let Some(correlation) = correlation {
            return self.answer(&correlation, body);
        }
        let kind = body["type"].as_str().and_then(|kind| kind.strip_prefix("gantry.job."));
        let terminal = matches!(kind, Some("completed" | "failed" | "timeout" | "cancelled"));
        let subject = body["subject"].as_str().and_then(|id| id.parse().ok());
        if let (true, Some(job), Some(id)) = (terminal, subject, body["id"].as_str()) {
            self.ends.entry(job).or_default().insert(id.to_owned());
        }
    }
}

/// Publishes a submission whose answer is wanted in `queue`; returns when RabbitMQ has it.
pub(crate) async fn publish(channel: &Channel, queue: &str, key: &str, body: &Value) -> anyhow::Result<()> {
    let mut headers = FieldTable::default();
    headers.insert("x-gantry-api-key".into(), AMQPValue::LongString(LongString::from(KEY.as_bytes())));
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(headers)
        .with_message_id(key.into())
        .with_correlation_id(key.into())
        .with_reply_to(queue.into());
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let route = "gantry.submissions";
    let body = body.to_string();
    let sent = channel.basic_publish(route.into(), route.into(), options, body.as_bytes(), properties).await?;
    let confirm = sent.await.context("a submission was not confirmed")?;
    ensure!(!confirm.is_nack(), "the queue refused a submission");
    ensure!(confirm.take_message().is_none(), "no queue took a submission");
    Ok(())
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_told_twice_is_one_and_another_end_is_another() {
        let job = JobId::new();
        let event = |id: &str, kind: &str| {
            json!({ "id": id, "type": format!("gantry.job.{kind}"), "subject": job }).to_string().into_bytes()
        };
        let mut received = Received::default();
        for (id, kind) in [("1", "started"), ("2", "completed"), ("2", "completed")] {
            received.take(None, &event(id, kind));
        }
        assert_eq!(received.ends[&job].len(), 1);
        received.take(None, &event("3", "failed"));
        assert_eq!(received.ends[&job].len(), 2);
        received.take(Some("key".to_owned()), br#"{"result": "accepted"}"#);
        received.take(Some("key".to_owned()), b"not JSON");
        assert_eq!(received.answers["key"].len(), 1);
    }
}
