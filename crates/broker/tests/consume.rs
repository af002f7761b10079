//! Batches, settling, subscriptions, dead letters and the trace that goes along.

use std::time::Duration;

use gantry_broker::{
    Broker, Config, Consumer, Delivery, Outgoing, Publisher, Settled, Topology, ack_all, consume, dead_letter,
    dead_letter::Reason,
};
use gantry_testkit::{TestVhost, eventually};

/// Longer than anything here takes on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

struct Fleet {
    _vhost: TestVhost,
    broker: Broker,
    topology: Topology,
    publisher: Publisher,
}

impl Fleet {
    async fn new() -> Self {
        let vhost = TestVhost::create().await;
        let config = Config::new(vhost.amqp_url());
        let broker = Broker::connect(config, "test").await.expect("connected");
        let topology = broker.topology().clone();
        topology.declare(&broker, &["docker"]).await.expect("declared");
        let publisher = Publisher::new(&broker);
        Self { _vhost: vhost, broker, topology, publisher }
    }

    async fn report(&self, body: &str) {
        let message = Outgoing::work(self.topology.reports(), body.into());
        self.publisher.publish(message).await.expect("confirmed");
    }

    fn reports(&self, options: consume::Options) -> Consumer {
        Consumer::new(&self.broker, self.topology.reports_queue(), options)
    }

    async fn ready(&self, queue: &str) -> u32 {
        self.broker.ready_messages(queue).await.expect("a depth")
    }
}

async fn one(consumer: &mut Consumer) -> Delivery {
    let batch = consumer.next_batch().await;
    assert_eq!(batch.len(), 1);
    batch.into_iter().next().expect("one delivery")
}

fn text(delivery: &Delivery) -> &str {
    std::str::from_utf8(delivery.body()).expect("text")
}

