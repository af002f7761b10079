//! Lost connections: nothing published is lost, and consumers go on.

use std::{collections::HashSet, time::Duration};

use gantry_broker::{Broker, Config, Consumer, Outgoing, Publisher, Settled, ack_all, consume, publish};
use gantry_testkit::{Proxy, TestVhost, eventually};

/// Longer than anything here takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

async fn direct(vhost: &TestVhost) -> Broker {
    let config = Config::new(vhost.amqp_url());
    Broker::connect(config, "test").await.expect("connected")
}

/// A broker with its queues, behind a proxy.
async fn behind_proxy(vhost: &TestVhost, adjust: impl FnOnce(&mut Config)) -> (Broker, Proxy) {
    let broker = direct(vhost).await;
    broker.topology().declare(&broker, &["docker"]).await.expect("declared");
    let proxy = Proxy::start(vhost.amqp_url()).await;
    let mut config = Config::new(proxy.url());
    adjust(&mut config);
    let broker = Broker::connect(config, "test").await.expect("connected");
    (broker, proxy)
}

/// Loses the connection, and lets none come up before [`Proxy::resume`].
async fn lose(broker: &Broker, proxy: &Proxy) {
    proxy.stall();
    proxy.cut();
    eventually(LIMIT, async || !broker.is_connected()).await;
}

#[tokio::test]
async fn what_was_in_flight_is_published_again() {
    let vhost = TestVhost::create().await;
    let (broker, proxy) = behind_proxy(&vhost, |_| {}).await;
    let topology = broker.topology().clone();
    let publisher = Publisher::new(&broker);
    let mut consumer = Consumer::new(&broker, topology.reports_queue(), consume::Options::default());
    consumer.start().await.expect("consuming");

    let messages = (0..5000u32).map(|n| Outgoing::work(topology.reports(), n.to_be_bytes().to_vec())).collect();
    let publishing = {
        let publisher = publisher.clone();
        tokio::spawn(async move { publisher.publish_all(messages).await })
    };
    let mut seen = HashSet::new();
    let mut cuts = 0;
    while seen.len() < 5000 {
        let batch = consumer.next_batch().await;
        seen.extend(batch.iter().map(|delivery| delivery.body().to_vec()));
        ack_all(batch).await;
        if cuts < 3 && seen.len() > 1000 * cuts {
            proxy.cut();
            cuts += 1;
        }
    }
    let results = publishing.await.expect("no panic");
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|r| r.is_err()));
}

#[tokio::test]
async fn a_publish_waits_for_the_reconnection_within_its_deadline() {
    let vhost = TestVhost::create().await;
    let (broker, proxy) = behind_proxy(&vhost, |_| {}).await;
    let route = broker.topology().reports();
    let publisher = Publisher::new(&broker);
    publisher.publish(Outgoing::work(route.clone(), b"1".to_vec())).await.expect("confirmed");

    lose(&broker, &proxy).await;
    let waiting = {
        let (publisher, route) = (publisher.clone(), route.clone());
        tokio::spawn(async move { publisher.publish(Outgoing::work(route, b"2".to_vec())).await })
    };
    proxy.resume();
    waiting.await.expect("no panic").expect("confirmed after the reconnection");
    assert!(broker.is_connected());
}

#[tokio::test]
async fn without_a_broker_a_publish_ends_at_its_deadline() {
    let vhost = TestVhost::create().await;
    let deadline = Duration::from_millis(300);
    let (broker, proxy) = behind_proxy(&vhost, |config| config.publish_deadline = deadline).await;
    let route = broker.topology().reports();
    let publisher = Publisher::new(&broker);
    lose(&broker, &proxy).await;
    let late = publisher.publish(Outgoing::work(route, b"late".to_vec())).await;
    assert_eq!(late, Err(publish::Error::Unconfirmed { after: deadline }));

    // Given up means given up: it must not appear when the broker is back.
    proxy.resume();
    eventually(LIMIT, async || broker.is_connected()).await;
    let outside = direct(&vhost).await;
    let route = outside.topology().reports();
    publisher.publish(Outgoing::work(route, b"next".to_vec())).await.expect("confirmed");
    let queue = outside.topology().reports_queue();
    eventually(LIMIT, async || outside.ready_messages(&queue).await.is_ok_and(|ready| ready > 0)).await;
    assert_eq!(outside.ready_messages(&queue).await.expect("a depth"), 1);
}

