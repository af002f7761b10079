//! A producer: hands jobs in over RabbitMQ and reads the answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use gantry_core::JobId;
use gantry_testkit::eventually_some;
use serde_json::Value;
use uuid::Uuid;

use crate::PATIENCE;
use crate::amqp::{Amqp, Outgoing, Tap};

/// A submission as a message. The default of each field is what a good producer sends.
#[derive(Clone, Debug)]
pub struct Message {
    /// The body.
    pub body: Vec<u8>,
    /// `x-gantry-api-key`.
    pub api_key: Option<String>,
    /// `message_id`.
    pub message_id: Option<String>,
    /// `traceparent`.
    pub traceparent: Option<String>,
}

/// A producer of one tenant.
#[derive(Clone, Debug)]
pub struct Producer {
    amqp: Amqp,
    key: String,
    reply_to: String,
    replies: Arc<Tap>,
    answers: Arc<Mutex<HashMap<String, Value>>>,
}

impl Producer {
    pub(crate) async fn new(amqp: Amqp, key: &str) -> Self {
        let reply_to = amqp.own_queue().await;
        let replies = Arc::new(amqp.drain(&reply_to).await);
        Self { amqp, key: key.to_owned(), reply_to, replies, answers: Arc::default() }
    }

    /// This body as a message, with the tenant's key and a message id of its own.
    pub fn message(&self, body: &Value) -> Message {
        Message {
            body: body.to_string().into_bytes(),
            api_key: Some(self.key.clone()),
            message_id: Some(Uuid::now_v7().to_string()),
            traceparent: None,
        }
    }

    /// Publishes a message; the answer is read with [`Producer::answer`], by the id returned here.
    pub async fn send(&self, message: Message) -> String {
        self.offer(message).await.expect("the queue of submissions has room")
    }

    /// The same; none if the queue of submissions is full and refused it.
    pub async fn offer(&self, message: Message) -> Option<String> {
        let correlation_id = Uuid::now_v7().to_string();
        let headers: BTreeMap<String, String> =
            [("x-gantry-api-key", message.api_key), ("traceparent", message.traceparent)]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                .collect();
        let outgoing = Outgoing {
            exchange: "gantry.submissions".into(),
            routing_key: "gantry.submissions".into(),
            body: message.body,
            headers,
            message_id: message.message_id,
            correlation_id: Some(correlation_id.clone()),
            reply_to: Some(self.reply_to.clone()),
        };
        self.amqp.offer(outgoing).await.then_some(correlation_id)
    }

    /// Waits for the answer to a message.
    pub async fn answer(&self, correlation_id: &str) -> Value {
        self.answer_within(PATIENCE, correlation_id).await
    }

    async fn answer_within(&self, limit: Duration, correlation_id: &str) -> Value {
        eventually_some(limit, async || {
            let mut answers = self.answers.lock().expect("nobody panics with it");
            for reply in self.replies.take() {
                let body = reply.json();
                answers.insert(reply.correlation_id.expect("a reply is correlated"), body);
            }
            answers.remove(correlation_id)
        })
        .await
    }

    /// Publishes messages at the same time and waits for their answers, in their order.
    pub async fn ask_all(&self, messages: Vec<Message>) -> Vec<Value> {
        let sent = join_all(messages.into_iter().map(|message| self.send(message))).await;
        join_all(sent.iter().map(|id| self.answer(id))).await
    }

    /// Publishes a message and waits for its answer.
    pub async fn ask(&self, message: Message) -> Value {
        let sent = self.send(message).await;
        self.answer(&sent).await
    }

    /// Hands in a job that must be accepted.
    pub async fn submit(&self, body: &Value) -> JobId {
        accepted(&self.ask(self.message(body)).await)
    }

    /// Hands in jobs that must all be accepted.
    pub async fn submit_all(&self, bodies: &[Value]) -> Vec<JobId> {
        let answers = self.ask_all(bodies.iter().map(|body| self.message(body)).collect()).await;
        answers.iter().map(accepted).collect()
    }
}

/// The job that an answer accepts.
#[track_caller]
fn accepted(answer: &Value) -> JobId {
    assert_eq!(answer["result"], "accepted", "{answer}");
    answer["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
}
