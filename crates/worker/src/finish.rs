//! The end of an attempt: the log complete, the outputs stored, and only then the report.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_core::Failure;
use gantry_core::message::{Ended, Report, ReportKind};
use gantry_core::output::{EXCERPT_BYTES, Outputs};
use gantry_core::state::Outcome;
use gantry_core::text;
use gantry_store::attempts::{Output, Started};
use gantry_store::logs as stored_logs;

use crate::batch::Trouble;
use crate::engine::Engine;
use crate::executor::{End, ExecutionId, Stream};
use crate::log::LogTail;
use crate::logs;
use crate::metrics;
use crate::registry::Run;
use crate::watch::Watched;

/// How long an ended container's log is asked for before its end is reported without the rest.
const LOGS_COMPLETE_WITHIN: Duration = Duration::from_secs(30);
const READ_AGAIN: Duration = Duration::from_millis(200);
/// A container that ended this soon needs no `started_at` of its own: the report says it all.
const COALESCE: Duration = Duration::from_millis(500);
/// What is kept of a backend's own words, in bytes.
const BACKEND_LOG_BYTES: usize = 16 << 10;
/// How much of each stream is kept in memory for the excerpts.
const KEPT: usize = 4 * EXCERPT_BYTES;

/// Stores the start of a container, and reports it, unless it ends right away.
pub(crate) fn started(engine: &Arc<Engine>, container: &Watched) {
    let (shared, run, id) = (engine.clone(), container.run.clone(), container.id.clone());
    let (seen, startup) = (engine.lease.now(), container.startup);
    let ago = container.running_for(seen);
    let since_claim = container.since_claim(seen, ago, engine.settings.launch_timeout());
    metrics::started(engine.executor.executor_type(), since_claim);
    engine.spawn(async move {
        tokio::time::sleep(COALESCE.saturating_sub(ago)).await;
        if !run.is_active() {
            return;
        }
        let ago = ago + shared.lease.now().saturating_sub(seen);
        let start = Started { token: run.token, execution_id: id.0.clone(), ago, startup };
        if let Err(trouble) = shared.writes.started.submit(start).await {
            tracing::warn!(job.id = %run.token.job, %trouble, "a start could not be stored");
            return;
        }
        let kind = ReportKind::Started { execution_id: id.0.clone() };
        let report = Arc::new(Report { token: run.token, traceparent: run.traceparent(), kind });
        if let Err(trouble) = shared.writes.report.submit(report).await {
            tracing::warn!(job.id = %run.token.job, %trouble, "a start could not be reported");
        }
    });
}

/// Finishes a container that has ended.
pub(crate) fn spawn(engine: &Arc<Engine>, container: Box<Watched>) {
    let shared = engine.clone();
    // Without a span: every job would pay for it, and only what goes wrong here has something to say, and names its job.
    engine.spawn_finishing(async move { finish(&shared, container).await });
}

async fn finish(engine: &Arc<Engine>, mut container: Box<Watched>) {
    let (Some(end), Some(mut log)) = (container.end.take(), container.log.take()) else { return };
    let seen = engine.lease.now();
    if !container.was_seen_running()
        && let Some(ran_for) = end.run
    {
        let since_claim = container.since_claim(seen, ran_for, engine.settings.launch_timeout());
        metrics::started(engine.executor.executor_type(), since_claim);
    }
    let run = container.run.clone();
    // If anything was stored before, the excerpts are made from what is stored.
    let all_in_memory = log.is_empty();
    let mut kept = Kept::default();
    let complete = drain(engine, &run, &container.id, &mut log, &mut kept).await;
    if !all_in_memory {
        kept = Box::pin(Kept::stored(engine, &run)).await.unwrap_or(kept);
    }
    let said = format!("{}{}", container.said, end.message);
    store_outputs(engine, &run, &kept, &said).await;
    let startup = container.startup;
    let id = ExecutionId::clone(&container.id);
    let complete = complete && !end.log_cut;
    let mut ended = from_end(*end, &id);
    ended.logs_incomplete = !complete;
    ended.startup_millis = startup.map(|startup| u64::try_from(startup.as_millis()).unwrap_or(u64::MAX));
    report(engine, &run, Some(id), ended).await;
    metrics::reported(engine.executor.executor_type(), engine.lease.now().saturating_sub(seen));
}

