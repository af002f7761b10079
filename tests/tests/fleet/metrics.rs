//! What a process shows on its own `/metrics`: what was done, and whether messages, slots and rows agree.

use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Process, Role, jobs};
use serde_json::json;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");
/// The fleet's gauges are looked at often, so that the tests are short.
const OFTEN: (&str, &str) = ("DISPATCHER__OBSERVE_MILLIS", "200");

const UNCLAIMED: &str = "gantry_drift_dispatched_without_message";
const COUNTED: &str = "gantry_drift_slots_counted_not_held";
const HELD: &str = "gantry_drift_slots_held_not_running";
const MOCK: &[(&str, &str)] = &[("executor_type", "mock")];

/// Waits until a metric has a value.
async fn shows(process: &Process, name: &str, labels: &[(&str, &str)], value: f64) {
    eventually(PATIENCE, async || process.metric(name, labels).await == Some(value)).await;
}

#[tokio::test]
async fn what_was_done_is_counted() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(4).await;
    let dispatcher = fleet.process(PART, Role::Dispatcher, &[OFTEN]).await;
    let recorder = fleet.process(PART, Role::Recorder, &[]).await;
    let worker = fleet.process(PART, Role::Worker, &[]).await;
    let api = fleet.process(PART, Role::Api, &[]).await;
    fleet.served(host, 1).await;

    let producer = fleet.producer().await;
    let mut ids = producer.submit_all(&vec![jobs::mock(&[("duration", "20ms")]); 12]).await;
    ids.extend(api.client().submit_all(&vec![jobs::mock(&[("duration", "700ms")]); 3]).await);
    let refused = producer.ask(producer.message(&json!({ "spec": {} }))).await;
    assert_eq!(refused["code"], "invalid_field", "{refused}");
    assert_eq!(api.client().post("/v1/jobs", "no json").await.status, 400);
    fleet.all_complete(&ids).await;
    let failing = producer.submit(&jobs::mock(&[("exit_code", "3")])).await;
    assert_eq!(fleet.ended(failing).await["status"], "failed");

    let submissions = "gantry_submissions_total";
    let by = |door, outcome, code| [("door", door), ("outcome", outcome), ("code", code)];
    shows(&dispatcher, submissions, &by("amqp", "accepted", ""), 13.0).await;
    shows(&dispatcher, submissions, &by("amqp", "rejected", "invalid_field"), 1.0).await;
    shows(&api, submissions, &by("http", "accepted", ""), 3.0).await;
    shows(&api, submissions, &by("http", "rejected", "invalid_json"), 1.0).await;
    shows(&dispatcher, "gantry_dead_letters_total", &[("reason", "invalid_field")], 1.0).await;
    shows(&worker, "gantry_jobs_claimed_total", MOCK, 16.0).await;
    shows(&worker, "gantry_launches_total", &[("outcome", "launched")], 16.0).await;
    shows(&worker, "gantry_job_queue_duration_seconds_count", MOCK, 16.0).await;
    shows(&worker, "gantry_job_dispatch_duration_seconds_count", MOCK, 16.0).await;
    shows(&worker, "gantry_attempt_startup_duration_seconds_count", MOCK, 16.0).await;
    shows(&worker, "gantry_attempt_report_duration_seconds_count", MOCK, 16.0).await;
    shows(&recorder, "gantry_attempts_ended_total", &[("outcome", "completed")], 15.0).await;
    let failed = [("outcome", "failed"), ("failure_class", "exit_nonzero")];
    shows(&recorder, "gantry_attempts_ended_total", &failed, 1.0).await;
    // Each end is one event, and each start that was stored is one, too.
    eventually(PATIENCE, async || {
        recorder.metric("gantry_outbox_events_total", &[("outcome", "published")]).await >= Some(16.0)
    })
    .await;
    // A job that is released and dispatched again is dispatched twice.
    assert!(dispatcher.metric("gantry_jobs_dispatched_total", MOCK).await >= Some(16.0));
    assert!(worker.metric("gantry_batch_size_count", &[("operation", "claim")]).await >= Some(1.0));
    for process in [&dispatcher, &recorder, &worker] {
        shows(process, "gantry_broker_connection_up", &[], 1.0).await;
    }
    assert!(worker.metric("gantry_broker_publishes_total", &[("exchange", "gantry.reports")]).await >= Some(1.0));

    // In health nothing drifts, under load neither.
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "50ms")]); 60]).await;
    while fleet.count("completed").await < 75 {
        for gauge in [UNCLAIMED, COUNTED, HELD] {
            assert_eq!(dispatcher.metric(gauge, MOCK).await, Some(0.0), "{gauge}");
        }
    }
    fleet.all_complete(&ids).await;
    for process in [&dispatcher, &recorder, &worker, &api] {
        println!("{}", process.metrics().await);
    }
    shows(&dispatcher, "gantry_workers_alive", MOCK, 1.0).await;
    shows(&dispatcher, "gantry_host_slots_limit", MOCK, 4.0).await;
    for gauge in ["gantry_host_slots_counted", "gantry_host_slots_held", UNCLAIMED, COUNTED, HELD] {
        shows(&dispatcher, gauge, MOCK, 0.0).await;
    }
    shows(&dispatcher, "gantry_outbox_unpublished_age_seconds", &[], 0.0).await;
}

