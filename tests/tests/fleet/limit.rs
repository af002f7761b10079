//! A host's limit, counted by what ran and not by Gantry's own rows.

use gantry_dispatcher::Settings;
use gantry_tests::{Fleet, jobs, quick};

const JOBS: usize = 200;

#[tokio::test]
async fn ten_workers_race_for_two_slots() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(2).await;
    // Far more in the window than there are slots, so that workers claim what is not to be had.
    let settings = Settings { window_factor: 10.0, ..Settings::default() };
    let _parts = [fleet.dispatcher_with(settings), fleet.recorder()];
    let _workers: Vec<_> = (0..10).map(|_| fleet.mock_worker(quick())).collect();
    fleet.served(host, 10).await;
    let producer = fleet.producer().await;
    let bodies: Vec<_> = (0..JOBS).map(|n| jobs::mock(&[("duration", &format!("{}ms", 5 + n % 16))])).collect();
    let ids = producer.submit_all(&bodies).await;
    fleet.all_complete(&ids).await;
    let ledger = fleet.ledger();
    assert_eq!(ledger.max_concurrency(), 2);
    let starts = ledger.starts();
    assert_eq!((starts.len(), starts.values().sum::<usize>()), (JOBS, JOBS));
    assert_eq!(fleet.slots_used(host).await, 0);
    let claimers: i64 = fleet.scalar("select count(distinct worker_id) from container_executions").await;
    assert!(claimers >= 5, "only {claimers} of ten workers got anything: that was no race");
}

/// Each dispatcher has its own idea of how much room there is. Between them the window may be overfull, the host never is.
#[tokio::test]
async fn two_dispatchers_take_in_a_burst_for_two_slots() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(2).await;
    let _parts = [fleet.dispatcher(), fleet.dispatcher(), fleet.recorder()];
    let _workers = [fleet.mock_worker(quick()), fleet.mock_worker(quick())];
    fleet.served(host, 2).await;
    let producer = fleet.producer().await;
    let body = jobs::mock(&[("duration", "30ms")]);
    // One by one, so that many find nobody in line, and then all at once.
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(producer.submit(&body).await);
    }
    ids.extend(producer.submit_all(&vec![body; 100]).await);
    fleet.all_complete(&ids).await;
    let ledger = fleet.ledger();
    assert_eq!(ledger.max_concurrency(), 2);
    let starts = ledger.starts();
    assert_eq!((starts.len(), starts.values().sum::<usize>()), (ids.len(), ids.len()));
    assert_eq!(fleet.slots_used(host).await, 0);
}
