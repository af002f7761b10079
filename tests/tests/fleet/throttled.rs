//! A place that asks to be asked less often: whoever may run nowhere else waits for it within the attempt, and whoever may
//! goes there.

use gantry_core::ExecutorType;
use gantry_store::Scope;
use gantry_store::templates::{self, NewTemplate};
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Part, jobs, quick};
use gantry_worker::Settings;
use serde_json::{Value, json};

use ExecutorType::{Cloudrun, Fargate, Mock};

/// A fleet with a Cloud Run that throttles so many launches, and with two other places.
async fn throttling(launches: u32, settings: Settings) -> (Fleet, [Part; 5]) {
    let (fleet, [dispatcher, recorder, mock]) = Fleet::simulated(4).await;
    let hosts = [fleet.host_elsewhere(Cloudrun, json!({})).await, fleet.host_elsewhere(Fargate, json!({})).await];
    let cloudrun = fleet.worker_elsewhere(Cloudrun, settings, launches);
    let fargate = fleet.worker_elsewhere(Fargate, quick(), 0);
    for host in hosts {
        fleet.served(host, 1).await;
    }
    (fleet, [dispatcher, recorder, mock, cloudrun, fargate])
}

/// A submission of a template that may run in these places.
async fn template(fleet: &Fleet, name: &str, supported: &[ExecutorType]) -> Value {
    let template =
        NewTemplate { supported_executors: supported, ..NewTemplate::new(fleet.tenant, name, "simulated", "test") };
    templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
    json!({ "template": name })
}

fn wish() -> Value {
    jobs::with(jobs::mock(&[]), json!({ "preferred_executor": "cloudrun" }))
}

#[tokio::test]
async fn who_may_run_nowhere_else_waits_for_longer_than_the_patience() {
    // One of three is throttled four times at least, which takes more than three seconds.
    let (fleet, _parts) = throttling(12, Settings { throttle_patience_seconds: 1, ..quick() }).await;
    // Nobody named the places that the second was not sent to.
    let jobs = [wish(), json!({ "spec": { "image": "simulated" } }), template(&fleet, "there", &[Cloudrun]).await];
    let ids = fleet.producer().await.submit_all(&jobs).await;
    fleet.all_complete(&ids).await;
    for id in ids {
        let job = fleet.job(id).await;
        assert_eq!((&job["executor_type"], &job["infrastructure_retries"]), (&json!("cloudrun"), &json!(0)), "{job}");
    }
}

#[tokio::test]
async fn who_may_run_elsewhere_goes_there_after_the_patience() {
    let (fleet, _parts) = throttling(1_000, Settings { throttle_patience_seconds: 1, ..quick() }).await;
    let job = template(&fleet, "anywhere", &[Cloudrun, Mock]).await;
    let id = fleet.producer().await.submit(&job).await;
    let row = fleet.ended(id).await;
    assert_eq!((&row["status"], &row["executor_type"]), (&json!("completed"), &json!("mock")), "{row}");
    let attempts = fleet.attempts(id).await;
    assert_eq!((attempts.len(), &attempts[0]["failure_class"]), (2, &json!("throttled")), "{attempts:?}");
}

#[tokio::test]
async fn the_launch_deadline_ends_the_wait() {
    let settings = Settings { launch_timeout_seconds: 5, throttle_patience_seconds: 0, ..quick() };
    let (fleet, _parts) = throttling(1_000, settings).await;
    let id = fleet.producer().await.submit(&wish()).await;
    eventually(PATIENCE, async || {
        fleet.attempts(id).await.first().is_some_and(|attempt| !attempt["ended_at"].is_null())
    })
    .await;
    let attempt = &fleet.attempts(id).await[0];
    assert_eq!((&attempt["failure_class"], &attempt["stop_reason"]), (&json!("throttled"), &Value::Null), "{attempt}");
    let asked = "select extract(epoch from ended_at - claimed_at)::float8 from container_executions where attempt = 1";
    let asked: f64 = fleet.scalar(asked).await;
    // Two pauses at least fit before the deadline.
    assert!(asked > 1.5, "asked for {asked} s");
}
