//! Stopping a container: the reason is committed first, then it is asked, again and again, until the watcher has
//! seen its end.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::state::StopReason;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::engine::Engine;
use crate::executor::ExecutionId;
use crate::registry::Run;

/// Time after the grace before the backend is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Starts stopping; dropping the handle ends the asking.
pub(crate) fn spawn(
    engine: &Arc<Engine>,
    run: &Arc<Run>,
    id: &ExecutionId,
    reason: StopReason,
) -> AbortOnDropHandle<()> {
    let (shared, run, id) = (engine.clone(), run.clone(), id.clone());
    let span = tracing::info_span!("stop", job.id = %run.token.job, attempt = run.token.attempt, %reason);
    AbortOnDropHandle::new(engine.spawn(async move { stop(&shared, &run, &id, reason).await }.instrument(span)))
}

async fn stop(engine: &Engine, run: &Run, id: &ExecutionId, reason: StopReason) {
    if !put_reason(engine, run, reason).await {
        return;
    }
    let grace = engine.settings.stop_grace();
    loop {
        match engine.executor.stop(&run.host, id, grace).await {
            Ok(()) => {
                tracing::info!("asked the container to end");
                tokio::time::sleep(grace + ASK_AGAIN).await;
            }
            Err(failure) => {
                tracing::warn!(%failure, "the container could not be asked to end, trying again");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

/// Commits why an attempt ends, before anything is done about it. False if it is somebody else's by now.
pub(crate) async fn put_reason(engine: &Engine, run: &Run, reason: StopReason) -> bool {
    loop {
        match engine.writes.stop_reason.submit((run.token, reason)).await {
            Ok(held) => return held,
            Err(trouble) => {
                tracing::error!(%trouble, "the reason for a stop could not be stored, trying again");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}
