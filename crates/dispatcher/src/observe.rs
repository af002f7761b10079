//! Reads what the gauges of the fleet show: whether messages, slots and rows agree. It repairs nothing. Lost messages
//! are published again by upkeep, and a slot is freed by the rows that change: a count that went wrong shows a fault,
//! and setting it right in silence would hide it.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use gantry_core::ExecutorType;
use gantry_runtime::Shutdown;
use gantry_store::drift;
use tokio::time::{Instant, timeout};

use crate::Parts;
use crate::metrics::{self, Fleet};
use crate::room::shares;

/// How long RabbitMQ may take to say how long a queue is.
const DEPTH_WITHIN: Duration = Duration::from_secs(1);
/// A read of the hosts passes what each slot held since the last one, so that it takes the longer the more the fleet does. It is
/// no more than one part in so many of the time, as long as nobody has to wait longer than this for the next.
const PART_OF_THE_TIME: u32 = 100;
const SELDOM: Duration = Duration::from_secs(15);

/// Every dispatcher shows the whole fleet, and reads it so many times less often as there are dispatchers.
pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    let usual = parts.settings.observe();
    loop {
        let pause = match read(parts).await {
            Ok((fleet, took)) => {
                metrics::show(Some(fleet));
                rest(usual, parts.peers.count(), took)
            }
            Err(error) => {
                metrics::show(None);
                tracing::debug!(%error, "the state of the fleet cannot be read now");
                usual
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => return,
        }
    }
}

/// How long one of so many dispatchers waits for its next read of the fleet, after one whose hosts took so long.
fn rest(usual: Duration, dispatchers: usize, took: Duration) -> Duration {
    (usual * shares(dispatchers)).max(took * PART_OF_THE_TIME).min(SELDOM.max(usual))
}

/// The fleet, and how long it took to read its hosts.
async fn read(parts: &Parts) -> Result<(Fleet, Duration), gantry_store::Error> {
    // Before the rows: a row that was published long before, and whose queue was empty then, has no message.
    let depths: HashMap<ExecutorType, u32> = depths(parts).await;
    let standing = drift::standing(&parts.store).await?;
    let lost =
        |pool: &drift::Pool| depths.get(&pool.executor).map(|ready| if *ready == 0 { pool.unclaimed } else { 0 });
    let begun = Instant::now();
    let hosts = drift::hosts(&parts.store).await?;
    let took = begun.elapsed();
    let fleet = Fleet {
        hosts,
        pools: standing.pools.into_iter().map(|pool| (pool, lost(&pool))).collect(),
        unpublished_age: Some(standing.oldest_unpublished.unwrap_or(0.0)),
    };
    Ok((fleet, took))
}

/// The messages that wait for each executor type, where RabbitMQ says it in time.
async fn depths(parts: &Parts) -> HashMap<ExecutorType, u32> {
    let asked = ExecutorType::ALL.iter().map(|executor| async move {
        let queue = parts.broker.topology().jobs_queue(executor.as_str());
        let ready = timeout(DEPTH_WITHIN, parts.broker.ready_messages(&queue)).await.ok()?.ok()?;
        Some((*executor, ready))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dear_or_shared_is_read_less_often_and_not_too_seldom() {
        let rested = |usual, dispatchers, took| {
            rest(Duration::from_secs(usual), dispatchers, Duration::from_millis(took)).as_millis()
        };
        assert_eq!(rested(3, 1, 5), 3_000);
        assert_eq!(rested(3, 2, 5), 6_000);
        assert_eq!(rested(3, 1, 100), 10_000);
        assert_eq!(rested(3, 4, 5_000), 15_000);
        assert_eq!(rested(60, 4, 5_000), 60_000, "as seldom as it is told");
    }
}
