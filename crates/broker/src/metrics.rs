//! What is counted of the broker's use. Labels are parts, exchanges and reasons: closed sets all of them.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};

/// Made at its first use, when telemetry has begun.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&global::meter("gantry-broker")));

struct Metrics {
    up: Gauge<u64>,
    blocked: Gauge<u64>,
    reconnects: Counter<u64>,
    declared: Counter<u64>,
    publishes: Counter<u64>,
    retried: Counter<u64>,
    confirm: Histogram<f64>,
    consumers: Counter<u64>,
    dead: Counter<u64>,
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        Self {
            up: meter
                .u64_gauge("gantry.broker.connection.up")
                .with_description("1 while this process is connected to RabbitMQ, else 0.")
                .build(),
            blocked: meter
                .u64_gauge("gantry.broker.connection.blocked")
                .with_description("1 while RabbitMQ takes no messages: a memory or disk alarm.")
                .build(),
            reconnects: meter
                .u64_counter("gantry.broker.reconnects")
                .with_description("Connections made again after one was lost.")
                .build(),
            declared: meter
                .u64_counter("gantry.broker.topology.declarations")
                .with_description("Times that exchanges, queues and bindings were declared again.")
                .build(),
            publishes: meter
                .u64_counter("gantry.broker.publishes")
                .with_description("Publishes by what became of them; unconfirmed ones may be there all the same.")
                .build(),
            retried: meter
                .u64_counter("gantry.broker.publishes.retried")
                .with_description("Messages published again because their channel was lost before the confirm.")
                .build(),
            confirm: meter
                .f64_histogram("gantry.broker.publish.duration")
                .with_unit("s")
                .with_boundaries(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
                .with_description("Time from a publish to its confirm on the same channel.")
                .build(),
            consumers: meter
                .u64_counter("gantry.broker.consumers.restarted")
                .with_description("Consumers that were lost and started again.")
                .build(),
            dead: meter
                .u64_counter("gantry.dead_letters")
                .with_description("Messages put aside in gantry.dead.")
                .build(),
        }
    }
}

pub(crate) fn connected(part: &str, is: bool) {
    METRICS.up.record(is.into(), &[KeyValue::new("part", part.to_owned())]);
}

pub(crate) fn blocked(part: &str, is: bool) {
    METRICS.blocked.record(is.into(), &[KeyValue::new("part", part.to_owned())]);
}

pub(crate) fn reconnected(part: &str) {
    METRICS.reconnects.add(1, &[KeyValue::new("part", part.to_owned())]);
}

pub(crate) fn topology_declared(part: &str) {
    METRICS.declared.add(1, &[KeyValue::new("part", part.to_owned())]);
}

/// What became of a publish that somebody waited for.
pub(crate) fn published(exchange: &str, outcome: &'static str) {
    METRICS.publishes.add(1, &[label(exchange), KeyValue::new("outcome", outcome)]);
}

pub(crate) fn confirmed_after(exchange: &str, time: Duration) {
    METRICS.confirm.record(time.as_secs_f64(), &[label(exchange)]);
}

/// Replies go through the exchange without a name.
fn label(exchange: &str) -> KeyValue {
    KeyValue::new("exchange", if exchange.is_empty() { "reply".to_owned() } else { exchange.to_owned() })
}

pub(crate) fn retried(messages: usize) {
    if messages == 0 {
        return;
    }
    METRICS.retried.add(messages as u64, &[]);
}

pub(crate) fn consumer_restarted(source: &str) {
    METRICS.consumers.add(1, &[KeyValue::new("source", source.to_owned())]);
}

/// `origin` is the part or queue that gave up on a message, `reason` a code of a closed set.
pub(crate) fn dead_lettered(origin: &str, reason: &str) {
    METRICS.dead.add(1, &[KeyValue::new("origin", origin.to_owned()), KeyValue::new("reason", reason.to_owned())]);
}
