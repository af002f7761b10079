//! A message's parts: headers, properties, and what is sent.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use serde::Serialize;

use crate::topology::Route;

/// The headers of a message.
///
/// Text is what Gantry writes; values of other AMQP types (`x-death` of a
/// dead-lettered message) are carried along untouched.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Headers(BTreeMap<ShortString, AMQPValue>);

impl Headers {
    /// The header as text, or `None` where it is absent or not text.
    pub fn get(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The header as a number, or `None` where it is absent or not an integer.
    pub fn get_integer(&self, name: &str) -> Option<i64> {
        match *self.0.get(name)? {
            AMQPValue::ShortShortInt(n) => Some(n.into()),
            AMQPValue::ShortShortUInt(n) => Some(n.into()),
            AMQPValue::ShortInt(n) => Some(n.into()),
            AMQPValue::ShortUInt(n) => Some(n.into()),
            AMQPValue::LongInt(n) => Some(n.into()),
            AMQPValue::LongUInt(n) => Some(n.into()),
            AMQPValue::LongLongInt(n) => Some(n),
            _ => None,
        }
    }

    /// Sets a header. A name longer than 255 bytes, which AMQP cannot carry,
    /// is cut at a character's start.
    pub fn insert(&mut self, name: &str, value: impl Into<String>) {
        let value = AMQPValue::LongString(LongString::from(value.into().into_bytes()));
        self.0.insert(short(name), value);
    }

    pub(crate) fn insert_integer(&mut self, name: &str, value: i64) {
        self.0.insert(short(name), AMQPValue::LongLongInt(value));
    }

    /// Removes a header, whatever its case: a credential must not survive
    /// because a producer wrote it in capitals.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|known, _| !known.as_str().eq_ignore_ascii_case(name));
    }

    /// The headers that are text or integers, as text.
    pub fn texts(&self) -> impl Iterator<Item = (&str, String)> {
        self.names().filter_map(|name| {
            let text = self.get(name).map(str::to_owned);
            Some((name, text.or_else(|| self.get_integer(name).map(|number| number.to_string()))?))
        })
    }

    /// The names of all headers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(ShortString::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Roughly what the headers take on the wire, in bytes.
    pub(crate) fn wire_size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.as_str().len() + value_size(value)).sum()
    }

    pub(crate) fn to_table(&self) -> FieldTable {
        FieldTable::from(self.0.clone())
    }
}

impl From<&FieldTable> for Headers {
    fn from(table: &FieldTable) -> Self {
        Self(table.inner().clone())
    }
}

fn value_size(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => 8 + text.len(),
        AMQPValue::ByteArray(bytes) => 8 + bytes.len(),
        AMQPValue::FieldArray(array) => 8 + array.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(table) => Headers::from(table).wire_size(),
        _ => 16,
    }
}

/// AMQP's short strings hold 255 bytes; lapin panics on more, so all text on
/// its way there passes here.
pub(crate) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::from(&text[..end])
}

/// The properties of a message that Gantry uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    /// The producer's own identity of the message; a source of idempotency.
    pub message_id: Option<String>,
    /// Ties a reply to what it answers.
    pub correlation_id: Option<String>,
    /// Queue that wants the answer, addressed through the default exchange.
    pub reply_to: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// The property `type`: what the message is, in the producer's terms.
    pub kind: Option<String>,
    /// Whether the message is written to disk (delivery mode 2).
    pub persistent: bool,
}

impl From<&BasicProperties> for Properties {
    fn from(source: &BasicProperties) -> Self {
        let text = |field: &Option<ShortString>| field.as_ref().map(|s| s.as_str().to_owned());
        Self {
            message_id: text(source.message_id()),
            correlation_id: text(source.correlation_id()),
            reply_to: text(source.reply_to()),
            content_type: text(source.content_type()),
            kind: text(source.kind()),
            persistent: *source.delivery_mode() == Some(PERSISTENT),
        }
    }
}

const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Exchange; empty for the default one.
    pub exchange: String,
    /// Routing key, at most 255 bytes.
    pub routing_key: String,
    /// The payload.
    pub body: Vec<u8>,
    /// Identity, reply address and the like.
    pub properties: Properties,
    /// Headers; the trace context is added by the publisher.
    pub headers: Headers,
    /// Whether it is an error that no queue takes the message.
    pub mandatory: bool,
}

impl Outgoing {
    /// A message for a work queue: persistent and mandatory.
    pub fn work(route: Route, body: Vec<u8>) -> Self {
        Self {
            exchange: route.exchange,
            routing_key: route.routing_key,
            body,
            properties: Properties { persistent: true, ..Properties::default() },
            headers: Headers::default(),
            mandatory: true,
        }
    }

    /// A public event: persistent, but nobody listening is no error.
    pub fn event(route: Route, body: Vec<u8>) -> Self {
        Self { mandatory: false, ..Self::work(route, body) }
    }

    /// A nudge or a live-tail line: transient, and nobody listening is no error.
    pub fn transient(route: Route, body: Vec<u8>) -> Self {
        Self { properties: Properties::default(), mandatory: false, ..Self::work(route, body) }
    }

    /// An answer to the queue that asked for it.
    pub fn reply(reply_to: &str, correlation_id: Option<&str>, body: Vec<u8>) -> Self {
        let route = Route { exchange: String::new(), routing_key: reply_to.to_owned() };
        let mut reply = Self::transient(route, body);
        reply.properties.correlation_id = correlation_id.map(str::to_owned);
        reply
    }

    /// `value` as the JSON body of [`Outgoing::work`].
    ///
    /// # Errors
    /// Where `value` cannot be written as JSON (a map with keys that are no text).
    pub fn json<T: Serialize>(route: Route, value: &T) -> Result<Self, serde_json::Error> {
        let mut outgoing = Self::work(route, serde_json::to_vec(value)?);
        outgoing.properties.content_type = Some("application/json".to_owned());
        Ok(outgoing)
    }

    /// The properties and headers as lapin takes them, with `publish_id` for
    /// mandatory messages (see [`crate::publish`]).
    pub(crate) fn to_lapin(&self, publish_id: (&str, i64)) -> BasicProperties {
        let mut properties = BasicProperties::default().with_delivery_mode(if self.properties.persistent {
            PERSISTENT
        } else {
            TRANSIENT
        });
        if let Some(text) = &self.properties.message_id {
            properties = properties.with_message_id(short(text));
        }
        if let Some(text) = &self.properties.correlation_id {
            properties = properties.with_correlation_id(short(text));
        }
        if let Some(text) = &self.properties.reply_to {
            properties = properties.with_reply_to(short(text));
        }
        if let Some(text) = &self.properties.content_type {
            properties = properties.with_content_type(short(text));
        }
        if let Some(text) = &self.properties.kind {
            properties = properties.with_type(short(text));
        }
        let mut headers = self.headers.clone();
        if self.mandatory {
            headers.insert_integer(publish_id.0, publish_id.1);
        }
        if headers.is_empty() { properties } else { properties.with_headers(headers.to_table()) }
    }
}
