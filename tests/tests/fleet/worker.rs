//! What a worker does about deadlines, engines that are not what they were, its own death, and what others left.

use std::time::Duration;

use gantry_core::ExecutorType;
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, jobs, quick};
use gantry_worker::Settings;
use serde_json::json;

#[tokio::test]
async fn what_does_not_start_in_time_is_the_places_fault() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let settings = Settings { launch_timeout_seconds: 1, ..quick() };
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(settings)];
    fleet.served(host, 1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[("start_delay", "1h")])).await;
    eventually(PATIENCE, async || {
        fleet.attempts(id).await.first().is_some_and(|attempt| !attempt["ended_at"].is_null())
    })
    .await;
    let attempt = &fleet.attempts(id).await[0];
    assert_eq!(
        (&attempt["stop_reason"], &attempt["failure_class"]),
        (&json!("launch_deadline"), &json!("backend_error"))
    );
    assert_eq!((&attempt["retried_by"], &attempt["exit_code"]), (&json!("infrastructure"), &json!(null)));
    assert_ne!(fleet.job(id).await["status"], "timeout");
}

/// A page of a log holds the place's only line when a look is due. The look waits for it, and it must go on meanwhile.
#[tokio::test]
async fn a_read_and_a_look_that_want_the_same_do_not_wait_for_each_other_for_ever() {
    let fleet = Fleet::new().await;
    let host = fleet.host_elsewhere(ExecutorType::Cloudrun, json!({})).await;
    // Longer than from one look to the next.
    let worker = fleet.slow_reader_elsewhere(ExecutorType::Cloudrun, quick(), Duration::from_millis(1_500));
    let _parts = [fleet.dispatcher(), fleet.recorder(), worker];
    fleet.served(host, 1).await;
    let prints = jobs::mock(&[("lines", "400"), ("duration", "4s")]);
    let id = fleet.producer().await.submit(&jobs::with(prints, json!({ "preferred_executor": "cloudrun" }))).await;
    fleet.all_complete(&[id]).await;
    assert_eq!(String::from_utf8_lossy(&fleet.log(id, 1, "stdout").await).lines().count(), 400);
}

#[tokio::test]
async fn another_engine_under_a_hosts_address_is_not_served() {
    let (fleet, _parts) = Fleet::simulated(1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    std::fs::write(fleet.folder().join("identity"), "00000000-0000-4000-8000-000000000000").expect("written");
    eventually(PATIENCE, async || {
        let unserved = "select count(*) from worker_hosts where not healthy and detail like 'another engine%'";
        fleet.scalar::<i64>(unserved).await == 1
    })
    .await;
    let known: i64 = fleet.scalar("select count(*) from executor_hosts where engine_identity like '00000000%'").await;
    assert_eq!(known, 0, "the first identity stays");
}

#[tokio::test]
async fn a_worker_that_was_declared_dead_ends() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    fleet.execute("update workers set state = 'dead', ended_at = now()").await;
    eventually(PATIENCE, async || worker.has_ended()).await;
    worker.crash();
}

#[tokio::test]
async fn what_a_worker_leaves_that_learns_of_its_death_by_a_write_is_finished_whole() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(40).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    // A slow beat: it learns of its death by a write of a log, and not before.
    let first = fleet.mock_worker(Settings { lease_seconds: 60, beat_millis: 15_000, ..quick() });
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(producer.submit(&jobs::mock(&[("lines", "5"), ("duration", "3s")])).await);
    }
    let running = "select count(*) from container_executions where started_at is not null";
    eventually(PATIENCE, async || fleet.scalar::<i64>(running).await == 40).await;
    fleet.execute("update workers set state = 'dead', ended_at = now()").await;
    eventually(PATIENCE, async || first.has_ended()).await;
    first.crash();
    let _second = fleet.mock_worker(quick());
    fleet.all_complete(&ids).await;
    let lines: String = (1..=5).map(|n| format!("line {n}\n")).collect();
    for id in ids {
        let attempts = fleet.attempts(id).await;
        assert_eq!((attempts.len(), &attempts[0]["logs_incomplete"]), (1, &json!(false)), "{attempts:?}");
        assert_eq!(String::from_utf8_lossy(&fleet.log(id, 1, "stdout").await), lines);
    }
}

#[tokio::test]
async fn what_a_killed_worker_left_is_reaped_by_the_next() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    // A slow beat: it dies between its report and the removal.
    let slow = Settings { lease_seconds: 60, beat_millis: 15_000, ..quick() };
    let first = fleet.mock_worker(slow);
    fleet.served(host, 1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    first.crash();
    let containers = || fleet.ledger().left().count();
    assert_eq!(containers(), 1, "it was left");
    fleet.execute("update container_executions set ended_at = ended_at - interval '1 hour'").await;
    let _second = fleet.mock_worker(quick());
    eventually(PATIENCE, async || containers() == 0).await;
}
