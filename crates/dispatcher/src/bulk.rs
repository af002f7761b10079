//! Works off what is asked to be done to many jobs: batch by batch, one operation after the other, beside whatever other
//! dispatchers do.

use std::time::Duration;

use gantry_broker::Outgoing;
use gantry_core::JobId;
use gantry_core::message::{Control, Nudge};
use gantry_runtime::Shutdown;
use gantry_store::bulk::work;

use crate::{Parts, metrics};

/// Between two looks for something to do.
const PAUSE: Duration = Duration::from_secs(1);
/// Jobs in one nudge at most.
const LIST: usize = 100;

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.requested() => return,
        }
        if let Err(error) = pass(parts, shutdown).await {
            tracing::warn!(%error, "cannot work off bulk operations now, trying again");
        }
    }
}

/// Goes on until nothing is left to do.
async fn pass(parts: &Parts, shutdown: &Shutdown) -> Result<(), gantry_store::Error> {
    while !shutdown.is_requested() {
        let Some(batch) = work::batch(&parts.store).await? else { return Ok(()) };
        metrics::bulk_changed(batch.action, batch.changed);
        cancel(parts, &batch.cancelled);
        if batch.lined_up {
            parts.nudge.notify_one();
        }
    }
    Ok(())
}

/// Tells workers at once; they read it with their next beat in any case.
fn cancel(parts: &Parts, jobs: &[JobId]) {
    let route = parts.broker.topology().control();
    for jobs in jobs.chunks(LIST) {
        match serde_json::to_vec(&Control::V1(Nudge::Cancel { jobs: jobs.to_vec() })) {
            Ok(body) => parts.publisher.publish_unconfirmed(Outgoing::transient(route.clone(), body)),
            Err(error) => tracing::error!(%error, "a nudge could not be written"),
        }
    }
}