#[tokio::test]
async fn a_batch_is_bounded_and_ordered() {
    let fleet = Fleet::new().await;
    for n in 0..25 {
        fleet.report(&n.to_string()).await;
    }
    let mut consumer = fleet.reports(consume::Options { max_batch: 10, ..consume::Options::default() });
    let (mut seen, mut largest) = (Vec::new(), 0);
    while seen.len() < 25 {
        let batch = consumer.next_batch().await;
        largest = largest.max(batch.len());
        seen.extend(batch.iter().map(|d| text(d).to_owned()));
        assert_eq!(ack_all(batch).await, Settled::Done);
    }
    assert!((2..=10).contains(&largest), "{largest}");
    let expected: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_lone_message_is_not_held_back() {
    let fleet = Fleet::new().await;
    let mut consumer =
        fleet.reports(consume::Options { max_wait: Duration::from_secs(60), ..consume::Options::default() });
    consumer.start().await.expect("consuming");
    fleet.report("now").await;
    let batch = tokio::time::timeout(Duration::from_secs(5), one(&mut consumer)).await;
    batch.expect("long before max_wait").ack().await;
}

#[tokio::test]
async fn a_lone_message_waits_where_the_caller_says_so() {
    let fleet = Fleet::new().await;
    let mut consumer =
        fleet.reports(consume::Options { max_batch: 2, max_wait: Duration::ZERO, ..consume::Options::default() });
    consumer.start().await.expect("consuming");
    fleet.report("one").await;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    let cancelled = tokio::time::timeout(Duration::from_millis(300), consumer.next_batch_gathered_until(until)).await;
    assert!(cancelled.is_err(), "it should wait for another");
    fleet.report("two").await;
    let batch = tokio::time::timeout(LIMIT, consumer.next_batch_gathered_until(until)).await.expect("a full batch");
    assert_eq!(batch.len(), 2);
    ack_all(batch).await;
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let fleet = Fleet::new().await;
    let mut consumer = fleet.reports(consume::Options {
        max_batch: 51,
        max_wait: Duration::from_secs(60),
        ..consume::Options::default()
    });
    consumer.start().await.expect("consuming");
    let queue = fleet.topology.reports_queue();
    for n in 0..50 {
        fleet.report(&n.to_string()).await;
    }
    eventually(LIMIT, async || fleet.ready(&queue).await == 0).await;
    // Cancelled while the batch fills: fifty are here, fifty-one are asked for.
    let cancelled = tokio::time::timeout(Duration::from_millis(300), consumer.next_batch()).await;
    assert!(cancelled.is_err(), "the batch should still be filling");
    fleet.report("more").await;
    let batch = consumer.next_batch().await;
    assert_eq!(batch.len(), 51);
    ack_all(batch).await;
}

#[tokio::test]
async fn a_requeued_message_comes_again_and_is_counted() {
    let fleet = Fleet::new().await;
    fleet.report("again").await;
    let mut consumer = fleet.reports(consume::Options::default());
    let first = one(&mut consumer).await;
    assert_eq!((first.redelivered(), first.delivery_count()), (false, 0));
    assert_eq!(first.requeue().await, Settled::Done);
    let second = one(&mut consumer).await;
    assert_eq!((second.redelivered(), second.delivery_count()), (true, 1));
    drop(second);
    let third = one(&mut consumer).await;
    assert_eq!(third.delivery_count(), 2);
    third.ack().await;
    let queue = fleet.topology.reports_queue();
    eventually(LIMIT, async || fleet.ready(&queue).await == 0).await;
}

#[tokio::test]
async fn acks_of_a_part_of_a_batch_settle_that_part_alone() {
    let fleet = Fleet::new().await;
    let messages = (0..10).map(|n: u32| Outgoing::work(fleet.topology.reports(), n.to_string().into_bytes()));
    let published = fleet.publisher.publish_all(messages.collect()).await;
    assert!(published.iter().all(Result::is_ok));
    let mut consumer = fleet.reports(consume::Options::default());
    let mut batch = Vec::new();
    while batch.len() < 10 {
        batch.extend(consumer.next_batch().await);
    }
    let (even, odd): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|d| text(d).parse::<u32>().expect("a number") % 2 == 0);
    assert_eq!(ack_all(even).await, Settled::Done);
    drop(odd);
    let mut back = Vec::new();
    while back.len() < 5 {
        let batch = consumer.next_batch().await;
        back.extend(batch.iter().map(|d| text(d).to_owned()));
        ack_all(batch).await;
    }
    back.sort();
    assert_eq!(back, ["1", "3", "5", "7", "9"]);
}

#[tokio::test]
async fn a_rejected_message_and_one_past_the_limit_end_in_their_dead_letter_queues() {
    let fleet = Fleet::new().await;
    fleet.report("rejected").await;
    one(&mut fleet.reports(consume::Options::default())).await.reject().await;
    let dead = fleet.topology.dead_queue();
    eventually(LIMIT, async || fleet.ready(&dead).await == 1).await;

    let message = Outgoing::work(fleet.topology.submissions(), b"crashes".to_vec());
    fleet.publisher.publish(message).await.expect("confirmed");
    let submissions = fleet.topology.submissions_queue();
    let mut consumer = Consumer::new(&fleet.broker, submissions, consume::Options::default());
    for count in 0..=20 {
        let delivery = one(&mut consumer).await;
        assert_eq!(delivery.delivery_count(), count);
        delivery.requeue().await;
    }
    let expired = fleet.topology.expired_queue();
    eventually(LIMIT, async || fleet.ready(&expired).await == 1).await;
}

#[tokio::test]
async fn every_subscriber_of_the_fanout_hears_a_nudge() {
    let fleet = Fleet::new().await;
    let exchange = fleet.topology.control_exchange();
    let mut subscribers: Vec<Consumer> =
        (0..2).map(|_| Consumer::subscribe(&fleet.broker, &exchange, &[""], consume::Options::default())).collect();
    for subscriber in &mut subscribers {
        subscriber.start().await.expect("listening");
    }
    let nudge = Outgoing::transient(fleet.topology.control(), b"nudge".to_vec());
    fleet.publisher.publish_unconfirmed(nudge);
    for subscriber in &mut subscribers {
        let delivery = one(subscriber).await;
        assert_eq!(text(&delivery), "nudge");
        delivery.ack().await;
    }
}

