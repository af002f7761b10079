//! The passes in which time changes anything: parked rows come due, queue deadlines pass, messages are sent
//! again, overdue workers are declared dead, what is lost is given up, old keys leave.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use gantry_core::ExecutorType;
use gantry_runtime::Shutdown;
use gantry_runtime::clock::{Boottime, Monotonic};
use gantry_store::reach::Looks;
use gantry_store::{limits, queue, workers};
use tokio::time::timeout;

use crate::{Parts, dispatch, lost, metrics};

/// Rows touched by one statement at most; a full batch is followed by the next.
const BATCH: i64 = 1_000;
/// The same, for jobs that wait for a limit.
const BATCH_OF_LIMITED: i32 = 1_000;
/// Full batches of one statement in one pass at most: a stream that never ends leaves the others their time.
const ROUNDS: usize = 20;
/// A pass that took longer than this, or came later than this after the one before, is a gap.
const GAP: Duration = Duration::from_secs(3);
/// How long RabbitMQ may take to say how long a queue is.
const DEPTH_WITHIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    // Side by side: whoever judges who is dead must not be held up by what there is to sweep.
    tokio::join!(judge(parts, shutdown), sweep(parts, shutdown));
}

async fn judge(parts: &Parts, shutdown: &Shutdown) {
    let mut trust = Trust::default();
    let mut sent = lost::Sent::default();
    while pause(parts, shutdown).await {
        if let Err(error) = mark_overdue_dead(parts, &mut trust).await {
            trust = Trust::default();
            tracing::warn!(%error, "cannot look after workers now, trying again");
        }
        if let Err(error) = lost::pass(parts, &mut sent, trust.time()).await {
            tracing::warn!(%error, "cannot look after lost attempts now, trying again");
        }
    }
}

async fn sweep(parts: &Parts, shutdown: &Shutdown) {
    let mut sweeps = Sweeps::default();
    while pause(parts, shutdown).await {
        // One that fails stops none of the others.
        let done = [
            unpark_due(parts, &mut sweeps.due).await,
            unpark_free(parts).await,
            end_overdue(parts, &mut sweeps.overdue).await,
            expire_keys(parts).await,
        ];
        for error in done.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "upkeep failed, trying again");
        }
        republish_all(parts, &mut sweeps).await;
    }
}

/// Until the next pass; false if there is none.
async fn pause(parts: &Parts, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = tokio::time::sleep(parts.settings.upkeep()) => true,
        () = shutdown.requested() => false,
    }
}

/// How far back each statement is to look.
#[derive(Default)]
struct Sweeps {
    due: Looks,
    overdue: Looks,
    late: HashMap<ExecutorType, Looks>,
}

/// Since when this process has reached Postgres without a gap, on a clock that counts suspend.
#[derive(Default)]
struct Trust {
    since: Option<Duration>,
    last: Option<Duration>,
}

impl Trust {
    /// Postgres has just answered something that was asked at `asked`.
    fn reached(&mut self, asked: Duration) {
        let now = Boottime.now();
        let gap = now.saturating_sub(asked) > GAP || self.last.is_some_and(|last| asked.saturating_sub(last) > GAP);
        if gap {
            self.since = None;
        }
        self.since.get_or_insert(now);
        self.last = Some(now);
    }

    /// For how long it has.
    fn time(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| Boottime.now().saturating_sub(since))
    }
}

async fn mark_overdue_dead(parts: &Parts, trust: &mut Trust) -> Result<(), gantry_store::Error> {
    let store = &parts.store;
    // Right before the judgement: whoever beats has had the same chance to.
    let asked = Boottime.now();
    store.ping().await?;
    trust.reached(asked);
    for worker in workers::mark_overdue_dead(store, trust.time()).await? {
        metrics::declared_dead();
        tracing::warn!(worker.id = %worker, "a worker missed its beats and is declared dead");
    }
    Ok(())
}

async fn unpark_due(parts: &Parts, looks: &mut Looks) -> Result<(), gantry_store::Error> {
    for _ in 0..ROUNDS {
        let look = looks.begin();
        let unparked = queue::unpark_due(&parts.store, look.reach, BATCH).await?;
        if unparked > 0 {
            parts.nudge.notify_one();
        }
        if unparked < BATCH.unsigned_abs() {
            looks.end(look);
            break;
        }
    }
    Ok(())
}

async fn unpark_free(parts: &Parts) -> Result<(), gantry_store::Error> {
    if limits::unpark_free(&parts.store, BATCH_OF_LIMITED).await? > 0 {
        parts.nudge.notify_one();
    }
    Ok(())
}

async fn end_overdue(parts: &Parts, looks: &mut Looks) -> Result<(), gantry_store::Error> {
    for _ in 0..ROUNDS {
        let look = looks.begin();
        let ended = queue::end_overdue(&parts.store, look.reach, BATCH).await?;
        if ended > 0 {
            tracing::info!(jobs = ended, "jobs waited past their queue deadline");
        }
        if ended < BATCH as usize {
            looks.end(look);
            break;
        }
    }
    Ok(())
}

async fn expire_keys(parts: &Parts) -> Result<(), gantry_store::Error> {
    for _ in 0..ROUNDS {
        if queue::expire_keys(&parts.store, BATCH).await? < BATCH.unsigned_abs() {
            break;
        }
    }
    Ok(())
}

/// Looks after every executor type's messages, side by side: RabbitMQ may be slow to answer, or away.
async fn republish_all(parts: &Parts, sweeps: &mut Sweeps) {
    for executor in ExecutorType::ALL {
        sweeps.late.entry(*executor).or_default();
    }
    join_all(sweeps.late.iter_mut().map(|(executor, looks)| async move {
        if let Err(error) = republish(parts, *executor, looks).await {
            tracing::warn!(%error, executor.type = %executor, "cannot publish lost work again now, trying again");
        }
    }))
    .await;
}

async fn republish(parts: &Parts, executor: ExecutorType, looks: &mut Looks) -> Result<(), gantry_store::Error> {
    // While the depth is unknown, the queue counts as not empty: the slow pace is right either way.
    let queue = parts.broker.topology().jobs_queue(executor.as_str());
    let depth = timeout(DEPTH_WITHIN, parts.broker.ready_messages(&queue)).await;
    let is_empty = matches!(depth, Ok(Ok(0)));
    let look = looks.begin();
    let items = queue::republishable(&parts.store, executor, look.reach, is_empty, BATCH).await?;
    looks.end(look);
    if !items.is_empty() {
        tracing::debug!(executor.type = %executor, jobs = items.len(), "dispatched jobs are published again");
        metrics::republished(executor, items.len());
        dispatch::publish(parts, executor, &items).await;
    }
    Ok(())
}
