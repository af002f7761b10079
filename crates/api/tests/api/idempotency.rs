//! The same submission again.

use std::collections::BTreeSet;

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{Api, answer, job};

#[tokio::test]
async fn the_same_key_twice_is_one_job() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let mut body = job();
    body["idempotency_key"] = json!("nightly");
    let first = client.post("/v1/jobs", &body).await;
    let second = client.post("/v1/jobs", &body).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16()), (201, 200));
    assert_eq!(second.body, json!({"id": first.body["id"], "existing": true, "status": "pending"}));

    client.post(&format!("/v1/jobs/{}/cancel", first.body["id"].as_str().expect("an id")), &json!({})).await;
    let third = client.post("/v1/jobs", &body).await;
    assert_eq!(third.body["status"], json!("cancelled"));

    // Within one array too, and in the array's order.
    let both = client.post("/v1/jobs", &json!([job(), body])).await;
    assert_eq!(both.body[0]["existing"], json!(false));
    assert_eq!((&both.body[1]["existing"], &both.body[1]["id"]), (&json!(true), &first.body["id"]));
}

#[tokio::test]
async fn another_submission_with_the_same_key_is_refused() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let mut body = job();
    body["idempotency_key"] = json!("k");
    let id = client.submit(&body).await;
    body["priority"] = json!(5);
    let refused = client.post("/v1/jobs", &body).await;
    assert_eq!(refused.problem(), (409, "idempotency_conflict", Some("idempotency_key")));
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains(&id)), "{refused:?}");

    // Another tenant's keys are its own.
    assert_eq!(api.tenant("globex").await.post("/v1/jobs", &body).await.status, 201);
}

#[tokio::test]
async fn the_header_counts_as_the_key() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let send = |body| answer(client.request(Method::POST, "/v1/jobs").header("Idempotency-Key", "h").json(&body));
    let first = send(job()).await;
    assert_eq!(first.status, 201);
    assert_eq!(send(job()).await.body["id"], first.body["id"]);
    let mut keyed = job();
    keyed["idempotency_key"] = json!("h");
    assert_eq!(client.post("/v1/jobs", &keyed).await.body["id"], first.body["id"]);
    assert_eq!(send(json!([job()])).await.problem(), (400, "invalid_field", Some("Idempotency-Key")));
}

#[tokio::test]
async fn concurrent_submissions_with_one_key_make_one_job() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    for round in 0..10 {
        let mut body = job();
        body["idempotency_key"] = json!(format!("round {round}"));
        let answers = join_all((0..8).map(|_| client.post("/v1/jobs", &body))).await;
        let ids: BTreeSet<_> = answers.iter().map(|answer| answer.body["id"].to_string()).collect();
        assert_eq!(ids.len(), 1, "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1, "{answers:?}");
    }
    assert_eq!(client.get("/v1/jobs").await.body["jobs"].as_array().map(Vec::len), Some(10));
}
