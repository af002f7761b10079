//! The beat: renews the lease, compares what the database says this worker owns with what the process knows,
//! declares overdue workers dead and takes their attempts.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_core::message::Token;
use gantry_store::{Error, attempts, workers};
use tokio::time::{sleep, timeout};

use crate::attempt;
use crate::engine::Engine;
use crate::metrics;
use crate::registry::Run;

/// Attempts adopted in one statement at most, and statements of one beat: the next beat must not be late.
const ADOPTIONS: i64 = 500;
const ADOPTION_BATCHES: usize = 20;
/// How long RabbitMQ may take to say how long a queue is: the beat waits for it.
const DEPTH_WITHIN: Duration = Duration::from_secs(1);
/// Containers removed at once.
const REMOVALS: usize = 8;
/// Of many, so many are removed without a pause.
const REMOVALS_IN_A_ROW: usize = 64;

/// Beats until the worker is declared dead, which is its result.
pub(crate) async fn run(engine: &Arc<Engine>) -> Error {
    let mut beat = tokio::time::interval(engine.settings.beat());
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let result = tokio::select! {
            _ = beat.tick() => renew(engine).await,
            () = engine.look.notified() => look(engine, engine.lease.now()).await,
        };
        match result {
            Ok(()) => {}
            Err(error @ Error::NotAlive(_)) => return error,
            Err(error) => {
                metrics::beat_failed(engine.executor.executor_type());
                let quiet = !engine.lease.allows_request();
                tracing::warn!(%error, quiet, "the beat failed, trying again");
                sleep(Duration::from_millis(200)).await;
                beat.reset_immediately();
            }
        }
    }
}

async fn renew(engine: &Arc<Engine>) -> Result<(), Error> {
    let began = engine.lease.now();
    workers::beat(&engine.store, engine.id).await?;
    engine.lease.renew(began);
    for dead in workers::mark_overdue_dead(&engine.store, engine.lease.unbroken()).await? {
        metrics::declared_dead();
        tracing::warn!(worker.id = %dead, "a worker missed its beats and is declared dead");
    }
    metrics::attempts(engine.executor.executor_type(), engine.registry.len());
    look(engine, began).await?;
    adopt(engine).await
}

/// Reads what is ours and acts on the differences.
async fn look(engine: &Arc<Engine>, began: Duration) -> Result<(), Error> {
    let differences = attempts::differing(&engine.store, engine.id, &engine.registry.ask()).await?;
    let now = engine.lease.now();
    let may_report_again = engine.registry.waits_for_record(now) && !reports_wait(engine).await;
    let decisions = engine.registry.reconcile(&differences, began, now, may_report_again);
    for report in decisions.report_again {
        tracing::info!(job.id = %report.token.job, attempt = report.token.attempt, "the end was not recorded yet, reporting it again");
        let shared = engine.clone();
        engine.spawn(async move {
            if let Err(trouble) = shared.writes.report.submit(report).await {
                tracing::error!(%trouble, "an end could not be reported again");
            }
        });
    }
    if !decisions.remove.is_empty() {
        let shared = engine.clone();
        engine.spawn(async move { remove(&shared, decisions.remove).await });
    }
    // Last: if it fails, the next look finds the same again.
    resume(engine, &decisions.resume).await
}

/// Whether reports wait in their queue, or nobody can say: sending them again would only make it longer.
async fn reports_wait(engine: &Engine) -> bool {
    let queue = engine.broker.topology().reports_queue();
    !matches!(timeout(DEPTH_WITHIN, engine.broker.ready_messages(&queue)).await, Ok(Ok(0)))
}

/// Takes the attempts of workers that are not alive, on hosts that this worker serves.
async fn adopt(engine: &Arc<Engine>) -> Result<(), Error> {
    if engine.draining.is_cancelled() {
        return Ok(());
    }
    let hosts = engine.hosts.reached();
    for _ in 0..ADOPTION_BATCHES {
        let adopted = attempts::adopt(&engine.store, engine.id, &hosts, ADOPTIONS).await?;
        if adopted.is_empty() {
            break;
        }
        metrics::adopted(engine.executor.executor_type(), adopted.len());
        tracing::info!(attempts = adopted.len(), "adopting attempts of workers that are gone");
        resume(engine, &adopted).await?;
    }
    Ok(())
}

async fn resume(engine: &Arc<Engine>, tokens: &[Token]) -> Result<(), Error> {
    if tokens.is_empty() || engine.draining.is_cancelled() {
        return Ok(());
    }
    for stand in attempts::read(&engine.store, engine.id, tokens).await? {
        // Not reached yet: the next beat finds it again.
        let Some(host) = engine.hosts.get(stand.claimed.host) else { continue };
        let (run, request) = Run::new(stand.claimed.clone(), host, engine.fleet);
        if engine.registry.resumed(&run, engine.lease.now()) {
            attempt::resume(engine, run, request, stand);
        }
    }
    Ok(())
}

/// Thousands that ended since the last look are spread over half of the time to the next: an engine that removes at once would keep a
/// core from everything else for as long as they take.
async fn remove(engine: &Engine, containers: Vec<(Arc<Run>, crate::executor::ExecutionId)>) {
    let rows = containers.len().div_ceil(REMOVALS_IN_A_ROW).max(1);
    let pause = engine.settings.beat() / 2 / u32::try_from(rows).unwrap_or(u32::MAX);
    futures::stream::iter(containers)
        .enumerate()
        .then(|(number, container)| async move {
            if number > 0 && number.is_multiple_of(REMOVALS_IN_A_ROW) {
                sleep(pause).await;
            }
            container
        })
        .for_each_concurrent(REMOVALS, |(run, id)| async move {
            match engine.executor.remove(&run.host, &id).await {
                Ok(()) => engine.registry.forget(run.token),
                Err(failure) => {
                    tracing::warn!(job.id = %run.token.job, %failure, "a container could not be removed, trying again");
                    engine.registry.keep(run.token);
                }
            }
        })
        .await;
}