#[tokio::test]
async fn a_subscriber_hears_the_keys_it_asked_for() {
    let fleet = Fleet::new().await;
    let exchange = fleet.topology.events_exchange();
    let keys = ["job.failed.#", "job.*.mock.*"];
    let options = consume::Options::default();
    let mut subscriber = Consumer::subscribe(&fleet.broker, exchange, &keys, options);
    subscriber.start().await.expect("listening");
    for key in ["job.completed.docker.t", "job.failed.docker.t", "job.completed.mock.t"] {
        let event = Outgoing::event(fleet.topology.events(key), Vec::new());
        fleet.publisher.publish(event).await.expect("confirmed");
    }
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let batch = subscriber.next_batch().await;
        heard.extend(batch.iter().map(|d| d.routing_key().to_owned()));
        ack_all(batch).await;
    }
    assert_eq!(heard, ["job.failed.docker.t", "job.completed.mock.t"]);
}

#[tokio::test]
async fn a_reply_reaches_the_queue_that_asked() {
    let fleet = Fleet::new().await;
    let mut question = Outgoing::work(fleet.topology.submissions(), b"{}".to_vec());
    question.properties.reply_to = Some(fleet.topology.reports_queue());
    question.properties.correlation_id = Some("42".to_owned());
    fleet.publisher.publish(question).await.expect("confirmed");

    let submissions = fleet.topology.submissions_queue();
    let asked = one(&mut Consumer::new(&fleet.broker, submissions, consume::Options::default())).await;
    let properties = asked.properties();
    let reply_to = properties.reply_to.as_deref().expect("a reply address");
    let reply = Outgoing::reply(reply_to, properties.correlation_id.as_deref(), b"ok".to_vec());
    fleet.publisher.publish_unconfirmed(reply);
    asked.ack().await;

    let answer = one(&mut fleet.reports(consume::Options::default())).await;
    assert_eq!(answer.properties().correlation_id.as_deref(), Some("42"));
    assert_eq!(text(&answer), "ok");
    answer.ack().await;
}

#[tokio::test]
async fn a_dead_letter_has_its_reason_and_no_credentials() {
    let fleet = Fleet::new().await;
    let mut bad = Outgoing::work(fleet.topology.submissions(), b"not json".to_vec());
    bad.headers.insert("X-Gantry-Api-Key", "secret");
    bad.headers.insert("x-gantry-tenant", "forged");
    bad.headers.insert("x-source", "billing");
    bad.properties.message_id = Some("m-1".to_owned());
    fleet.publisher.publish(bad).await.expect("confirmed");

    let submissions = fleet.topology.submissions_queue();
    let options = consume::Options::default();
    let delivery = one(&mut Consumer::new(&fleet.broker, &submissions, options.clone())).await;
    let error = delivery.json::<serde_json::Value>().expect_err("no JSON");
    let message = error.to_string();
    let reason = Reason { code: "undecodable", message: &message, origin: &submissions, tenant: Some("acme") };
    dead_letter(&fleet.publisher, delivery, reason).await.expect("put aside");

    let dead = fleet.topology.dead_queue();
    let letter = one(&mut Consumer::new(&fleet.broker, dead, options)).await;
    let headers = letter.headers();
    assert_eq!(text(&letter), "not json");
    assert_eq!(headers.get("x-gantry-reason"), Some("undecodable"));
    assert_eq!(headers.get("x-gantry-origin"), Some("gantry.submissions"));
    assert_eq!(headers.get("x-gantry-tenant"), Some("acme"));
    assert_eq!(headers.get("x-source"), Some("billing"));
    assert!(headers.get("x-gantry-message").expect("a message").contains("line 1"));
    assert!(!headers.names().any(|name| name.eq_ignore_ascii_case("x-gantry-api-key")));
    assert_eq!(letter.properties().message_id.as_deref(), Some("m-1"));
    letter.ack().await;
    assert_eq!(fleet.ready(&submissions).await, 0);
}
