//! The infrastructure's budget: what it pays for, where it goes, and that it ends.

use gantry_core::message::{Ended, Report, ReportKind, Token};
use gantry_core::state::Outcome;
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, jobs};
use serde_json::{Value, json};

/// A host that fails everything at once is always the emptiest one.
#[tokio::test]
async fn a_sick_host_does_not_get_the_same_job_again() {
    // Room for all of them on the host that works: one without room would make the sick one the only way.
    let (fleet, _parts) = Fleet::simulated(20).await;
    let sick = fleet.mock_host_that_fails(10).await;
    fleet.served(sick, 1).await;
    let ids = fleet.producer().await.submit_all(&vec![jobs::mock(&[("duration", "200ms")]); 20]).await;
    for id in &ids {
        let job = fleet.ended(*id).await;
        assert_eq!(job["status"], "completed", "{job}");
        assert!(fleet.attempts(*id).await.len() <= 2, "one failure is enough to go elsewhere");
    }
    let refused = "select count(*) from container_executions where failure_class = 'backend_error'";
    assert!(fleet.scalar::<i64>(refused).await > 0, "some met the sick host first");
}

#[tokio::test]
async fn a_budget_that_is_used_up_fails_the_job() {
    let (fleet, _parts) = Fleet::simulated(1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[("fail", "backend_error")])).await;
    // Nobody waits for the pauses between its attempts.
    for attempt in 1..=5 {
        eventually(PATIENCE, async || {
            let attempts = fleet.attempts(id).await;
            attempts.len() >= attempt && !attempts[attempt - 1]["ended_at"].is_null()
        })
        .await;
        fleet.execute("update container_jobs set parked_until = now() where parked_until is not null").await;
    }
    let job = fleet.ended(id).await;
    assert_eq!(
        (&job["status"], &job["failure_class"], &job["exit_code"]),
        (&json!("failed"), &json!("backend_error"), &Value::Null)
    );
    assert_eq!((&job["infrastructure_retries"], &job["user_retries"]), (&json!(5), &json!(0)));
    let paid: Vec<Value> = fleet.attempts(id).await.iter().map(|attempt| attempt["retried_by"].clone()).collect();
    assert_eq!(paid[..5], vec![json!("infrastructure"); 5]);
    assert_eq!(paid[5], Value::Null);
}

/// What an attempt that is over says later changes nothing about the next one.
#[tokio::test]
async fn an_older_attempt_s_report_comes_too_late() {
    let (fleet, _parts) = Fleet::simulated(1).await;
    let policy = json!({ "spec": { "retry": { "max_attempts": 2, "backoff_seconds": 0 } } });
    let labels = [("exit_code", "75"), ("duration", "3s")];
    let id = fleet.producer().await.submit(&jobs::with(jobs::mock(&labels), policy)).await;
    eventually(PATIENCE, async || fleet.attempts(id).await.get(1).is_some_and(|e| !e["started_at"].is_null())).await;
    let kind = ReportKind::Ended(Ended::bare(Outcome::Exited(0).into()));
    let late = Report { token: Token { job: id, attempt: 1, epoch: 1 }, traceparent: None, kind };
    let list = json!({ "version": "1", "reports": [late] });
    fleet.amqp.publish_json("gantry.reports", "gantry.reports", &list).await;
    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["exit_code"]), (&json!("failed"), &json!(75)), "{job}");
    let attempts = fleet.attempts(id).await;
    assert_eq!((&attempts[0]["exit_code"], &attempts[1]["exit_code"]), (&json!(75), &json!(75)));
}

/// A forgotten session that holds its snapshot for as long as the fleet works.
#[tokio::test]
async fn a_held_snapshot_does_not_stop_the_queue() {
    let (fleet, _parts) = Fleet::simulated(50).await;
    let held = fleet.hold_snapshot().await;
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[]); 1_500]).await;
    fleet.all_complete(&ids).await;
    drop(held);
}
