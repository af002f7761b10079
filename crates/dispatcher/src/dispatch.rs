//! Dispatch: the best pending jobs enter the window, marked first and published then. Polling is the guarantee,
//! a nudge the optimisation.

use gantry_broker::consume::{self, Consumer};
use gantry_broker::{Outgoing, ack_all};
use gantry_core::ExecutorType;
use gantry_core::message::{Control, Nudge, Work, WorkItem};
use gantry_runtime::Shutdown;
use gantry_store::queue::{self, Window};

use crate::{Parts, metrics};

/// Rows marked in one statement at most.
const BATCH: i64 = 1_000;
/// Jobs in one message at most.
const LIST: usize = 100;
/// So many messages carry a list before lists grow: with few jobs every worker on the queue gets some.
const SPREAD: usize = 16;

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = parts.nudge.notified() => {}
            () = tokio::time::sleep(parts.settings.poll()) => {}
            () = shutdown.requested() => return,
        }
        if let Err(error) = pass(parts).await {
            tracing::warn!(%error, "cannot dispatch now, trying again");
            // A nudge may come at once; Postgres is not asked in a tight loop.
            tokio::time::sleep(parts.settings.poll()).await;
        }
    }
}

/// Fills every window; again as long as a full batch says that there is more.
async fn pass(parts: &Parts) -> Result<(), gantry_store::Error> {
    loop {
        let mut full = false;
        for window in queue::windows(&parts.store).await? {
            let room = room(window, parts.settings.window_factor);
            if room <= 0 {
                continue;
            }
            let limit = room.min(BATCH);
            let items = queue::dispatch(&parts.store, window, limit).await?;
            metrics::dispatched(window.executor, items.len());
            full |= items.len() == BATCH as usize;
            publish(parts, window.executor, &items).await;
        }
        if !full {
            return Ok(());
        }
    }
}

fn room(window: Window, factor: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "slots are few against 2^52")]
    let size = (window.free_slots as f64 * factor).ceil() as i64;
    size - window.dispatched
}

/// Publishes work. What is not confirmed stays dispatched and is published again by upkeep.
pub(crate) async fn publish(parts: &Parts, executor: ExecutorType, items: &[WorkItem]) {
    if items.is_empty() {
        return;
    }
    let route = parts.broker.topology().jobs(executor.as_str());
    let messages: Vec<Outgoing> = items
        .chunks(items.len().div_ceil(SPREAD).min(LIST))
        .filter_map(|jobs| Outgoing::json(route.clone(), &Work::V1 { jobs: jobs.to_vec() }).ok())
        .collect();
    for error in parts.publisher.publish_all(messages).await.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, executor.type = %executor, "work was not published, and will be again");
    }
}

/// Turns nudges of other parts into looks of our own.
pub(crate) async fn listen(parts: &Parts, shutdown: &Shutdown) {
    let options = consume::Options { prefetch: 1_000, ..consume::Options::default() };
    let mut consumer = Consumer::subscribe(&parts.broker, parts.broker.topology().control_exchange(), &[""], options);
    loop {
        let deliveries = tokio::select! {
            deliveries = consumer.next_batch() => deliveries,
            () = shutdown.requested() => return,
        };
        if deliveries.iter().any(|d| matches!(d.json(), Ok(Control::V1(Nudge::Dispatch { .. })))) {
            parts.nudge.notify_one();
        }
        ack_all(deliveries).await;
    }
}
