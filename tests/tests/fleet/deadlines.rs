//! Cancels and deadlines that meet a worker's death: whoever takes the attempt over goes on with what was asked.

use futures::future::join_all;
use gantry_core::JobId;
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Part, jobs, quick};
use gantry_worker::Settings;
use serde_json::{Value, json};

/// A fleet in which this job runs and its worker was just killed.
async fn orphaned(job: Value) -> (Fleet, [Part; 2], JobId) {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(4).await;
    let parts = [fleet.dispatcher(), fleet.recorder()];
    let worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    let id = fleet.producer().await.submit(&job).await;
    eventually(PATIENCE, async || {
        fleet.attempts(id).await.first().is_some_and(|attempt| !attempt["started_at"].is_null())
    })
    .await;
    worker.crash();
    (fleet, parts, id)
}

#[tokio::test]
async fn a_cancel_waits_for_the_next_owner() {
    let (fleet, _parts, id) = orphaned(jobs::mock(&[("duration", "1h")])).await;
    let (_api, client) = fleet.api().await;
    assert_eq!(client.cancel(id).await.status, 202);
    let _next = fleet.mock_worker(quick());
    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("cancelled"), &json!(1)), "{job}");
    let attempt = &fleet.attempts(id).await[0];
    assert_eq!((&attempt["stop_reason"], &attempt["epoch"]), (&json!("cancel"), &json!(2)));
}

#[tokio::test]
async fn a_run_deadline_is_the_original_one() {
    let job = jobs::with(jobs::mock(&[("duration", "1h")]), json!({ "spec": { "timeout_seconds": 40 } }));
    let (fleet, _parts, id) = orphaned(job).await;
    fleet.execute("update container_executions set started_at = started_at - interval '30 seconds'").await;
    let _next = fleet.mock_worker(quick());
    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("timeout"), &json!(1)), "{job}");
    let ran = "select extract(epoch from ended_at - started_at)::float8 from container_executions";
    let ran: f64 = fleet.scalar(ran).await;
    // Counted anew by the adopter it would be stopped forty seconds after that, at more than seventy.
    assert!((40.0..70.0).contains(&ran), "stopped after {ran} s");
}

#[tokio::test]
async fn a_run_deadline_that_passed_while_nobody_looked_is_kept_at_once() {
    let job = jobs::with(jobs::mock(&[("duration", "1h")]), json!({ "spec": { "timeout_seconds": 60 } }));
    let (fleet, _parts, id) = orphaned(job).await;
    fleet.execute("update container_executions set started_at = started_at - interval '1 hour'").await;
    let _next = fleet.mock_worker(quick());
    assert_eq!(fleet.ended(id).await["status"], "timeout");
}

/// Counted from the claim, however far the launch got: to a container that does not start, or not even to that.
#[tokio::test]
async fn a_launch_deadline_is_the_original_one() {
    let settings = Settings { launch_timeout_seconds: 40, ..quick() };
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(2).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let first = fleet.mock_worker(settings.clone());
    fleet.served(host, 1).await;
    let bodies = ["start_delay", "prepare_delay"].map(|delay| jobs::mock(&[(delay, "1h")]));
    let ids = fleet.producer().await.submit_all(&bodies).await;
    eventually(PATIENCE, async || {
        let prepared = fleet.attempts(ids[1]).await;
        let prepares = prepared.first().is_some_and(|attempt| !attempt["prepare_began_at"].is_null());
        prepares && fleet.ledger().starts().contains_key(&(ids[0], 1))
    })
    .await;
    first.crash();
    fleet.execute("update container_executions set claimed_at = claimed_at - interval '30 seconds'").await;
    let _next = fleet.mock_worker(settings);
    let over = "select count(*) from container_executions where attempt = 1 and ended_at is not null";
    eventually(PATIENCE, async || fleet.scalar::<i64>(over).await == 2).await;
    for id in &ids {
        let attempt = &fleet.attempts(*id).await[0];
        let ended = (&attempt["stop_reason"], &attempt["failure_class"], &attempt["epoch"]);
        assert_eq!(ended, (&json!("launch_deadline"), &json!("backend_error"), &json!(2)), "{attempt}");
    }
    let lasted = "select array_agg(extract(epoch from ended_at - claimed_at)::float8) from container_executions
                  where attempt = 1";
    let lasted: Vec<f64> = fleet.scalar(lasted).await;
    // Counted anew by the adopter they would end forty seconds after that, at more than seventy.
    assert!(lasted.iter().all(|seconds| (40.0..70.0).contains(seconds)), "ended after {lasted:?} s");
}

#[tokio::test]
async fn a_stop_that_was_asked_for_is_asked_for_again() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    // Its container does not listen, and its worker has all the time in the world.
    let first = fleet.mock_worker(Settings { stop_grace_seconds: 3600, ..quick() });
    fleet.served(host, 1).await;
    let (_api, client) = fleet.api().await;
    let id = client.submit(&jobs::mock(&[("duration", "1h"), ("stop_ignores_term", "true")])).await;
    eventually(PATIENCE, async || {
        fleet.attempts(id).await.first().is_some_and(|attempt| !attempt["started_at"].is_null())
    })
    .await;
    client.cancel(id).await;
    eventually(PATIENCE, async || fleet.attempts(id).await[0]["stop_reason"] == "cancel").await;
    first.crash();
    assert_eq!(fleet.job(id).await["status"], "running", "nobody has seen it end");
    let _next = fleet.mock_worker(quick());
    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("cancelled"), &json!(1)), "{job}");
}

/// Each ends in exactly one of the two ways, and is told once: the invariants see to the second.
#[tokio::test]
async fn cancels_race_natural_ends() {
    let (fleet, _parts) = Fleet::simulated(40).await;
    let (_api, client) = fleet.api().await;
    let bodies: Vec<Value> = (0..40)
        .map(|index| jobs::mock(&[("duration", &format!("{}ms", 1_000 + 50 * index)), ("stdout", "done\n")]))
        .collect();
    let ids = client.submit_all(&bodies).await;
    // They end one after the other now, and are cancelled all together: some before, some after, some at that moment.
    eventually(PATIENCE, async || fleet.count("completed").await >= 5).await;
    join_all(ids.iter().map(async |id| client.cancel(*id).await)).await;
    let mut ends = std::collections::BTreeMap::<String, usize>::new();
    for id in ids {
        let job = fleet.ended(id).await;
        let (status, code) = (job["status"].as_str().expect("a status").to_owned(), &job["exit_code"]);
        // One that was to be stopped may have ended by itself at that moment, and is cancelled all the same.
        assert!(status == "cancelled" || status == "completed" && *code == json!(0), "{job}");
        *ends.entry(status).or_default() += 1;
    }
    assert_eq!(ends.len(), 2, "both kinds happened: {ends:?}");
}
