//! The one pass in which time changes anything: parked rows come due, queue deadlines pass, messages are sent
//! again, overdue workers are declared dead, old keys leave.

use std::time::{Duration, Instant};

use gantry_core::ExecutorType;
use gantry_runtime::Shutdown;
use gantry_store::{queue, workers};

use crate::{Parts, dispatch};

/// Rows touched by one statement at most.
const BATCH: i64 = 1_000;
/// How long this process has to reach Postgres without a gap before it declares anyone dead: longer than any
/// lease, so that an outage of the database does not look like the death of everyone.
const TRUST: Duration = Duration::from_secs(20);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    let mut reached_since: Option<Instant> = None;
    loop {
        tokio::select! {
            () = tokio::time::sleep(parts.settings.upkeep()) => {}
            () = shutdown.requested() => return,
        }
        let trusted = reached_since.is_some_and(|since| since.elapsed() > TRUST);
        let began = Instant::now();
        match pass(parts, trusted).await {
            Ok(()) => {
                reached_since.get_or_insert(began);
            }
            Err(error) => {
                reached_since = None;
                tracing::warn!(%error, "upkeep failed, trying again");
            }
        }
    }
}

async fn pass(parts: &Parts, trusted: bool) -> Result<(), gantry_store::Error> {
    let store = &parts.store;
    if !queue::unpark_due(store, BATCH).await?.is_empty() {
        parts.nudge.notify_one();
    }
    let ended = queue::end_overdue(store, BATCH).await?;
    if ended > 0 {
        tracing::info!(jobs = ended, "jobs waited past their queue deadline");
    }
    for executor in ExecutorType::ALL {
        republish(parts, *executor).await?;
    }
    if trusted {
        for worker in workers::mark_overdue_dead(store).await? {
            tracing::warn!(worker.id = %worker, "a worker missed its beats and is declared dead");
        }
    }
    queue::expire_keys(store, BATCH).await?;
    Ok(())
}

async fn republish(parts: &Parts, executor: ExecutorType) -> Result<(), gantry_store::Error> {
    // While the depth is unknown, the queue counts as not empty: the slow pace is right either way.
    let depth = parts.broker.ready_messages(&parts.broker.topology().jobs_queue(executor.as_str())).await;
    let items = queue::republishable(&parts.store, executor, matches!(depth, Ok(0)), BATCH).await?;
    if !items.is_empty() {
        tracing::debug!(executor.type = %executor, jobs = items.len(), "dispatched jobs are published again");
        dispatch::publish(parts, executor, &items).await;
    }
    Ok(())
}
