//! One key, one job: whoever comes at the same time, and through whichever door.

use std::collections::BTreeSet;

use futures::future::join_all;
use gantry_tests::{Fleet, jobs};
use serde_json::{Value, json};

const KEYS: usize = 50;

#[tokio::test]
async fn one_key_through_both_doors_at_once_makes_one_job() {
    let fleet = Fleet::new().await;
    // Two dispatchers and two APIs: what comes at once also comes through different processes.
    let _dispatchers = [fleet.dispatcher(), fleet.dispatcher()];
    let ((_api, client), (_other_api, other_client)) = tokio::join!(fleet.api(), fleet.api());
    let (producer, other) = tokio::join!(fleet.producer(), fleet.producer());
    for round in 0..KEYS {
        let body = jobs::with(jobs::mock(&[]), json!({ "idempotency_key": format!("key {round}") }));
        let by_http = async |client: &gantry_tests::Client| {
            let answer = client.post("/v1/jobs", body.to_string()).await;
            assert_eq!(answer.status, if answer.body["existing"] == true { 200 } else { 201 }, "{answer:?}");
            (answer.body["id"].clone(), answer.body["existing"].clone())
        };
        let by_amqp = async |producer: &gantry_tests::Producer| {
            let answer = producer.ask(producer.message(&body)).await;
            (answer["job_id"].clone(), answer["existing"].clone())
        };
        let (a, b, c, d) = tokio::join!(by_http(&client), by_amqp(&producer), by_http(&other_client), by_amqp(&other));
        let answers = [a, b, c, d];
        let ids: BTreeSet<&str> = answers.iter().filter_map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids.len(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|(_, existing)| *existing == false).count(), 1, "{answers:?}");
    }
    assert_eq!(fleet.count("pending").await, KEYS);
}

#[tokio::test]
async fn the_same_key_with_another_job_is_refused_at_both_doors() {
    let fleet = Fleet::new().await;
    let _dispatcher = fleet.dispatcher();
    let (_api, client) = fleet.api().await;
    let producer = fleet.producer().await;
    let of = |name: &str| jobs::with(jobs::mock(&[]), json!({ "idempotency_key": "k", "name": name }));
    let id = client.submit(&of("first")).await;
    let refused = client.post("/v1/jobs", of("second").to_string()).await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("idempotency_conflict")), "{refused:?}");
    let answer = producer.ask(producer.message(&of("third"))).await;
    assert_eq!(answer["code"], "idempotency_conflict", "{answer}");
    assert_eq!(answer["field"], "idempotency_key");
    assert_eq!(producer.submit(&of("first")).await, id);
}

/// A message's own id is another space of keys than the submission's, and each tenant has its own.
#[tokio::test]
async fn sources_and_tenants_have_their_own_keys() {
    let fleet = Fleet::new().await;
    fleet.other_tenant("globex").await;
    let _dispatcher = fleet.dispatcher();
    let producer = fleet.producer().await;
    let keyed = jobs::with(jobs::mock(&[]), json!({ "idempotency_key": "same" }));
    let mut by_key = producer.message(&keyed);
    by_key.message_id = None;
    let mut by_id = producer.message(&jobs::mock(&[]));
    by_id.message_id = Some("same".into());
    let mut of_other = by_key.clone();
    of_other.api_key = Some("globex".into());
    let messages = [&by_key, &by_id, &of_other].map(Clone::clone).to_vec();
    let ids =
        |answers: Vec<Value>| -> Vec<Value> { answers.into_iter().map(|answer| answer["job_id"].clone()).collect() };
    let first = ids(producer.ask_all(messages.clone()).await);
    assert_eq!(first.iter().map(Value::to_string).collect::<BTreeSet<_>>().len(), 3, "{first:?}");
    let second = join_all(messages.into_iter().map(|message| producer.ask(message))).await;
    assert!(second.iter().all(|answer| answer["existing"] == true), "{second:?}");
    assert_eq!(ids(second), first);
}
