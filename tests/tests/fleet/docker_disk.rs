//! A host whose disk is nearly full: no job goes there, and nobody takes it for a host that is away.

use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, jobs};
use serde_json::json;

#[tokio::test]
async fn gets_no_jobs_keeps_those_it_has_and_comes_back_by_itself() {
    let (fleet, [_dispatcher, _recorder, worker]) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let policy = json!({ "spec": { "on_lost": { "action": "fail", "after_seconds": 10 } } });
    let runs = producer.submit(&jobs::with(jobs::docker("sleep 15"), policy)).await;
    fleet.reaches(runs, "running").await;
    fleet.execute(r#"update executor_hosts set executor_config = '{"min_free_disk_mb": 1000000000000}'"#).await;
    let full =
        "select count(*) from worker_hosts where not healthy and failures = 0 and detail like '%min_free_disk_mb%'";
    eventually(PATIENCE, async || fleet.scalar::<i64>(full).await == 1).await;
    // A worker that has never seen it well looks after what runs there all the same.
    worker.stop().await;
    let _next = fleet.docker_worker();
    eventually(PATIENCE, async || fleet.attempts(runs).await[0]["epoch"] == 2).await;
    let waits = producer.submit(&jobs::docker("true")).await;

    // For an hour, by the database's clock: longer than the job's policy waits for a host that is away.
    fleet.execute("update worker_hosts set unhealthy_since = unhealthy_since - interval '1 hour'").await;
    fleet.all_complete(&[runs]).await;
    assert_eq!(fleet.attempts(runs).await.len(), 1);
    assert!(fleet.attempts(waits).await.is_empty(), "it found no place there");

    fleet.execute("update executor_hosts set executor_config = '{}'").await;
    fleet.all_complete(&[waits]).await;
}
