//! Why a job waits, in which order jobs stop waiting, and until when they wait.

use std::time::Duration;

use gantry_core::JobId;
use gantry_core::message::Work;
use gantry_testkit::eventually;
use gantry_tests::{Client, Fleet, PATIENCE, jobs, quick};
use serde_json::{Value, json};

async fn waits_for(client: &Client, id: JobId, reason: &str) {
    eventually(PATIENCE, async || client.job(id).await["waiting_reason"] == reason).await;
}

#[tokio::test]
async fn for_a_host_a_worker_and_a_slot() {
    let fleet = Fleet::new().await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let (_api, client) = fleet.api().await;
    let first = client.submit(&jobs::mock(&[("duration", "2s")])).await;
    waits_for(&client, first, "no_host").await;
    let routing = client.job(first).await["routing_reason"].to_string();
    assert!(routing.contains("no active host"), "{routing}");

    let host = fleet.mock_host(1).await;
    waits_for(&client, first, "no_worker").await;
    fleet.execute("update executor_hosts set state = 'cordoned'").await;
    waits_for(&client, first, "host_unavailable").await;
    fleet.execute("update executor_hosts set state = 'active'").await;

    let _worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    fleet.reaches(first, "running").await;
    let second = client.submit(&jobs::mock(&[])).await;
    waits_for(&client, second, "host_full").await;
    fleet.all_complete(&[first, second]).await;
    assert_eq!(client.job(second).await["waiting_reason"], Value::Null);
}

#[tokio::test]
async fn a_cordoned_host_gets_nothing_new_and_keeps_what_runs() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let producer = fleet.producer().await;
    let running = producer.submit(&jobs::mock(&[("duration", "1s")])).await;
    fleet.reaches(running, "running").await;
    fleet.execute("update executor_hosts set state = 'cordoned'").await;
    let waiting = producer.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[running]).await;
    assert_eq!(fleet.job(waiting).await["status"], "pending");
    assert_eq!(fleet.ledger().starts().len(), 1);
    fleet.execute("update executor_hosts set state = 'active'").await;
    fleet.all_complete(&[waiting]).await;
}

/// Slots of a host that one tenant has for itself are no way in for others, and others' jobs in line before it do not
/// keep it from them.
#[tokio::test]
async fn for_a_host_of_its_own_tenant_or_of_all() {
    let fleet = Fleet::new().await;
    fleet.other_tenant("globex").await;
    let own = fleet.mock_host_of(Some(fleet.tenant), 2).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(own, 1).await;
    let (_api, client) = fleet.api().await;
    let stranger = client.with_key(Some("globex"));
    let strangers = stranger.submit_all(&vec![jobs::mock(&[]); 20]).await;
    let owners = client.submit_all(&vec![jobs::mock(&[]); 10]).await;
    fleet.all_complete(&owners).await;
    for id in &strangers {
        waits_for(&stranger, *id, "no_host").await;
    }
    assert_eq!(fleet.ledger().starts().len(), owners.len());
    fleet.mock_host(2).await;
    fleet.all_complete(&strangers).await;
    let on_own: i64 = fleet
        .scalar(
            "select count(*) from container_executions e join executor_hosts h on h.id = e.executor_host_id
             where h.tenant_id <> e.tenant_id",
        )
        .await;
    assert_eq!(on_own, 0, "nobody runs on another tenant's host");
}

