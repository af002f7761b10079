//! What becomes of a publish: confirmed, unroutable, refused, rejected, late.

use std::time::Duration;

use gantry_broker::{
    Broker, Config, Consumer, Outgoing, Publisher, Route, Topology, connection, consume, publish, topology,
};
use gantry_testkit::{TestVhost, eventually};

/// Longer than anything here takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

async fn connect(vhost: &TestVhost, adjust: impl FnOnce(&mut Config)) -> Broker {
    let mut config = Config::new(vhost.amqp_url());
    adjust(&mut config);
    Broker::connect(config, "test").await.expect("connected")
}

async fn declared(vhost: &TestVhost) -> (Broker, Topology, Publisher) {
    let broker = connect(vhost, |_| {}).await;
    let topology = broker.topology().clone();
    topology.declare(&broker, &["docker"]).await.expect("declared");
    let publisher = Publisher::new(&broker);
    (broker, topology, publisher)
}

fn route(exchange: &str, routing_key: &str) -> Route {
    Route { exchange: exchange.to_owned(), routing_key: routing_key.to_owned() }
}

#[tokio::test]
async fn a_confirmed_message_is_in_its_queue() {
    let vhost = TestVhost::create().await;
    let (broker, topology, publisher) = declared(&vhost).await;
    let message = Outgoing::work(topology.jobs("docker"), b"job".to_vec());
    publisher.publish(message).await.expect("confirmed");

    let mut consumer = Consumer::new(&broker, topology.jobs_queue("docker"), consume::Options::default());
    let batch = consumer.next_batch().await;
    assert_eq!(batch.len(), 1);
    assert_eq!(batch[0].body(), b"job");
    assert!(batch[0].properties().persistent);
    gantry_broker::ack_all(batch).await;
}

#[tokio::test]
async fn unroutable_messages_are_told_from_their_neighbours() {
    let vhost = TestVhost::create().await;
    let (_broker, topology, publisher) = declared(&vhost).await;
    let batch: Vec<Outgoing> = (0..600)
        .map(|n| {
            let executor_type = if n % 7 == 3 { "nowhere" } else { "docker" };
            Outgoing::work(topology.jobs(executor_type), n.to_string().into_bytes())
        })
        .collect();
    let results = publisher.publish_all(batch).await;
    for (n, result) in results.iter().enumerate() {
        if n % 7 == 3 {
            let expected =
                publish::Error::Unroutable { exchange: "gantry.jobs".to_owned(), routing_key: "nowhere".to_owned() };
            assert_eq!(*result, Err(expected), "message {n}");
        } else {
            assert_eq!(*result, Ok(()), "message {n}");
        }
    }
}

#[tokio::test]
async fn an_event_that_nobody_listens_to_is_no_error() {
    let vhost = TestVhost::create().await;
    let (_broker, topology, publisher) = declared(&vhost).await;
    let event = Outgoing::event(topology.events("job.completed.docker.t"), b"{}".to_vec());
    publisher.publish(event).await.expect("confirmed");
}

