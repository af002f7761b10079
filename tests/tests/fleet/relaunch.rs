//! Launches that may not simply be repeated: what an adopter does within the executor's idempotence and after it, what
//! becomes of a launch that the backend carries out late, and of one that a hand-over kept from being sent.

use std::collections::BTreeMap;
use std::process::Command;

use gantry_core::JobId;
use gantry_executor_mock::MockExecutor;
use gantry_store::{Scope, hosts, jobs as stored};
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Part, Process, Role, jobs, quick};
use gantry_worker::executor::{Executor as _, Launch};
use serde_json::{Value, json};

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// A worker whose launches are idempotent for so long, and whose lease is three seconds.
async fn worker(fleet: &Fleet, idempotence: &str, more: &[(&str, &str)]) -> Process {
    let settings = [
        ("MOCK_IDEMPOTENCE", idempotence),
        ("DATABASE__TRANSACTION_TIMEOUT_MILLIS", "900"),
        ("WORKER__LEASE_SECONDS", "3"),
        ("WORKER__BEAT_MILLIS", "500"),
        ("WORKER__HOST_CHECK_SECONDS", "1"),
    ];
    fleet.process(PART, Role::Worker, &[&settings[..], more].concat()).await
}

/// A fleet with a job whose launch is stored as sent, by a worker that died right before it sent it.
async fn about_to_launch(idempotence: &str) -> (Fleet, [Part; 2], JobId) {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let parts = [fleet.dispatcher(), fleet.recorder()];
    let mut dying = worker(&fleet, idempotence, &[("FAILPOINT", "executor.launch.before")]).await;
    fleet.served(host, 1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    eventually(PATIENCE, async || dying.has_ended()).await;
    dying.kill();
    assert_ne!(fleet.attempts(id).await[0]["launch_sent_at"], Value::Null);
    (fleet, parts, id)
}

/// The job completed in its second attempt, and the first one is lost.
async fn was_lost_once(fleet: &Fleet, id: JobId) {
    let (job, attempts) = (fleet.ended(id).await, fleet.attempts(id).await);
    assert_eq!((&job["status"], attempts.len()), (&json!("completed"), 2), "{job}");
    let first = &attempts[0];
    assert_eq!((&first["failure_class"], &first["epoch"]), (&json!("lost"), &json!(2)), "{first}");
    assert_eq!(fleet.ledger().starts(), BTreeMap::from([((id, 2), 1)]), "the first was not launched by its adopter");
}

#[tokio::test]
async fn what_was_sent_longer_ago_than_the_idempotence_is_lost() {
    // Nobody adopts it sooner than after its worker's lease.
    let (fleet, _parts, id) = about_to_launch("2s").await;
    let _next = worker(&fleet, "2s", &[]).await;
    was_lost_once(&fleet, id).await;
}

#[tokio::test]
async fn what_was_sent_within_the_idempotence_is_launched_again() {
    let (fleet, _parts, id) = about_to_launch("1h").await;
    let _next = worker(&fleet, "1h", &[]).await;
    fleet.all_complete(&[id]).await;
    assert_eq!(fleet.attempts(id).await[0]["epoch"], 2);
    assert_eq!(fleet.ledger().starts(), BTreeMap::from([((id, 1), 1)]));
}

/// The launch of the first attempt reaches the backend long after everybody gave it up.
#[expect(clippy::disallowed_methods, reason = "is a request that was on its way, and nobody's of the fleet any more")]
async fn arrives_late(fleet: &Fleet, job: JobId) {
    let host = hosts::list(&fleet.store, Scope::Fleet).await.expect("hosts").remove(0).host;
    let mut spec = stored::spec(&fleet.store, Scope::Fleet, job).await.expect("read").expect("stored").spec;
    // It does not end by itself.
    spec.labels.insert("mock.duration".into(), "1h".into());
    let name = fleet.attempts(job).await[0]["external_name"].as_str().expect("a name").to_owned();
    let this: String = fleet.scalar("select id::text from fleet").await;
    let launch = Launch { name, fleet: this.parse().expect("an id"), job, attempt: 1, spec };
    MockExecutor::new().launch(&host, &launch).await.expect("launched");
}

#[tokio::test]
async fn a_run_that_surfaces_late_is_reaped() {
    let (fleet, _parts, id) = about_to_launch("never").await;
    let _next = worker(&fleet, "never", &[]).await;
    was_lost_once(&fleet, id).await;
    let containers = || fleet.ledger().left().count();
    eventually(PATIENCE, async || containers() == 0).await;

    arrives_late(&fleet, id).await;
    assert_eq!(containers(), 1);
    fleet.execute("update container_executions set ended_at = ended_at - interval '1 hour'").await;
    // Each worker looks for orphans ten seconds after its start: the first asks it to end, the next removes it.
    let _second = fleet.mock_worker(quick());
    eventually(PATIENCE, async || {
        fleet.ledger().spans().any(|(run, (_, end))| run.attempt == 1 && end < run.planned_end_ns)
    })
    .await;
    let _third = fleet.mock_worker(quick());
    eventually(PATIENCE, async || containers() == 0).await;
    assert_eq!(fleet.ledger().starts(), BTreeMap::from([((id, 1), 1), ((id, 2), 1)]));
    let job = fleet.job(id).await;
    assert_eq!((&job["status"], &job["attempt"]), (&json!("completed"), &json!(2)), "{job}");
}

/// As SIGTERM ends the process of the only worker.
async fn terminate(fleet: &Fleet) {
    let pid: String = fleet.scalar("select split_part(name, ':', 2) from workers").await;
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill is there").success());
}

/// The drain comes while the database is storing that the launch is sent: it is not, and the next owner must know.
#[tokio::test]
async fn a_launch_that_a_drain_kept_from_being_sent_is_no_loss() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let held = fleet.hold_up("launch_sent_at").await;
    // The usual lease: a drain waits for a third of it.
    let mut first = fleet.process(PART, Role::Worker, &[("MOCK_IDEMPOTENCE", "never")]).await;
    fleet.served(host, 1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.is_held_up().await;
    terminate(&fleet).await;
    eventually(PATIENCE, async || first.log().contains("draining")).await;
    drop(held);
    eventually(PATIENCE, async || first.has_ended()).await;
    first.kill();
    let attempt = &fleet.attempts(id).await[0];
    assert_eq!((&attempt["launch_sent_at"], &attempt["ended_at"]), (&Value::Null, &Value::Null), "{attempt}");
    assert_eq!(fleet.scalar::<String>("select state::text from workers").await, "handed_over");

    let _next = worker(&fleet, "never", &[]).await;
    fleet.all_complete(&[id]).await;
    assert_eq!(fleet.attempts(id).await[0]["epoch"], 2);
    assert_eq!(fleet.ledger().starts(), BTreeMap::from([((id, 1), 1)]));
}