#[tokio::test]
async fn by_priority_and_then_by_age() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let (_api, client) = fleet.api().await;
    let priorities = [0, 5, -100, 0, 100, 5, -1, 100];
    let mut expected = Vec::new();
    for priority in priorities {
        let job = jobs::with(jobs::mock(&[("duration", "20ms")]), json!({ "priority": priority }));
        expected.push((priority, client.submit(&job).await));
    }
    // Stable: those of one priority stay in the order in which they came.
    expected.sort_by_key(|(priority, _)| -priority);
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let ids: Vec<JobId> = expected.into_iter().map(|(_, id)| id).collect();
    fleet.all_complete(&ids).await;
    let mut runs: Vec<(u64, JobId)> = fleet.ledger().runs().map(|run| (run.started_ns, run.job)).collect();
    runs.sort_unstable();
    assert_eq!(runs.into_iter().map(|(_, job)| job).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn until_its_time_has_come() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let when: String = fleet.scalar("select to_json(now() + interval '2 seconds') #>> '{}'").await;
    let later = jobs::with(jobs::mock(&[]), json!({ "not_before": when, "queue_timeout_seconds": 60 }));
    let id = client.submit(&later).await;
    waits_for(&client, id, "not_before").await;
    let at_once = client.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[at_once]).await;
    assert_eq!(fleet.job(id).await["status"], "pending");
    fleet.all_complete(&[id]).await;
    let claimed = fleet.attempts(id).await[0]["claimed_at"].clone();
    // Both as Postgres writes them, so that their order as text is their order in time.
    assert!(claimed.as_str() >= Some(&*when), "claimed at {claimed}, not before {when}");
}

#[tokio::test]
async fn at_most_until_its_queue_deadline() {
    let fleet = Fleet::new().await;
    fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let (_api, client) = fleet.api().await;
    let events = fleet.amqp.tap("gantry.events", "job.timeout.#").await;
    let id = client.submit(&jobs::with(jobs::mock(&[]), json!({ "queue_timeout_seconds": 1 }))).await;
    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["failure_class"]), (&json!("timeout"), &json!("timeout")), "{job}");
    assert_eq!((&job["attempt"], &job["exit_code"]), (&json!(0), &Value::Null));
    eventually(PATIENCE, async || events.received().iter().any(|event| event.json()["subject"] == json!(id))).await;
}

/// What a worker without a host took would wait for a sweep, although another worker has a host for it.
#[tokio::test]
async fn in_the_queue_while_the_worker_has_no_host_that_answers() {
    let fleet = Fleet::new().await;
    let _worker = fleet.mock_worker(quick());
    eventually(PATIENCE, async || fleet.scalar::<i64>("select count(*) from workers").await == 1).await;
    stays_in_the_queue(&fleet).await;

    let host = fleet.mock_host(1).await;
    fleet.served(host, 1).await;
    eventually(PATIENCE, async || fleet.amqp.ready(QUEUE).await == 0).await;

    std::fs::write(fleet.folder().join("identity"), "00000000-0000-4000-8000-000000000000").expect("written");
    let unserved = "select count(*) from worker_hosts where not healthy";
    eventually(PATIENCE, async || fleet.scalar::<i64>(unserved).await == 1).await;
    stays_in_the_queue(&fleet).await;
}

const QUEUE: &str = "gantry.jobs.mock";

/// A list of work, of no job at all, so that nothing but the queue tells who took it.
async fn stays_in_the_queue(fleet: &Fleet) {
    let work = serde_json::to_value(Work::V1 { jobs: Vec::new() }).expect("JSON");
    fleet.amqp.publish_json("gantry.jobs", "mock", &work).await;
    // Longer than it takes a worker to take it: that nothing happens is not to be waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    eventually(PATIENCE, async || fleet.amqp.ready(QUEUE).await == 1).await;
}

/// However many wait: what is in RabbitMQ is bounded by the slots.
#[tokio::test]
async fn in_postgres_and_not_in_the_queue() {
    let (fleet, _parts) = Fleet::simulated(2).await;
    let producer = fleet.producer().await;
    producer.submit_all(&vec![jobs::mock(&[("duration", "1h")]); 600]).await;
    fleet.count_reaches("running", 2).await;
    // Several passes of dispatch and upkeep, each of which could put more into the queue.
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        let dispatched: i64 = fleet.scalar("select count(*) from container_jobs where dispatched_at is not null").await;
        let ready = fleet.amqp.ready("gantry.jobs.mock").await;
        assert!(dispatched <= 4 && ready <= 4, "{dispatched} dispatched, {ready} messages");
    }
    fleet.execute("update container_jobs set cancel_requested_at = now() where status = 'running'").await;
}