#[tokio::test]
async fn a_full_submissions_queue_refuses() {
    let vhost = TestVhost::create().await;
    let broker = connect(&vhost, |config| config.submissions_max_length = 2).await;
    let topology = broker.topology().clone();
    topology.declare(&broker, &[]).await.expect("declared");
    let publisher = Publisher::new(&broker);

    // A quorum queue notices its length a moment late; it must refuse soon.
    let mut refused = None;
    for n in 0..50 {
        let message = Outgoing::work(topology.submissions(), n.to_string().into_bytes());
        if let Err(error) = publisher.publish(message).await {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("the queue is bounded");
    assert!(matches!(error, publish::Error::Refused { .. }), "{error}");
    assert!(error.is_transient());

    // A channel that was refused something is replaced after a second, in case it was the channel and not the queue.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let message = || Outgoing::work(topology.submissions(), b"again".to_vec());
    for _ in 0..2 {
        publisher.publish(message()).await.expect_err("it is still full");
    }
    vhost.purge_all().await;
    eventually(LIMIT, async || publisher.publish(message()).await.is_ok()).await;
}

#[tokio::test]
async fn a_message_that_closes_the_channel_fails_alone() {
    let vhost = TestVhost::create().await;
    let (broker, topology, publisher) = declared(&vhost).await;
    let batch: Vec<Outgoing> = (0..300)
        .map(|n| {
            let to = if n == 137 { route("no.such.exchange", "x") } else { topology.reports() };
            Outgoing::work(to, n.to_string().into_bytes())
        })
        .collect();
    let results = publisher.publish_all(batch).await;
    for (n, result) in results.iter().enumerate() {
        match (n, result) {
            (137, Err(publish::Error::Rejected { exchange, reason })) => {
                assert_eq!(exchange, "no.such.exchange");
                assert!(reason.contains("no exchange"), "{reason}");
            }
            (_, result) => assert_eq!(*result, Ok(()), "message {n}"),
        }
    }
    let ready = broker.ready_messages(&topology.reports_queue()).await;
    assert!(ready.expect("a depth") >= 299);
}

#[tokio::test]
async fn what_would_break_the_connection_is_not_sent() {
    let vhost = TestVhost::create().await;
    let (_broker, topology, publisher) = declared(&vhost).await;
    let mut headers = Outgoing::work(topology.reports(), Vec::new());
    headers.headers.insert("x-big", "x".repeat(70_000));
    let body = Outgoing::work(topology.reports(), vec![0; 17 * 1024 * 1024]);
    let mut reply = Outgoing::work(topology.reports(), Vec::new());
    reply.properties.reply_to = Some("q".repeat(300));
    for (message, part) in [(headers, "headers"), (body, "body"), (reply, "reply_to")] {
        match publisher.publish(message).await {
            Err(publish::Error::TooLarge { what, .. }) => assert_eq!(what, part),
            other => panic!("{part}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn ten_thousand_in_flight_are_all_confirmed() {
    let vhost = TestVhost::create().await;
    let (broker, topology, publisher) = declared(&vhost).await;
    let batch = (0..10_000).map(|n: u32| Outgoing::work(topology.reports(), n.to_be_bytes().to_vec())).collect();
    let started = std::time::Instant::now();
    let results = publisher.publish_all(batch).await;
    eprintln!("10,000 confirmed in {:?}", started.elapsed());
    assert!(results.iter().all(Result::is_ok));

    let mut consumer = Consumer::new(&broker, topology.reports_queue(), consume::Options::default());
    let started = std::time::Instant::now();
    let mut expected = 0;
    while expected < 10_000 {
        let batch = consumer.next_batch().await;
        for delivery in &batch {
            let body = delivery.body().try_into().expect("four bytes");
            assert_eq!(u32::from_be_bytes(body), expected);
            expected += 1;
        }
        gantry_broker::ack_all(batch).await;
    }
    eprintln!("10,000 consumed in {:?}", started.elapsed());
}

#[tokio::test]
async fn declaring_twice_changes_nothing_and_other_settings_are_explained() {
    let vhost = TestVhost::create().await;
    let (broker, topology, _publisher) = declared(&vhost).await;
    topology.declare(&broker, &["docker", "mock"]).await.expect("idempotent");

    let other = connect(&vhost, |config| config.delivery_limit = 3).await;
    let error = other.topology().declare(&other, &[]).await.expect_err("a mismatch");
    let topology::Error::Mismatch { kind, name, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*kind, name.as_str()), ("queue", "gantry.submissions"));
    assert!(error.to_string().contains("x-delivery-limit"), "{error}");
}

#[tokio::test]
async fn fleets_with_different_prefixes_share_a_vhost() {
    let vhost = TestVhost::create().await;
    let mut brokers = Vec::new();
    for prefix in ["red.", "blue."] {
        let broker = connect(&vhost, |config| config.prefix = prefix.to_owned()).await;
        broker.topology().declare(&broker, &[]).await.expect("declared");
        brokers.push(broker);
    }
    let (red, blue) = (&brokers[0], &brokers[1]);
    let message = Outgoing::work(red.topology().reports(), b"r".to_vec());
    Publisher::new(red).publish(message).await.expect("confirmed");
    let count = |broker: &Broker| {
        let (broker, queue) = (broker.clone(), broker.topology().reports_queue());
        async move { broker.ready_messages(&queue).await.expect("a depth") }
    };
    eventually(LIMIT, async || count(red).await == 1).await;
    assert_eq!(count(blue).await, 0);
}

#[tokio::test]
async fn a_refused_connection_fails_at_once_and_hides_the_password() {
    let vhost = TestVhost::create().await;
    let url = vhost.amqp_url().replace("guest:guest@", "guest:hunter2@");
    let attempt = Broker::connect(Config::new(url), "test");
    let error =
        tokio::time::timeout(Duration::from_secs(5), attempt).await.expect("no retries").expect_err("a wrong password");
    assert!(matches!(error, connection::Error::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hunter2"));

    let nowhere = format!("{}-missing", vhost.amqp_url());
    let error = Broker::connect(Config::new(nowhere), "test").await.expect_err("no vhost");
    assert!(matches!(error, connection::Error::Refused { .. }), "{error:?}");
}
