//! What is away comes back: the broker's connection, its messages, parts that are not there yet.

use std::time::{Duration, Instant};

use gantry_testkit::{Proxy, eventually};
use gantry_tests::{Fleet, PATIENCE, jobs, quick};

/// 150 jobs, and `disturb` each time that 20 more have ended.
async fn run_through(fleet: &Fleet, mut disturb: impl AsyncFnMut(usize)) {
    let host = fleet.mock_host(8).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "20ms")]); 150]).await;
    for round in 1..=4 {
        eventually(PATIENCE, async || fleet.count("completed").await >= 20 * round).await;
        disturb(round).await;
    }
    fleet.all_complete(&ids).await;
    let starts = fleet.ledger().starts();
    assert!(starts.len() == ids.len() && starts.values().all(|starts| *starts == 1), "{starts:?}");
}

/// What was done and not answered is not known to be done: the last disturbance of each server is of this kind.
async fn lose_answers(proxy: &Proxy) {
    proxy.drop_responses();
    tokio::time::sleep(Duration::from_millis(300)).await; // Answers are lost meanwhile: there is nothing to wait for.
    proxy.cut();
    proxy.resume();
}

#[tokio::test]
async fn every_connection_to_the_broker_is_cut() {
    let (fleet, _postgres, rabbitmq) = Fleet::behind_proxies().await;
    run_through(&fleet, async |round| if round < 4 { rabbitmq.cut() } else { lose_answers(&rabbitmq).await }).await;
}

#[tokio::test]
async fn every_connection_to_postgres_is_cut() {
    let (fleet, postgres, _rabbitmq) = Fleet::behind_proxies().await;
    run_through(&fleet, async |round| if round < 4 { postgres.cut() } else { lose_answers(&postgres).await }).await;
}

#[tokio::test]
async fn every_queue_is_emptied() {
    let (fleet, _parts) = Fleet::simulated(8).await;
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "100ms")]); 60]).await;
    for _ in 0..10 {
        fleet.purge().await;
        tokio::time::sleep(Duration::from_millis(100)).await; // Spread over the time in which jobs wait, run and end.
    }
    fleet.all_complete(&ids).await;
    let starts = fleet.ledger().starts();
    assert!(starts.len() == ids.len() && starts.values().all(|starts| *starts == 1), "{starts:?}");
}

#[tokio::test]
async fn jobs_wait_for_a_dispatcher() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(8).await;
    let _parts = [fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let (_api, client) = fleet.api().await;
    let by_http = client.submit_all(&vec![jobs::mock(&[]); 20]).await;
    let mut sent = Vec::new();
    for _ in 0..20 {
        sent.push(producer.send(producer.message(&jobs::mock(&[]))).await);
    }
    assert_eq!(fleet.count("pending").await, 20, "RabbitMQ keeps the others");
    let _dispatcher = fleet.dispatcher();
    for message in &sent {
        assert_eq!(producer.answer(message).await["result"], "accepted");
    }
    fleet.all_complete(&by_http).await;
    fleet.count_reaches("completed", 40).await;
}

/// Jobs end and wait to be recorded: reports are kept, by RabbitMQ and by the worker.
#[tokio::test]
async fn ends_wait_for_a_recorder() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(4).await;
    let _parts = [fleet.dispatcher(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let ids = producer.submit_all(&vec![jobs::mock(&[]); 12]).await;
    eventually(PATIENCE, async || fleet.amqp.ready("gantry.reports").await > 0).await;
    // A slot is free when the end is recorded, and not before.
    eventually(PATIENCE, async || fleet.slots_used(host).await == 4).await;
    eventually(PATIENCE, async || fleet.ledger().starts().len() == 4).await;
    assert_eq!(fleet.count("completed").await, 0);
    let _recorder = fleet.recorder();
    fleet.all_complete(&ids).await;
}

/// After an outage the outbox is long: it is not published at one batch a second.
#[tokio::test]
async fn a_long_outbox_is_published_without_pauses() {
    let (fleet, _parts) = Fleet::simulated(1).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    // At its head an event that nobody can read and one whose job is not there, then fifteen batches.
    fleet
        .execute(
            "with e as (
                insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
                select job_id, 1000, tenant_id, executor_type, 'started', '{}' from job_events where kind = 'completed'
                returning job_id, sequence)
             insert into outbox (id, jobs, sequences, created_at)
             select gen_random_uuid(), array[o.job_id], array[o.sequence], now() - interval '1 hour'
             from (select * from e union all select gen_random_uuid(), 1) o(job_id, sequence)",
        )
        .await;
    fleet
        .execute(
            "with e as (
                insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
                select job_id, n, tenant_id, executor_type, 'started', data::jsonb || jsonb_build_object('sequence', n)
                from job_events cross join generate_series(1001, 16000) n where kind = 'completed'
                returning job_id, sequence)
             insert into outbox (id, jobs, sequences, created_at)
             select gen_random_uuid(), array_agg(job_id), array_agg(sequence), now() - interval '1 minute'
             from e group by sequence / 7",
        )
        .await;
    let began = Instant::now();
    let left = "select coalesce(string_agg(sequences::text, ' '), '') from outbox";
    eventually(PATIENCE, async || fleet.scalar::<String>(left).await == "{1000}").await;
    assert!(fleet.scalar::<i64>("select count(*) from job_events").await > 15_000);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
