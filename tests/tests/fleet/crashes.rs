//! Parts that are killed, and parts that are stopped: every job ends once, and none runs twice.

use std::time::Duration;

use gantry_core::JobId;
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Part, Process, Producer, Role, jobs, quick};
use serde_json::Value;

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// A fleet with two workers for one host, and a producer.
async fn two_workers(slots: i32) -> (Fleet, [Part; 2], Part, Part, Producer) {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(slots).await;
    let others = [fleet.dispatcher(), fleet.recorder()];
    let (first, second) = (fleet.mock_worker(quick()), fleet.mock_worker(quick()));
    fleet.served(host, 2).await;
    let producer = fleet.producer().await;
    (fleet, others, first, second, producer)
}

/// Jobs that print a line each 100 ms.
async fn talkers(producer: &Producer, jobs: usize, duration: &str, lines: &str) -> Vec<JobId> {
    producer.submit_all(&vec![jobs::mock(&[("duration", duration), ("lines", lines)]); jobs]).await
}

/// Waits until these jobs run and have printed something that is stored.
async fn talk(fleet: &Fleet, ids: &[JobId]) {
    for id in ids {
        eventually(PATIENCE, async || !fleet.log(*id, 1, "stdout").await.is_empty()).await;
    }
}

/// Every line once and in order, whoever read it.
async fn logs_are_whole(fleet: &Fleet, ids: &[JobId], lines: usize) {
    let expected: String = (1..=lines).map(|line| format!("line {line}\n")).collect();
    for id in ids {
        let log = fleet.log(*id, 1, "stdout").await;
        assert_eq!(String::from_utf8_lossy(&log), expected);
        assert_eq!(fleet.attempts(*id).await[0]["stdout_log"], Value::from(expected.clone()));
    }
}

async fn one_start_each(fleet: &Fleet, ids: &[JobId]) {
    let starts = fleet.ledger().starts();
    assert_eq!(starts.len(), ids.len(), "{starts:?}");
    assert!(ids.iter().all(|id| starts.get(&(*id, 1)) == Some(&1)), "{starts:?}");
}

#[tokio::test]
async fn a_worker_is_killed_and_another_goes_on() {
    let (fleet, _parts, first, _second, producer) = two_workers(20).await;
    let ids = talkers(&producer, 20, "6s", "60").await;
    talk(&fleet, &ids).await;
    first.crash();
    fleet.all_complete(&ids).await;
    one_start_each(&fleet, &ids).await;
    logs_are_whole(&fleet, &ids, 60).await;
    let adopted: i64 = fleet.scalar("select count(*) from container_executions where epoch = 2").await;
    assert!(adopted > 0, "the killed one had some of them");
    assert_eq!(fleet.scalar::<i64>("select count(*) from workers where state = 'dead'").await, 1);
    // What it adopted, the adopter removes.
    let names: String =
        fleet.scalar("select string_agg(external_name, ',') from container_executions where epoch = 2").await;
    let names: Vec<&str> = names.split(',').collect();
    eventually(PATIENCE, async || fleet.ledger().left().all(|left| !names.contains(&left))).await;
}

#[tokio::test]
async fn the_only_worker_is_killed_and_comes_back_as_another() {
    let (fleet, [dispatcher, recorder, worker]) = Fleet::simulated(10).await;
    let _parts = [dispatcher, recorder];
    let producer = fleet.producer().await;
    let running = talkers(&producer, 10, "3s", "30").await;
    let waiting = producer.submit_all(&vec![jobs::mock(&[("duration", "50ms")]); 10]).await;
    talk(&fleet, &running).await;
    worker.crash();
    // They end while nobody looks.
    let _next = fleet.mock_worker(quick());
    let ids = [running.clone(), waiting].concat();
    fleet.all_complete(&ids).await;
    one_start_each(&fleet, &ids).await;
    logs_are_whole(&fleet, &running, 30).await;
}

#[tokio::test]
async fn a_worker_that_is_stopped_hands_over_at_once() {
    let (fleet, _parts, first, _second, producer) = two_workers(20).await;
    let ids = talkers(&producer, 20, "4s", "40").await;
    talk(&fleet, &ids).await;
    let took = first.stop().await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    let orphaned = async || -> i64 {
        fleet
            .scalar(
                "select count(*) from container_executions e join workers w on w.id = e.worker_id
                 where e.ended_at is null and w.state <> 'alive'",
            )
            .await
    };
    let handed_over: i64 = fleet.scalar("select count(*) from workers where state = 'handed_over'").await;
    assert_eq!(handed_over, 1);
    // Far sooner than a lease would run out.
    eventually(Duration::from_secs(2), async || orphaned().await == 0).await;
    assert_eq!(fleet.count("running").await, ids.len(), "stopping a worker stops no container");
    fleet.all_complete(&ids).await;
    one_start_each(&fleet, &ids).await;
    logs_are_whole(&fleet, &ids, 40).await;
}

/// The fleet of production under an upgrade: all its workers are replaced, again and again, under load.
#[tokio::test]
async fn workers_are_killed_and_stopped_under_load() {
    let (fleet, _parts, first, second, producer) = two_workers(8).await;
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "300ms")]); 120]).await;
    let mut workers = vec![first, second];
    for round in 1..=4 {
        eventually(PATIENCE, async || fleet.count("completed").await >= 10 * round).await;
        workers.push(fleet.mock_worker(quick()));
        let oldest = workers.remove(0);
        if round % 2 == 0 {
            oldest.stop().await;
        } else {
            oldest.crash();
        }
    }
    fleet.all_complete(&ids).await;
    one_start_each(&fleet, &ids).await;
    assert!(fleet.ledger().max_concurrency() <= 8);
}

