//! What is counted of schedules.

use std::sync::LazyLock;

use chrono::Duration;
use gantry_core::schedule::Outcome;
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

/// Made at its first use, when telemetry has begun.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let meter = global::meter("gantry-dispatcher");
    Metrics {
        due: meter
            .u64_counter("gantry.schedules.due_times")
            .with_description("Due times of schedules that were decided about, by what became of them.")
            .build(),
        lateness: meter
            .f64_histogram("gantry.schedules.lateness")
            .with_unit("s")
            .with_description("From a due time to its job. Runs that were made up for or had to wait included.")
            .with_boundaries(vec![0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 600.0, 3_600.0, 86_400.0])
            .build(),
    }
});

struct Metrics {
    due: Counter<u64>,
    lateness: Histogram<f64>,
}

/// Counts one due time; `late` is how long ago it was.
pub(crate) fn decided(outcome: Outcome, late: Duration) {
    let name: &'static str = outcome.into();
    METRICS.due.add(1, &[KeyValue::new("outcome", name)]);
    if outcome == Outcome::Submitted {
        METRICS.lateness.record(late.to_std().unwrap_or_default().as_secs_f64(), &[]);
    }
}
