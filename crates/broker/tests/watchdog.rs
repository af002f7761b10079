//! A consumer that is registered and gets nothing, although messages are ready.

#![expect(clippy::disallowed_methods, reason = "a test's own client, and not a part of the fleet")]

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use gantry_broker::{Broker, Config, Consumer, Outgoing, Publisher, ack_all, consume};
use gantry_testkit::{TestVhost, eventually};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// Longer than anything here takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// What is logged of a consumer that gets nothing.
const STARVED: &str = "messages are ready, yet none is delivered";

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn contain(&self, text: &str) -> bool {
        let bytes = self.0.lock().expect("no writer panicked");
        String::from_utf8_lossy(&bytes).contains(text)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no writer panicked").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A queue that feeds one consumer at a time, which makes any other one starve
/// the way a broken broker does.
async fn selfish_queue(channel: &Channel) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let options = QueueDeclareOptions::default();
    channel.queue_declare("selfish".into(), options, arguments).await.expect("declared");
    for _ in 0..3 {
        channel
            .basic_publish(
                "".into(),
                "selfish".into(),
                BasicPublishOptions::default(),
                b"x",
                BasicProperties::default(),
            )
            .await
            .expect("published");
    }
}

#[tokio::test]
async fn a_starving_consumer_starts_again_until_it_is_fed() {
    is_fed_at_last(async |consumer| {
        ack_all(consumer.next_batch().await).await;
    })
    .await;
}

#[tokio::test]
async fn so_does_one_whose_caller_does_other_things_in_between() {
    is_fed_at_last(async |consumer| {
        loop {
            // Shorter than silence is believed.
            if let Ok(batch) = tokio::time::timeout(Duration::from_millis(50), consumer.next_batch()).await {
                ack_all(batch).await;
                return;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_never_waits_is_served_all_the_same() {
    let vhost = TestVhost::create().await;
    let broker = Broker::connect(Config::new(vhost.amqp_url()), "test").await.expect("connected");
    let topology = broker.topology().clone();
    topology.declare(&broker, &[]).await.expect("declared");
    let message = Outgoing::work(topology.reports(), b"x".to_vec());
    Publisher::new(&broker).publish(message).await.expect("confirmed");
    let mut consumer = Consumer::new(&broker, topology.reports_queue(), consume::Options::default());
    let mut batch = None;
    eventually(LIMIT, async || {
        batch = consumer.next_batch().now_or_never();
        batch.is_some()
    })
    .await;
    ack_all(batch.expect("a batch")).await;
}

async fn is_fed_at_last(take: impl AsyncFnOnce(&mut Consumer)) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let vhost = TestVhost::create().await;
    let other = Connection::connect(vhost.amqp_url(), ConnectionProperties::default());
    let other = other.await.expect("connected");
    let channel = other.create_channel().await.expect("a channel");
    selfish_queue(&channel).await;
    channel.basic_qos(1, BasicQosOptions::default()).await.expect("one at a time");
    let options = BasicConsumeOptions::default();
    let eater = channel.basic_consume("selfish".into(), "".into(), options, FieldTable::default());
    let mut eater = eater.await.expect("consuming");
    let _held = eater.next().await.expect("a delivery").expect("no error");

    let config = Config::new(vhost.amqp_url());
    let broker = Broker::connect(config, "test").await.expect("connected");
    let options = consume::Options { watchdog: Duration::from_millis(100), ..consume::Options::default() };
    let mut consumer = Consumer::new(&broker, "selfish", options);
    let fed = async {
        take(&mut consumer).await;
        assert!(lines.contain(STARVED), "not before its rival has gone");
    };
    let rival = async {
        eventually(LIMIT, async || lines.contain(STARVED)).await;
        other.close(200, "fed up".into()).await.expect("closed");
    };
    let both = tokio::time::timeout(2 * LIMIT, async { tokio::join!(fed, rival) });
    both.await.expect("it is fed now");
}