/// Reads and stores the rest of the log. True if it is complete. Time in which Postgres is away does not count:
/// the log waits for it.
async fn drain(engine: &Engine, run: &Arc<Run>, id: &ExecutionId, log: &mut LogTail, kept: &mut Kept) -> bool {
    let mut failing_since: Option<Duration> = None;
    let complete = loop {
        match logs::read_page(engine, run, id, log).await {
            Ok(page) => {
                failing_since = None;
                for (stream, bytes) in &page.pieces {
                    kept.push(*stream, bytes);
                }
                if !page.more {
                    break true;
                }
            }
            Err(Trouble::Transient(cause)) => {
                let now = engine.lease.now();
                let since = *failing_since.get_or_insert(now);
                if now.saturating_sub(since) > LOGS_COMPLETE_WITHIN {
                    tracing::warn!(
                        job.id = %run.token.job,
                        attempt = run.token.attempt,
                        %cause,
                        "the log could not be read, the end is reported without the rest"
                    );
                    break false;
                }
                tokio::time::sleep(READ_AGAIN).await;
            }
            Err(Trouble::Refused(cause)) => {
                tracing::error!(job.id = %run.token.job, attempt = run.token.attempt, %cause, "the log could not be stored");
                break false;
            }
        }
    };
    match log.take_tails() {
        Some(addition) => logs::store(engine, run, log, addition).await.is_ok() && complete,
        None => complete,
    }
}

/// What is kept of the streams for the excerpts: the beginning and the end of each.
#[derive(Debug, Default)]
struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Kept {
    fn push(&mut self, stream: Stream, bytes: &Bytes) {
        let kept = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        kept.extend_from_slice(bytes);
        // The excerpt cuts the middle out anyway; here it only must not grow without bound.
        if kept.len() > 2 * KEPT {
            let end = kept.len() - KEPT / 2;
            kept.drain(KEPT / 2..end);
        }
    }

    async fn stored(engine: &Engine, run: &Run) -> Option<Self> {
        let bytes = i64::try_from(KEPT).unwrap_or(i64::MAX);
        loop {
            let error = match stored_logs::ends(&engine.store, run.token, bytes).await {
                Ok((stdout, stderr)) => return Some(Self { stdout, stderr }),
                Err(error) => error,
            };
            if !error.is_transient() {
                tracing::warn!(
                    job.id = %run.token.job,
                    attempt = run.token.attempt,
                    %error,
                    "the stored log could not be read for the excerpts"
                );
                return None;
            }
            // As long as its writes would wait: what is kept instead is the log's end alone, and nothing would say so.
            tokio::time::sleep(READ_AGAIN).await;
        }
    }
}

async fn store_outputs(engine: &Engine, run: &Run, kept: &Kept, said: &str) {
    let outputs = Outputs::from_streams(&kept.stdout, &kept.stderr);
    if outputs.is_empty() && said.is_empty() {
        return;
    }
    let backend_log = text::sanitize(&text::excerpt(said, BACKEND_LOG_BYTES)).into_owned();
    let output = Arc::new(Output { token: run.token, outputs, backend_log });
    if let Err(trouble) = engine.writes.output.submit(output).await {
        tracing::error!(
            job.id = %run.token.job,
            attempt = run.token.attempt,
            %trouble,
            "the outputs could not be stored"
        );
    }
}

/// Ends an attempt of which certainly nothing was launched: another place may take the job.
pub(crate) async fn never_ran(engine: &Arc<Engine>, run: &Arc<Run>, failure: Failure, said: String) {
    tracing::info!(%failure, "the attempt was not launched");
    store_outputs(engine, run, &Kept::default(), &said).await;
    report(engine, run, None, Ended { not_launched: true, ..ended(Outcome::Failed(failure)) }).await;
}

/// Ends an attempt that has no container any more, if it ever had one.
pub(crate) async fn lost(engine: &Arc<Engine>, run: &Arc<Run>, failure: Failure, said: String) {
    tracing::info!(%failure, "the attempt has no container");
    store_outputs(engine, run, &Kept::default(), &said).await;
    report(engine, run, None, ended(Outcome::Failed(failure))).await;
}

/// An end without any numbers.
pub(crate) fn ended(outcome: Outcome) -> Ended {
    Ended::bare(outcome.into())
}

fn from_end(end: End, id: &ExecutionId) -> Ended {
    Ended {
        execution_id: Some(id.0.clone()),
        run_millis: end.run.map(|run| u64::try_from(run.as_millis()).unwrap_or(u64::MAX)),
        max_memory_usage: end.max_memory_usage,
        cpu_usage_percent: end.cpu_usage_percent,
        ..ended(end.outcome)
    }
}

/// Reports an end until RabbitMQ has it. From then on the beat sees to it that it is recorded.
pub(crate) async fn report(engine: &Arc<Engine>, run: &Arc<Run>, container: Option<ExecutionId>, ended: Ended) {
    // Its token holds until somebody adopts the attempt, and the report would be taken, without the log and the outputs that
    // could not be stored any more. Whoever adopts it stores them, and reports the end.
    if engine.dead.is_cancelled() {
        return;
    }
    let report = Arc::new(Report { token: run.token, traceparent: run.traceparent(), kind: ReportKind::Ended(ended) });
    if let Err(trouble) = engine.writes.report.submit(report.clone()).await {
        // Kept as if it had been sent: the beat sees that nothing came of it and sends it again.
        tracing::error!(
            job.id = %run.token.job,
            attempt = run.token.attempt,
            %trouble,
            "an end could not be reported now"
        );
    }
    engine.registry.reported(run, container, report, engine.lease.now());
}
