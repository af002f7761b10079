//! Who is told, and that nobody needs to be there.

use std::time::Duration;

use gantry_api::Nudges;
use gantry_broker::{Broker, Config, Consumer, ack_all, consume};
use gantry_core::ExecutorType;
use gantry_core::message::{Control, Newcomer, Nudge};
use gantry_store::tenants;
use gantry_testkit::{TestVhost, eventually_some};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::{Api, PATIENCE, job};
use crate::worker::Worker;

async fn next(control: &mut Consumer) -> Control {
    let mut batch = timeout(PATIENCE, control.next_batch()).await.expect("a nudge");
    let nudge = batch.remove(0);
    let control = nudge.json().expect("a nudge");
    ack_all([nudge]).await;
    assert!(batch.is_empty(), "one nudge at a time here");
    control
}

#[tokio::test]
async fn dispatchers_and_workers_are_nudged() {
    let vhost = TestVhost::create().await;
    let broker = Broker::connect(Config::new(vhost.amqp_url()), "test").await.expect("connected");
    broker.topology().declare(&broker, &[]).await.expect("declared");
    let mut control =
        Consumer::subscribe(&broker, broker.topology().control_exchange(), &[""], consume::Options::default());
    control.start().await.expect("listening");

    let api = Api::start_with(Nudges::new(&broker)).await;
    let client = api.tenant("acme").await;
    let worker = Worker::start(&api.fleet).await;
    let mut body = job();
    (body["idempotency_key"], body["priority"]) = (json!("k"), json!(5));
    let id = client.submit(&body).await;
    let tenant = tenants::put_tenant(&api.fleet, "acme").await.expect("stored");
    let job = id.parse().expect("an id");
    let newcomers = vec![Newcomer { job, tenant, executor: ExecutorType::Mock, priority: 5 }];
    let expected = Nudge::Dispatch { executors: vec![ExecutorType::Mock], only_slots: false, newcomers };
    assert_eq!(next(&mut control).await, Control::V1(expected));

    // An existing job is no news; the next nudge is the cancel's.
    client.submit(&body).await;
    let running = worker.claim().await;
    client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!(next(&mut control).await, Control::V1(Nudge::Cancel { jobs: vec![running.id()] }));
}

/// All who came are named, or nobody: whoever is told of some does not look for others.
#[tokio::test]
async fn newcomers_are_named_while_they_are_few() {
    let vhost = TestVhost::create().await;
    let broker = Broker::connect(Config::new(vhost.amqp_url()), "test").await.expect("connected");
    broker.topology().declare(&broker, &[]).await.expect("declared");
    let mut control =
        Consumer::subscribe(&broker, broker.topology().control_exchange(), &[""], consume::Options::default());
    control.start().await.expect("listening");
    let api = Api::start_with(Nudges::new(&broker)).await;
    let client = api.tenant("acme").await;
    let with = |field: &str, value: Value| {
        let mut job = job();
        job[field] = value;
        job
    };
    let later = with("not_before", json!("2100-01-01T00:00:00Z"));
    let keyed = with("concurrency_key", json!("k"));
    let batches = [(vec![job(); 16], 16), (vec![job(); 17], 0), (vec![job(), later], 0), (vec![job(), keyed], 0)];
    for (batch, expected) in batches {
        let answer = client.post("/v1/jobs", &json!(batch)).await;
        let results = answer.body.as_array().expect("an array");
        assert!(results.iter().all(|result| result["result"] == "accepted"), "{answer:?}");
        let Control::V1(Nudge::Dispatch { executors, newcomers, .. }) = next(&mut control).await else {
            panic!("jobs were submitted");
        };
        assert_eq!((executors, newcomers.len()), (vec![ExecutorType::Mock], expected), "{answer:?}");
    }
}

#[tokio::test]
async fn the_api_does_not_wait_for_its_broker() {
    let vhost = TestVhost::create().await;
    let broker = Broker::connect(Config::new(vhost.amqp_url()), "test").await.expect("connected");
    let mut config = Config::new("amqp://127.0.0.1:1");
    config.connect_timeout = Duration::from_millis(100);
    let api = Api::start_with(Nudges::connecting(config)).await;
    api.tenant("acme").await.submit(&job()).await;

    // Where nobody declared or listens to anything.
    let late = Nudges::connecting(Config::new(vhost.amqp_url()));
    let api = Api::start_with(late).await;
    let client = api.tenant("acme").await;
    client.submit(&job()).await;
    let mut control = eventually_some(PATIENCE, async || {
        let exchange = broker.topology().control_exchange();
        let mut control = Consumer::subscribe(&broker, exchange, &[""], consume::Options::default());
        control.start().await.is_ok().then_some(control)
    })
    .await;
    eventually_some(PATIENCE, async || {
        client.submit(&job()).await;
        let nudges = timeout(Duration::from_millis(100), control.next_batch()).await.ok()?;
        ack_all(nudges).await;
        Some(())
    })
    .await;
}
