//! A consumer that is registered and gets nothing, although messages are ready.

#![expect(clippy::disallowed_methods, reason = "a test's own client, and not a part of the fleet")]

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use gantry_broker::{Broker, Config, Consumer, ack_all, consume};
use gantry_testkit::{TestVhost, eventually};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// Longer than anything here takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

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
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();

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
    let starving = tokio::spawn(async move {
        let options = consume::Options { watchdog: Duration::from_millis(100), ..consume::Options::default() };
        let mut consumer = Consumer::new(&broker, "selfish", options);
        ack_all(consumer.next_batch().await).await
    });
    eventually(LIMIT, async || lines.contain("messages are ready, yet none is delivered")).await;
    assert!(!starving.is_finished());
    other.close(200, "fed up".into()).await.expect("closed");
    starving.await.expect("it is fed now");
}
