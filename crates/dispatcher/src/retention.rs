//! What is over leaves when its time has passed: a batch at a time, with a pause after each round, so that neither
//! Postgres nor its autovacuum has a burst to digest. Any number of dispatchers may do it; one does at a time.

use std::time::Duration;

use gantry_runtime::Shutdown;
use gantry_store::retention::{self, Defaults, Removed};
use gantry_store::{Error, Store};

use crate::{Parts, metrics};

/// Jobs of one transaction at most.
const JOBS: i64 = 500;
/// Attempts whose logs are removed in one transaction at most, and about so many bytes of them.
const LOGS: i64 = 100;
const LOG_BYTES: i64 = 16 * 1024 * 1024;
/// Dead letters, each of up to a MiB, and runs of schedules.
const LETTERS: i64 = 50;
const RUNS: i64 = 1_000;
/// Between two rounds while there is more.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    let defaults = Defaults {
        jobs_seconds: seconds(parts.settings.retain_jobs_seconds),
        logs_seconds: seconds(parts.settings.retain_logs_seconds),
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(parts.settings.retention()) => {}
            () = shutdown.requested() => return,
        }
        if let Err(error) = pass(&parts.store, defaults, shutdown).await {
            metrics::overdue(None);
            tracing::warn!(%error, "cannot remove what is over now, trying again");
        }
    }
}

/// Removes everything whose time is over.
async fn pass(store: &Store, defaults: Defaults, shutdown: &Shutdown) -> Result<(), Error> {
    let mut all = Removed::default();
    loop {
        metrics::overdue(Some(retention::lag(store, defaults).await?));
        let removed = round(store, defaults).await?;
        if !removed.any() {
            break;
        }
        metrics::removed(&removed);
        all = sum(all, removed);
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.requested() => break,
        }
    }
    if all.any() {
        let Removed { jobs, attempts, logs, chunks, letters, runs, .. } = all;
        tracing::info!(jobs, attempts, logs, chunks, letters, runs, "removed what was kept long enough");
    }
    Ok(())
}

/// One batch of each kind. Logs first: a job waits for its log to be gone.
async fn round(store: &Store, defaults: Defaults) -> Result<Removed, Error> {
    let logs = retention::remove_logs(store, defaults, LOGS, LOG_BYTES).await?;
    let jobs = retention::remove_jobs(store, defaults, JOBS).await?;
    let letters = retention::remove_letters(store, defaults, LETTERS).await?;
    let runs = retention::remove_runs(store, defaults, RUNS).await?;
    Ok(sum(sum(logs, jobs), sum(letters, runs)))
}

fn sum(a: Removed, b: Removed) -> Removed {
    Removed {
        jobs: a.jobs + b.jobs,
        attempts: a.attempts + b.attempts,
        events: a.events + b.events,
        logs: a.logs + b.logs,
        chunks: a.chunks + b.chunks,
        letters: a.letters + b.letters,
        runs: a.runs + b.runs,
    }
}

/// At most a hundred years, which Postgres can still take from a time.
fn seconds(setting: u64) -> i64 {
    i64::try_from(setting).unwrap_or(i64::MAX).min(100 * 366 * 86_400)
}