#[tokio::test]
async fn a_delivery_of_a_lost_connection_is_stale_and_comes_again() {
    let vhost = TestVhost::create().await;
    let (broker, proxy) = behind_proxy(&vhost, |_| {}).await;
    let topology = broker.topology().clone();
    let publisher = Publisher::new(&broker);
    publisher.publish(Outgoing::work(topology.reports(), b"x".to_vec())).await.expect("confirmed");
    let mut consumer = Consumer::new(&broker, topology.reports_queue(), consume::Options::default());
    let held = consumer.next_batch().await;

    lose(&broker, &proxy).await;
    proxy.resume();
    assert_eq!(ack_all(held).await, Settled::Stale);

    let again = consumer.next_batch().await;
    assert!(again[0].redelivered());
    assert_eq!(ack_all(again).await, Settled::Done);
}

#[tokio::test]
async fn a_subscription_is_made_again_after_a_reconnection() {
    let vhost = TestVhost::create().await;
    let (broker, proxy) = behind_proxy(&vhost, |_| {}).await;
    let topology = broker.topology().clone();
    let exchange = topology.control_exchange();
    let mut subscriber = Consumer::subscribe(&broker, exchange, &[""], consume::Options::default());
    subscriber.start().await.expect("listening");
    lose(&broker, &proxy).await;
    proxy.resume();

    let outside = direct(&vhost).await;
    let nudger = Publisher::new(&outside);
    // Nudges before the new queue exists are missed by contract, so keep at it.
    let nudging = async {
        loop {
            let nudge = Outgoing::transient(topology.control(), b"nudge".to_vec());
            nudger.publish(nudge).await.expect("confirmed");
            // One nudge each 20 ms is plenty.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let batch = tokio::select! {
        batch = subscriber.next_batch() => batch,
        () = nudging => unreachable!("it nudges for ever"),
    };
    assert_eq!(batch[0].body(), b"nudge");
    ack_all(batch).await;
}

async fn delete(vhost: &TestVhost, queue: &str) {
    let properties = lapin::ConnectionProperties::default();
    let connection = lapin::Connection::connect(vhost.amqp_url(), properties);
    let connection = connection.await.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    let options = lapin::options::QueueDeleteOptions::default();
    channel.queue_delete(queue.into(), options).await.expect("deleted");
}

#[tokio::test]
async fn a_queue_that_is_deleted_and_made_again_is_consumed_again() {
    let vhost = TestVhost::create().await;
    let broker = direct(&vhost).await;
    let topology = broker.topology().clone();
    topology.declare(&broker, &[]).await.expect("declared");
    let queue = topology.reports_queue();
    let mut consumer = Consumer::new(&broker, &queue, consume::Options::default());
    consumer.start().await.expect("consuming");
    delete(&vhost, &queue).await;

    let publisher = Publisher::new(&broker);
    let recover = async {
        // RabbitMQ 3.10 does not cancel the consumers of a quorum queue that is
        // made again within milliseconds, and nothing shows when it has.
        tokio::time::sleep(Duration::from_millis(300)).await;
        topology.declare(&broker, &[]).await.expect("declared again");
        let message = Outgoing::work(topology.reports(), b"back".to_vec());
        publisher.publish(message).await.expect("confirmed");
    };
    let (batch, ()) = tokio::join!(consumer.next_batch(), recover);
    assert_eq!(batch[0].body(), b"back");
    ack_all(batch).await;
}

#[tokio::test]
async fn a_connection_that_went_silent_is_noticed_and_replaced() {
    let vhost = TestVhost::create().await;
    let (broker, proxy) = behind_proxy(&vhost, |config| {
        config.heartbeat = Duration::from_secs(1);
        config.connect_timeout = Duration::from_secs(2);
    })
    .await;
    proxy.stall();
    eventually(LIMIT, async || !broker.is_connected()).await;
    proxy.cut();
    proxy.resume();
    let message = Outgoing::work(broker.topology().reports(), b"x".to_vec());
    let publisher = Publisher::new(&broker);
    publisher.publish(message).await.expect("confirmed");
}

#[tokio::test]
async fn a_confirm_that_never_comes_ends_at_the_deadline() {
    let vhost = TestVhost::create().await;
    let deadline = Duration::from_millis(300);
    let (broker, proxy) = behind_proxy(&vhost, |config| config.publish_deadline = deadline).await;
    let route = broker.topology().reports();
    let publisher = Publisher::new(&broker);
    publisher.publish(Outgoing::work(route.clone(), b"1".to_vec())).await.expect("confirmed");
    proxy.drop_responses();
    let unknown = publisher.publish(Outgoing::work(route, b"2".to_vec())).await;
    assert_eq!(unknown, Err(publish::Error::Unconfirmed { after: deadline }));
}

#[tokio::test]
async fn another_node_takes_the_place_of_one_that_is_lost() {
    let vhost = TestVhost::create().await;
    // To a client, two ways to one broker are two nodes of a cluster.
    let nodes = [Proxy::start(vhost.amqp_url()).await, Proxy::start(vhost.amqp_url()).await];
    let mut config = Config::new(format!("{}, {}", nodes[0].url(), nodes[1].url()));
    config.connect_timeout = Duration::from_secs(2);
    let broker = Broker::connect(config, "test").await.expect("connected");
    let topology = broker.topology().clone();
    topology.declare(&broker, &["docker"]).await.expect("declared");
    let publisher = Publisher::new(&broker);
    // Whichever it began with, it must do without each in its turn.
    for node in &nodes {
        node.stall();
        node.cut();
        let message = Outgoing::work(topology.jobs("docker"), b"job".to_vec());
        publisher.publish(message).await.expect("confirmed through the other");
        node.resume();
    }
}

#[tokio::test]
async fn a_node_that_confirms_nothing_is_left_for_another() {
    let vhost = TestVhost::create().await;
    let nodes = [Proxy::start(vhost.amqp_url()).await, Proxy::start(vhost.amqp_url()).await];
    let mut config = Config::new(format!("{}, {}", nodes[0].url(), nodes[1].url()));
    config.publish_deadline = Duration::from_secs(1);
    config.connect_timeout = Duration::from_secs(2);
    // As if they passed: nothing else is to find out.
    config.heartbeat = Duration::from_secs(300);
    let broker = Broker::connect(config, "test").await.expect("connected");
    let topology = broker.topology().clone();
    topology.declare(&broker, &["docker"]).await.expect("declared");
    let publishers = [Publisher::new(&broker), Publisher::new(&broker)];
    // Whichever it began with, it must do without each in its turn.
    for node in &nodes {
        node.stall();
        let get_through = publishers.iter().map(|publisher| {
            let message = || Outgoing::work(topology.jobs("docker"), b"job".to_vec());
            eventually(LIMIT, async move || publisher.publish(message()).await.is_ok())
        });
        futures::future::join_all(get_through).await;
        node.resume();
    }
}

#[tokio::test]
async fn a_list_of_addresses_is_final_only_when_all_refuse() {
    let vhost = TestVhost::create().await;
    let good = vhost.amqp_url();
    let refused = good.replace("guest:guest", "guest:wrong");
    for url in [format!("{good},{refused}"), format!("{refused},{good}")] {
        Broker::connect(Config::new(url), "test").await.expect("one of them lets it in");
    }
    let error = Broker::connect(Config::new(format!("{refused},{refused}")), "test").await.expect_err("refused");
    assert!(matches!(error, gantry_broker::connection::Error::Refused { .. }), "{error}");
}
