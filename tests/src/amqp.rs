//! RabbitMQ as any program uses it: nothing here is Gantry's own client.

#![expect(clippy::disallowed_methods, reason = "a test's own client, and not a part of the fleet")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;

/// A connection with one channel.
#[derive(Clone, Debug)]
pub struct Amqp {
    channel: Channel,
    _connection: Arc<Connection>,
}

/// A message to send.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The body.
    pub body: Vec<u8>,
    /// Headers with text.
    pub headers: BTreeMap<String, String>,
    /// Properties.
    pub message_id: Option<String>,
    /// Properties.
    pub correlation_id: Option<String>,
    /// Properties.
    pub reply_to: Option<String>,
}

/// A message that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The key it was published with.
    pub routing_key: String,
    /// The body.
    pub body: Vec<u8>,
    /// Headers with text.
    pub headers: BTreeMap<String, String>,
    /// Property.
    pub content_type: Option<String>,
    /// Property.
    pub correlation_id: Option<String>,
}

/// A queue of the test's own behind an exchange, that gathers all that comes.
#[derive(Debug)]
pub struct Tap {
    received: Arc<Mutex<Vec<Received>>>,
}

impl Amqp {
    /// Connects.
    pub async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { channel, _connection: Arc::new(connection) }
    }

    /// Publishes a message that some queue must take.
    pub async fn publish(&self, message: Outgoing) {
        assert!(self.offer(message).await, "the queue refused the message");
    }

    /// Publishes a message; false if its queue is full and refused it.
    pub async fn offer(&self, message: Outgoing) -> bool {
        let mut headers = FieldTable::default();
        for (name, value) in message.headers {
            headers.insert(name.as_str().into(), AMQPValue::LongString(LongString::from(value.into_bytes())));
        }
        let mut properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        if let Some(id) = message.message_id {
            properties = properties.with_message_id(id.as_str().into());
        }
        if let Some(id) = message.correlation_id {
            properties = properties.with_correlation_id(id.as_str().into());
        }
        if let Some(queue) = message.reply_to {
            properties = properties.with_reply_to(queue.as_str().into());
        }
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (message.exchange.as_str().into(), message.routing_key.as_str().into());
        let sent = self.channel.basic_publish(exchange, key, options, &message.body, properties).await;
        let confirm = sent.expect("sent").await.expect("confirmed");
        let taken = confirm.is_ack();
        assert!(confirm.take_message().is_none(), "no queue took the message");
        taken
    }

    /// Whether there is a queue of this name. The connection is of no use afterwards if there is not.
    pub async fn exists(&self, queue: &str) -> bool {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.is_ok()
    }

    /// Publishes JSON.
    pub async fn publish_json(&self, exchange: &str, routing_key: &str, body: &Value) {
        let body = body.to_string().into_bytes();
        self.publish(Outgoing {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            body,
            ..Outgoing::default()
        })
        .await;
    }

    /// Gathers copies of what `exchange` gets with this key; wildcards for a topic exchange.
    pub async fn tap(&self, exchange: &str, routing_key: &str) -> Tap {
        let queue = self.own_queue().await;
        self.channel
            .queue_bind(
                queue.as_str().into(),
                exchange.into(),
                routing_key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("bound");
        self.drain(&queue).await
    }

    /// Gathers, and takes away, what comes to `queue`.
    pub async fn drain(&self, queue: &str) -> Tap {
        let mut consumer = self
            .channel
            .basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .expect("consuming");
        let received = Arc::new(Mutex::new(Vec::new()));
        let tap = Tap { received: received.clone() };
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                received.lock().expect("nobody panics with it").push(Received::from(&delivery));
                let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            }
        });
        tap
    }

    /// A queue that ends with this connection.
    pub(crate) async fn own_queue(&self) -> String {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare("".into(), options, FieldTable::default()).await.expect("declared");
        queue.name().to_string()
    }

    /// Messages that are ready in `queue`.
    pub async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("it exists");
        queue.message_count()
    }
}

impl Tap {
    /// What came so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("nobody panics with it").clone()
    }

    /// What came since the last time.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().expect("nobody panics with it"))
    }
}

impl Received {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

impl From<&Delivery> for Received {
    fn from(delivery: &Delivery) -> Self {
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            _ => None,
        };
        let table = delivery.properties.headers().as_ref();
        let headers = table.into_iter().flat_map(|table| table.inner().iter());
        let property = |value: &Option<lapin::types::ShortString>| value.as_ref().map(|text| text.to_string());
        Self {
            routing_key: delivery.routing_key.to_string(),
            body: delivery.data.clone(),
            headers: headers.filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect(),
            content_type: property(delivery.properties.content_type()),
            correlation_id: property(delivery.properties.correlation_id()),
        }
    }
}
