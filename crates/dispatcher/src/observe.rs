//! Reads what the gauges of the fleet show: whether messages, slots and rows agree. It repairs nothing. Lost messages
//! are published again by upkeep, and a slot is freed by the rows that change: a count that went wrong shows a fault,
//! and setting it right in silence would hide it.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use gantry_core::ExecutorType;
use gantry_runtime::Shutdown;
use gantry_store::drift;
use tokio::time::timeout;

use crate::Parts;
use crate::metrics::{self, Fleet};

/// How long RabbitMQ may take to say how long a queue is.
const DEPTH_WITHIN: Duration = Duration::from_secs(1);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    loop {
        match read(parts).await {
            Ok(fleet) => metrics::show(Some(fleet)),
            Err(error) => {
                metrics::show(None);
                tracing::debug!(%error, "the state of the fleet cannot be read now");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(parts.settings.observe()) => {}
            () = shutdown.requested() => return,
        }
    }
}

async fn read(parts: &Parts) -> Result<Fleet, gantry_store::Error> {
    // Before the rows: a row that was published long before, and whose queue was empty then, has no message.
    let depths: HashMap<ExecutorType, u32> = depths(parts).await;
    let standing = drift::standing(&parts.store).await?;
    let lost =
        |pool: &drift::Pool| depths.get(&pool.executor).map(|ready| if *ready == 0 { pool.unclaimed } else { 0 });
    Ok(Fleet {
        hosts: drift::hosts(&parts.store).await?,
        pools: standing.pools.into_iter().map(|pool| (pool, lost(&pool))).collect(),
        unpublished_age: Some(standing.oldest_unpublished.unwrap_or(0.0)),
    })
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
