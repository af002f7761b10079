//! Listing, waiting, cancelling.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::support::{Api, PATIENCE, job};
use crate::worker::Worker;

fn ids(list: &Value) -> Vec<String> {
    list["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn jobs_are_listed_by_pages_newest_first() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, client.submit(&job()).await);
    }
    let first = client.get("/v1/jobs?limit=3").await;
    assert_eq!(ids(&first.body), made[..3]);
    assert_eq!(first.body["next"], json!(made[2]));
    let second = client.get(&format!("/v1/jobs?limit=3&before={}", made[2])).await;
    assert_eq!(ids(&second.body), made[3..]);
    assert_eq!(second.body.get("next"), None);
    // A page that is exactly full is known to be the last.
    assert_eq!(client.get("/v1/jobs?limit=5").await.body.get("next"), None);
}

#[tokio::test]
async fn jobs_are_listed_by_status_and_executor() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let pending = client.submit(&job()).await;
    let cancelled = client.submit(&job()).await;
    client.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).await;
    let listed = |query: &'static str| {
        let client = client.clone();
        async move { ids(&client.get(&format!("/v1/jobs?{query}")).await.body) }
    };
    assert_eq!(listed("status=pending").await, [pending.as_str()]);
    assert_eq!(listed("status=cancelled,running").await, [cancelled.as_str()]);
    assert_eq!(listed("status=cancelled&status=pending").await, [cancelled, pending]);
    assert_eq!(listed("executor=mock").await.len(), 2);
    assert_eq!(listed("executor=docker&status=pending").await.len(), 0);
}

#[tokio::test]
async fn a_bad_parameter_is_refused_by_name() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let one = format!("/v1/jobs/{id}");
    let logs = format!("/v1/jobs/{id}/logs");
    for (path, query, field) in [
        ("/v1/jobs", "status=done", "status"),
        ("/v1/jobs", "executor=lambda", "executor"),
        ("/v1/jobs", "before=x", "before"),
        ("/v1/jobs", "limit=0", "limit"),
        ("/v1/jobs", "limit=501", "limit"),
        ("/v1/jobs", "limit=many", "limit"),
        ("/v1/jobs", "limit=1&limit=2", "limit"),
        ("/v1/jobs", "limt=1", "limt"),
        (&one, "wait=6m", "wait"),
        (&one, "wait=soon", "wait"),
        (&one, "weit=1s", "weit"),
        (&logs, "after=x", "after"),
        (&logs, "follow=maybe", "follow"),
        (&logs, "limit=1001", "limit"),
    ] {
        let refused = client.get(&format!("{path}?{query}")).await;
        assert_eq!(refused.problem(), (400, "invalid_field", Some(field)), "{query}");
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_job() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let worker = Worker::start(&api.fleet).await;
    let id = client.submit(&job()).await;
    let running = worker.claim().await;
    let path = format!("/v1/jobs/{id}?wait=5m");
    // Many wait for one job, and begin before its end or after it.
    let waits = join_all((0..20).map(|_| client.get(&path)));
    let (answers, ()) = timeout(PATIENCE, async { tokio::join!(waits, worker.end(&running, 3)) }).await.expect("ended");
    for answer in answers {
        assert_eq!(answer.body["status"], json!("failed"), "{answer:?}");
        assert_eq!(answer.body["exit_code"], json!(3));
        assert_eq!(answer.body["failure_class"], json!("exit_nonzero"));
        let attempt = &answer.body["attempts"][0];
        assert_eq!((&attempt["run_millis"], &attempt["max_memory_bytes"]), (&json!(1_500), &json!(4_096)));
        assert_eq!(attempt["host"], json!("mock"));
    }
}

#[tokio::test]
async fn a_wait_is_over_when_its_time_is_up() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let began = Instant::now();
    let answer = client.get(&format!("/v1/jobs/{id}?wait=300ms")).await;
    assert_eq!(answer.body["status"], json!("pending"));
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn those_who_wait_do_not_hold_up_the_stop() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let path = format!("/v1/jobs/{id}?wait=5m");
    let wait = tokio::spawn({
        let client = client.clone();
        async move { client.get(&path).await }
    });
    // It waits when the poller asks for its job, which nothing shows; asked to stop before, it is answered as well.
    client.get("/v1/jobs").await;
    api.stop();
    let answer = timeout(PATIENCE, wait).await.expect("answered").expect("no panic");
    assert_eq!(answer.body["status"], json!("pending"));
    api.stopped().await;
}

#[tokio::test]
async fn cancelling() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let worker = Worker::start(&api.fleet).await;

    let id = client.submit(&job()).await;
    let path = format!("/v1/jobs/{id}/cancel");
    let cancelled = client.post(&path, &json!({})).await;
    assert_eq!(cancelled.status, 200);
    assert_eq!(cancelled.body, json!({"id": id, "result": "cancelled", "status": "cancelled"}));
    let again = client.post(&path, &json!({})).await;
    assert_eq!(again.problem(), (409, "conflict", None));
    assert!(again.body["detail"].as_str().is_some_and(|detail| detail.contains("cancelled")), "{again:?}");

    let id = client.submit(&job()).await;
    let running = worker.claim().await;
    assert_eq!(running.id().to_string(), id);
    let path = format!("/v1/jobs/{id}/cancel");
    for _ in 0..2 {
        let requested = client.post(&path, &json!({})).await;
        assert_eq!(requested.status, 202);
        assert_eq!(requested.body, json!({"id": id, "result": "requested", "status": "running"}));
    }
    assert!(client.get(&format!("/v1/jobs/{id}")).await.body["cancel_requested_at"].is_string());
}
