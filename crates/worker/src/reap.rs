//! The orphan reaper: containers of this fleet whose attempt is over, left by a worker that died or handed over
//! between its report and the removal, are removed. It lists first and reads the database then, so that a
//! container it has seen is never younger than what it knows of the attempt.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::JobId;
use gantry_core::host::Host;
use gantry_store::attempts;

use crate::engine::Engine;
use crate::executor::Owned;

/// How long an attempt has been over before its container counts as left over: its worker had time enough.
const GRACE: Duration = Duration::from_secs(30);
/// Between two passes; the first comes sooner, for what the worker before this one left.
const PAUSE: Duration = Duration::from_secs(60);
const FIRST: Duration = Duration::from_secs(10);

/// Reaps on every host that this worker serves, for as long as the worker lives.
pub(crate) async fn run(engine: &Arc<Engine>) {
    let mut pause = FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = PAUSE;
        for id in engine.hosts.reached() {
            if let Some(host) = engine.hosts.get(id) {
                reap(engine, &host).await;
            }
        }
    }
}

async fn reap(engine: &Engine, host: &Host) {
    let listed = match engine.executor.list_owned(host, engine.fleet).await {
        Ok(listed) => listed,
        Err(failure) => return tracing::warn!(host.name = %host.name, %failure, "containers could not be listed"),
    };
    // What this process still handles is its own to remove.
    let candidates: Vec<Owned> =
        listed.into_iter().filter(|owned| !engine.registry.knows((owned.job, owned.attempt))).collect();
    let keys: Vec<(JobId, i32)> = candidates.iter().map(|owned| (owned.job, owned.attempt)).collect();
    if keys.is_empty() {
        return;
    }
    match attempts::over(&engine.store, &keys, GRACE).await {
        Ok(over) => {
            report_unknown(host, &over.unknown);
            for owned in candidates.iter().filter(|owned| over.ended.contains(&(owned.job, owned.attempt))) {
                remove(engine, host, owned).await;
            }
        }
        Err(error) => tracing::warn!(%error, "cannot tell which containers are left over, trying again"),
    }
}

/// Containers of jobs that the database does not know are somebody's to look at, not ours to remove: the database
/// may be an older one, restored.
fn report_unknown(host: &Host, unknown: &HashSet<(JobId, i32)>) {
    if let Some((job, _)) = unknown.iter().next() {
        tracing::warn!(
            host.name = %host.name,
            containers = unknown.len(),
            job.id = %job,
            "containers carry this fleet's label, and the database does not know their jobs"
        );
    }
}

async fn remove(engine: &Engine, host: &Host, owned: &Owned) {
    tracing::info!(host.name = %host.name, job.id = %owned.job, attempt = owned.attempt, owned.running, "reaping a left-over container");
    let removed = if owned.running {
        // Asked to end now, removed by the next pass.
        engine.executor.stop(host, &owned.id, engine.settings.stop_grace()).await
    } else {
        engine.executor.remove(host, &owned.id).await
    };
    if let Err(failure) = removed {
        tracing::warn!(host.name = %host.name, job.id = %owned.job, %failure, "a left-over container could not be reaped, trying again");
    }
}
