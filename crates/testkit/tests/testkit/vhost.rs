#![expect(clippy::disallowed_methods, reason = "a test's own client, and not a part of the fleet")]
use gantry_testkit::TestVhost;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

const QUEUE: &str = "a/queue";

async fn declare(channel: &Channel) -> u32 {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(QUEUE.into(), durable, arguments).await.expect("declares");
    queue.message_count()
}

#[tokio::test]
async fn a_vhost_is_open_is_purged_and_goes_with_its_test() {
    let vhost = TestVhost::create().await;
    let url = vhost.amqp_url().to_owned();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("it is open");
    let channel = connection.create_channel().await.expect("opens a channel");
    declare(&channel).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    let confirm = channel.basic_publish("".into(), QUEUE.into(), options, b"gone", properties).await;
    confirm.expect("publishes").await.expect("is confirmed");
    assert_eq!(declare(&channel).await, 1);
    vhost.purge_all().await;
    assert_eq!(declare(&channel).await, 0);

    drop(vhost);
    let refused = Connection::connect(&url, ConnectionProperties::default()).await;
    assert!(refused.is_err(), "the vhost is gone");
}