#[tokio::test]
async fn a_recorder_is_killed() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(8).await;
    let mut recorder = fleet.recorder();
    let _parts = [fleet.dispatcher(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let events = fleet.amqp.tap("gantry.events", "job.completed.#").await;
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "20ms")]); 200]).await;
    for round in 1..=3 {
        eventually(PATIENCE, async || fleet.count("completed").await >= 30 * round).await;
        recorder.crash();
        recorder = fleet.recorder();
    }
    fleet.all_complete(&ids).await;
    one_start_each(&fleet, &ids).await;
    // At least once, whoever died between the commit and the publish, and always under the one id.
    let ends = || -> std::collections::BTreeMap<String, Value> {
        events
            .received()
            .iter()
            .map(|event| (event.json()["id"].to_string(), event.json()["subject"].clone()))
            .collect()
    };
    eventually(PATIENCE, async || ends().len() >= ids.len()).await;
    let mut told: Vec<Value> = ends().into_values().collect();
    told.sort_by_key(Value::to_string);
    let mut expected: Vec<Value> = ids.iter().map(|id| serde_json::json!(id)).collect();
    expected.sort_by_key(Value::to_string);
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_dispatcher_is_killed() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(8).await;
    let mut dispatcher = fleet.dispatcher();
    let _parts = [fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let mut sent = Vec::new();
    for round in 0..4 {
        for _ in 0..50 {
            sent.push(producer.send(producer.message(&jobs::mock(&[("duration", "20ms")]))).await);
        }
        eventually(PATIENCE, async || fleet.count("completed").await > 10 * round).await;
        dispatcher.crash();
        dispatcher = fleet.dispatcher();
    }
    // An answer may come twice, or be lost with its sender; every message makes one job all the same.
    fleet.count_reaches("completed", sent.len()).await;
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 200);
}

/// A job that enters the window with its admission has no second commit that a crash could come before: its row is in the
/// window, whether a worker was told of it or not.
#[tokio::test]
async fn a_dispatcher_dies_between_an_admission_and_its_message() {
    for point in ["commit.admission::insert.after", "publish.gantry.jobs.before", "publish.gantry.jobs.after"] {
        let fleet = Fleet::new().await;
        let host = fleet.mock_host(4).await;
        let _parts = [fleet.recorder(), fleet.mock_worker(quick())];
        fleet.served(host, 1).await;
        let seen = fleet.folder().join("seen");
        let passed = || std::fs::read_to_string(&seen).unwrap_or_default();
        let settings = [("FAILPOINT", point), ("FAILPOINTS_SEEN", seen.to_str().expect("a path of ours"))];
        let mut dying: Process = fleet.process(PART, Role::Dispatcher, &settings).await;
        // Then it knows that nobody stands in line.
        eventually(PATIENCE, async || passed().contains("commit.lines::standing.after")).await;
        let producer = fleet.producer().await;
        let sent = producer.send(producer.message(&jobs::mock(&[]))).await;
        eventually(PATIENCE, async || dying.has_ended()).await;
        dying.kill();
        assert!(!passed().contains("commit.lines::dispatch"), "{point}: it was admitted and dispatched in one step");

        // A worker with room finds the row by itself.
        fleet.count_reaches("completed", 1).await;
        let _dispatcher = fleet.dispatcher();
        let answer = producer.answer(&sent).await;
        assert_eq!(answer["result"], "accepted", "{point}: {answer}");
        let id: JobId = answer["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        fleet.all_complete(&[id]).await;
        one_start_each(&fleet, &[id]).await;
        assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 1, "{point}");
    }
}

/// Over HTTP a job is admitted by the API, and enters the window in a commit of the dispatcher's own.
#[tokio::test]
async fn a_dispatcher_dies_between_a_nudge_and_the_message_of_its_job() {
    for point in ["commit.lines::dispatch.before", "commit.lines::dispatch.after", "publish.gantry.jobs.before"] {
        let fleet = Fleet::new().await;
        let host = fleet.mock_host(4).await;
        let _parts = [fleet.recorder(), fleet.mock_worker(quick())];
        fleet.served(host, 1).await;
        let (_api, client) = fleet.api().await;
        let seen = fleet.folder().join("seen");
        let passed = || std::fs::read_to_string(&seen).unwrap_or_default();
        let settings = [("FAILPOINT", point), ("FAILPOINTS_SEEN", seen.to_str().expect("a path of ours"))];
        let mut dying: Process = fleet.process(PART, Role::Dispatcher, &settings).await;
        // Then it knows that nobody stands in line.
        eventually(PATIENCE, async || passed().contains("commit.lines::standing.after")).await;
        let id = client.submit(&jobs::mock(&[])).await;
        eventually(PATIENCE, async || dying.has_ended()).await;
        dying.kill();
        let _dispatcher = fleet.dispatcher();
        fleet.all_complete(&[id]).await;
        one_start_each(&fleet, &[id]).await;
    }
}
