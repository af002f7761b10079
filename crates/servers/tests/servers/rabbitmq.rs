//! A private RabbitMQ keeps its queues whatever happens to it and to its supervisor.

use crate::common;
use gantry_servers::RabbitMq;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const QUEUE: &str = "kept";

async fn channel(rabbitmq: &RabbitMq) -> (Connection, Channel) {
    let url = rabbitmq.amqp_url("/");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await;
    let connection = connection.expect("it accepts clients");
    let channel = connection.create_channel().await.expect("opens a channel");
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
    sender.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
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
    assert_eq!(common::processes(folder.path()), [""; 0]);

    // Left running by a killed supervisor, then taken over here.
    common::leave_running(folder.path(), "rabbitmq");
    assert!(!common::processes(folder.path()).is_empty());
    let rabbitmq = RabbitMq::start(folder.path()).await.expect("starts again");
    assert_eq!((rabbitmq.amqp_url("a/b"), rabbitmq.management_url()), addresses);
    let (connection, receiver) = channel(&rabbitmq).await;
    let message = receiver.basic_get(QUEUE.into(), BasicGetOptions { no_ack: true }).await;
    assert_eq!(message.expect("gets").expect("the message was kept").delivery.data, b"42");
    drop(connection);
    rabbitmq.stop().await.expect("stops again");
    assert_eq!(common::processes(folder.path()), [""; 0]);
}
