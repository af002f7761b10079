//! A private RabbitMQ keeps its queues whatever happens to it and to its supervisor.

#![expect(clippy::disallowed_methods, reason = "a test's own client, and not a part of the fleet")]

use std::time::Duration;

use crate::common;
use futures::StreamExt;
use gantry_servers::{RabbitCluster, RabbitMq};
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const QUEUE: &str = "kept";

async fn channel(rabbitmq: &RabbitMq) -> (Connection, Channel) {
    open(&rabbitmq.amqp_url("/")).await
}

async fn open(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await;
    let connection = connection.expect("it accepts clients");
    let channel = connection.create_channel().await.expect("opens a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, arguments).await.expect("declares");
    (connection, channel)
}

#[tokio::test]
async fn keeps_messages_over_restarts_and_leaves_no_process() {
    let folder = common::folder();
    let rabbitmq = RabbitMq::start(folder.path()).await.expect("starts");
    let (connection, sender) = channel(&rabbitmq).await;
    let persistent = BasicProperties::default().with_delivery_mode(2);
    sender
        .basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), b"42", persistent)
        .await
        .expect("publishes")
        .await
        .expect("is confirmed");
    let addresses = (rabbitmq.amqp_url("a/b"), rabbitmq.management_url());
    assert!(addresses.0.ends_with("/a%2fb"), "{addresses:?}");
    drop(connection);
    rabbitmq.stop().await.expect("stops");
    common::wait_for_no_process(folder.path());

    // Left running by a killed supervisor, then taken over here.
    common::leave_running(folder.path(), "rabbitmq");
    assert!(!common::processes(folder.path()).is_empty());
    let rabbitmq = RabbitMq::start(folder.path()).await.expect("starts again");
    assert_eq!((rabbitmq.amqp_url("a/b"), rabbitmq.management_url()), addresses);
    let (connection, receiver) = channel(&rabbitmq).await;
    let message = receiver.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await;
    assert_eq!(message.expect("gets").expect("the message was kept").delivery.data, b"42");
    drop(connection);
    rabbitmq.crash().await.expect("is killed");
    common::wait_for_no_process(folder.path());
}

#[tokio::test]
async fn takes_settings_of_its_own() {
    let folder = common::folder();
    let settings = [("consumer_timeout", 1_000), ("channel_tick_interval", 200)];
    let rabbitmq = RabbitMq::start_with(folder.path(), &settings).await.expect("starts");
    let (_connection, channel) = channel(&rabbitmq).await;
    let mut consumer = channel
        .basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("consumes");
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let publish = channel.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), b"42", persistent);
    publish.await.expect("publishes").await.expect("arrives");
    let _never_acked = consumer.next().await.expect("a delivery").expect("is delivered");
    let cut = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.expect("it does not wait for ever");
    assert!(!matches!(cut, Some(Ok(_))), "the channel is closed: {cut:?}");
    rabbitmq.stop().await.expect("stops");
}

/// Everything that a consumer gets until it has this many.
async fn consume(channel: &Channel, count: usize) -> Vec<Vec<u8>> {
    let consumer = channel
        .basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .expect("consumes");
    let deliveries = consumer.take(count).map(|delivery| delivery.expect("is delivered").data).collect();
    tokio::time::timeout(Duration::from_secs(30), deliveries).await.expect("the messages were kept")
}

/// Publishes a message until it is taken. A channel whose first message finds the queue between two leaders has all of
/// its messages refused, for ever: hence a new one each time.
async fn publish(url: &str, text: &[u8]) {
    let publish = async || {
        let (_connection, channel) = open(url).await;
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let publish = channel.basic_publish("".into(), QUEUE.into(), BasicPublishOptions::default(), text, persistent);
        publish.await.expect("publishes").await.expect("is answered").is_ack()
    };
    while !publish().await {}
}

#[tokio::test]
async fn a_cluster_loses_a_node_and_gets_it_back() {
    let folder = common::folder();
    let mut cluster = RabbitCluster::start(folder.path()).await.expect("starts");
    let [first, second, third] = cluster.amqp_urls("/");
    publish(&second, b"one").await;

    cluster.kill(1).await.expect("it runs");
    publish(&third, b"two").await;
    cluster.restart(1).await.expect("it comes back");
    let (connection, receiver) = open(&second).await;
    assert_eq!(consume(&receiver, 2).await, [b"one", b"two"]);
    drop(connection);
    cluster.stop().await.expect("stops");
    common::wait_for_no_process(folder.path());

    let cluster = RabbitCluster::start(folder.path()).await.expect("starts again");
    assert_eq!(cluster.amqp_urls("/")[0], first);
    drop(open(&first).await);
    cluster.stop().await.expect("stops again");
    common::wait_for_no_process(folder.path());
}
