//! What a process must be told about the broker.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

/// Where RabbitMQ is and how Gantry uses it.
///
/// Durations are written as text with a unit: `"10s"`, `"1500ms"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `amqp://user:password@host:5672/vhost` (or `amqps://`). A secret, because
    /// it carries the password. The vhost is percent-encoded: `%2f` for `/`.
    ///
    /// Of a cluster: the addresses of its nodes, separated by commas (a comma
    /// in a password is `%2c`). One of them is connected to, any to begin with,
    /// and the next when that is lost.
    pub url: SecretString,

    /// Put in front of every exchange and queue name, as it is (`"staging."`
    /// gives `staging.gantry.jobs`), so that many fleets share one vhost.
    #[serde(default)]
    pub prefix: String,

    /// How long a publish may take until its confirm, reconnections included.
    #[serde(default = "defaults::publish_deadline", with = "duration")]
    pub publish_deadline: Duration,

    /// How long one attempt to connect may take, and how long the first
    /// connection of a process is tried for before the start fails.
    #[serde(default = "defaults::connect_timeout", with = "duration")]
    pub connect_timeout: Duration,

    /// Interval of AMQP heartbeats, rounded to whole seconds; a peer that is
    /// silent for two of them counts as gone.
    #[serde(default = "defaults::heartbeat", with = "duration")]
    pub heartbeat: Duration,

    /// Largest body that is sent, in bytes. Below RabbitMQ's own limit, because
    /// RabbitMQ closes the whole channel on a message that is too large.
    #[serde(default = "defaults::max_message_bytes")]
    pub max_message_bytes: usize,

    /// Messages that may wait in `gantry.submissions` before producers are
    /// refused. All replicas must agree: it is an argument of the queue.
    #[serde(default = "defaults::submissions_max_length")]
    pub submissions_max_length: u32,

    /// How often a message of a work queue may be delivered again before it is
    /// dead-lettered. All replicas must agree: it is an argument of the queues.
    #[serde(default = "defaults::delivery_limit")]
    pub delivery_limit: u32,
}

impl Config {
    /// The defaults, for a broker at `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: SecretString::from(url.into()),
            prefix: String::new(),
            publish_deadline: defaults::publish_deadline(),
            connect_timeout: defaults::connect_timeout(),
            heartbeat: defaults::heartbeat(),
            max_message_bytes: defaults::max_message_bytes(),
            submissions_max_length: defaults::submissions_max_length(),
            delivery_limit: defaults::delivery_limit(),
        }
    }
}

mod defaults {
    use std::time::Duration;

    pub(super) fn publish_deadline() -> Duration {
        Duration::from_secs(10)
    }

    pub(super) fn connect_timeout() -> Duration {
        Duration::from_secs(10)
    }

    pub(super) fn heartbeat() -> Duration {
        Duration::from_secs(10)
    }

    pub(super) fn max_message_bytes() -> usize {
        16 * 1024 * 1024
    }

    pub(super) fn submissions_max_length() -> u32 {
        100_000
    }

    pub(super) fn delivery_limit() -> u32 {
        20
    }
}

/// Durations as people write them.
mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, de::Error};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(source)?;
        humantime::parse_duration(&text).map_err(D::Error::custom)
    }
}