/// Messages are lost while nobody can claim; the gauge says so until a worker has swept the rows up.
#[tokio::test]
async fn lost_messages_are_shown_until_their_jobs_are_claimed() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(6).await;
    // Nothing is published again, so that the rows stay without a message.
    let parked = ("DISPATCHER__UPKEEP_MILLIS", "3600000");
    let dispatcher = fleet.process(PART, Role::Dispatcher, &[OFTEN, parked]).await;
    let _recorder = fleet.process(PART, Role::Recorder, &[]).await;
    let worker = fleet.process(PART, Role::Worker, &[]).await;
    fleet.served(host, 1).await;
    shows(&dispatcher, UNCLAIMED, MOCK, 0.0).await;
    // Its lease goes on for a while, so its host's slots still count.
    worker.kill();
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[]); 5]).await;
    eventually(PATIENCE, async || {
        fleet.scalar::<i64>("select count(*) from container_jobs where dispatched_at is not null").await == 5
    })
    .await;
    eventually(PATIENCE, async || fleet.amqp.ready("gantry.jobs.mock").await > 0).await;
    shows(&dispatcher, UNCLAIMED, MOCK, 0.0).await;
    fleet.purge().await;
    shows(&dispatcher, UNCLAIMED, MOCK, 5.0).await;

    let _worker = fleet.process(PART, Role::Worker, &[]).await;
    fleet.all_complete(&ids).await;
    shows(&dispatcher, UNCLAIMED, MOCK, 0.0).await;
}

#[tokio::test]
async fn slots_that_disagree_are_shown_and_left_alone() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(3).await;
    let dispatcher = fleet.process(PART, Role::Dispatcher, &[OFTEN]).await;
    let _recorder = fleet.process(PART, Role::Recorder, &[]).await;
    let worker = fleet.process(PART, Role::Worker, &[]).await;
    fleet.served(host, 1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    shows(&dispatcher, COUNTED, MOCK, 0.0).await;

    fleet.execute("update executor_hosts set current_job_count = current_job_count + 2").await;
    shows(&dispatcher, COUNTED, MOCK, 2.0).await;
    shows(&dispatcher, "gantry_host_slots_counted", MOCK, 2.0).await;
    // Another job's way through claim and end does not touch the difference.
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    shows(&dispatcher, COUNTED, MOCK, 2.0).await;
    fleet.execute("update executor_hosts set current_job_count = current_job_count - 2").await;
    shows(&dispatcher, COUNTED, MOCK, 0.0).await;

    // Nobody may take the attempt that is opened again by hand.
    worker.kill();
    fleet.execute("update container_executions set ended_at = null, slot_held = true").await;
    shows(&dispatcher, HELD, MOCK, 2.0).await;
    shows(&dispatcher, COUNTED, MOCK, -2.0).await;
    fleet.execute("update container_executions set ended_at = now(), slot_held = false").await;
    shows(&dispatcher, HELD, MOCK, 0.0).await;
    shows(&dispatcher, COUNTED, MOCK, 0.0).await;
}

/// What is not known is not shown: an old value would look like one of now.
#[tokio::test]
async fn nothing_is_shown_of_a_fleet_that_cannot_be_read() {
    let (fleet, postgres, _rabbitmq) = Fleet::behind_proxies().await;
    fleet.mock_host(3).await;
    let dispatcher = fleet.process(PART, Role::Dispatcher, &[OFTEN]).await;
    shows(&dispatcher, COUNTED, MOCK, 0.0).await;
    postgres.refuse();
    eventually(PATIENCE, async || dispatcher.metric(COUNTED, MOCK).await.is_none()).await;
    assert_eq!(dispatcher.metric("gantry_workers_alive", &[]).await, None);
    postgres.resume();
    shows(&dispatcher, COUNTED, MOCK, 0.0).await;
}
