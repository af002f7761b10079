//! What a worker counts. Labels are its executor type and closed sets of outcomes and reasons.

use std::sync::LazyLock;
use std::time::Duration;

use gantry_core::ExecutorType;
use gantry_runtime::metrics::STAGE_SECONDS;
use gantry_store::claims::Outcome;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};

/// Made at its first use, when telemetry has begun.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&global::meter("gantry-worker")));

struct Metrics {
    claimed: Counter<u64>,
    released: Counter<u64>,
    queue: Histogram<f64>,
    dispatch: Histogram<f64>,
    launches: Counter<u64>,
    startup: Histogram<f64>,
    report: Histogram<f64>,
    adopted: Counter<u64>,
    beats_failed: Counter<u64>,
    dead: Counter<u64>,
    attempts: Gauge<u64>,
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, text: &'static str| meter.u64_counter(name).with_description(text).build();
        let stage = |name: &'static str, text: &'static str| {
            let histogram = meter.f64_histogram(name).with_unit("s").with_boundaries(STAGE_SECONDS.to_vec());
            histogram.with_description(text).build()
        };
        Self {
            claimed: counter("gantry.jobs.claimed", "Jobs that were claimed."),
            released: counter("gantry.jobs.released", "Dispatched jobs that found no place and were parked."),
            queue: stage("gantry.job.queue.duration", "Time from a job's acceptance to its first claim."),
            dispatch: stage("gantry.job.dispatch.duration", "Time from a job's dispatch to its claim."),
            launches: counter("gantry.launches", "Launch requests by what became of them."),
            startup: stage("gantry.attempt.startup.duration", "Time from a claim to the running container."),
            report: stage(
                "gantry.attempt.report.duration",
                "Time from the sight of a container's end to the confirm of its report: log and outputs are stored in it.",
            ),
            adopted: counter("gantry.attempts.adopted", "Attempts taken over from workers that are gone."),
            beats_failed: counter("gantry.worker.beats.failed", "Beats that failed."),
            dead: counter(
                "gantry.workers.declared_dead",
                "Workers that this process declared dead because they missed their beats.",
            ),
            attempts: meter
                .u64_gauge("gantry.worker.attempts")
                .with_description("Attempts in this process, ended ones whose end is not recorded yet included.")
                .build(),
        }
    }
}

fn of(executor: ExecutorType) -> KeyValue {
    KeyValue::new("executor_type", executor.as_str())
}

/// A claim of so many items was answered.
pub(crate) fn claimed(executor: ExecutorType, items: usize, outcome: &Outcome) {
    gantry_runtime::metrics::batch("claim", items);
    METRICS.claimed.add(outcome.claimed.len() as u64, &[of(executor)]);
    for (reason, jobs) in &outcome.released {
        METRICS.released.add(*jobs as u64, &[of(executor), KeyValue::new("reason", reason.clone())]);
    }
    for wait in &outcome.waits {
        METRICS.dispatch.record(wait.since_dispatch.as_secs_f64(), &[of(executor)]);
        if let Some(time) = wait.since_submission {
            METRICS.queue.record(time.as_secs_f64(), &[of(executor)]);
        }
    }
}

/// A launch request ended: `launched`, `not_launched`, `maybe_launched`, or `not_sent` because the worker drains.
pub(crate) fn launch(executor: ExecutorType, outcome: &'static str) {
    METRICS.launches.add(1, &[of(executor), KeyValue::new("outcome", outcome)]);
}

/// A container was running so long after its claim.
pub(crate) fn started(executor: ExecutorType, after: Duration) {
    METRICS.startup.record(after.as_secs_f64(), &[of(executor)]);
}

/// The end of a container was confirmed so long after it was seen.
pub(crate) fn reported(executor: ExecutorType, after: Duration) {
    METRICS.report.record(after.as_secs_f64(), &[of(executor)]);
}

pub(crate) fn adopted(executor: ExecutorType, attempts: usize) {
    METRICS.adopted.add(attempts as u64, &[of(executor)]);
}

pub(crate) fn beat_failed(executor: ExecutorType) {
    METRICS.beats_failed.add(1, &[of(executor)]);
}

pub(crate) fn declared_dead() {
    METRICS.dead.add(1, &[]);
}

pub(crate) fn attempts(executor: ExecutorType, attempts: usize) {
    METRICS.attempts.record(attempts as u64, &[of(executor)]);
}
