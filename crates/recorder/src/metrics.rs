//! What the recorder counts. Outcomes and failure classes are closed sets.

use std::sync::LazyLock;
use std::time::Duration;

use gantry_runtime::metrics::STAGE_SECONDS;
use gantry_store::events::Batch;
use gantry_store::reports::Failover;
use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{KeyValue, global};

/// Made at its first use, when telemetry has begun.
static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics::new(&global::meter("gantry-recorder")));

struct Metrics {
    ended: Counter<u64>,
    reports: Counter<u64>,
    failovers: Counter<u64>,
    record: Histogram<f64>,
    events: Counter<u64>,
}

impl Metrics {
    fn new(meter: &Meter) -> Self {
        Self {
            ended: meter
                .u64_counter("gantry.attempts.ended")
                .with_description("Ends of attempts that were recorded, by what they made of the job.")
                .build(),
            reports: meter
                .u64_counter("gantry.reports")
                .with_description("Reports by what became of them; superseded ones change nothing.")
                .build(),
            failovers: meter
                .u64_counter("gantry.failovers")
                .with_description(
                    "Jobs that their place refused and that were handed on, or back to the first, by why.",
                )
                .build(),
            record: meter
                .f64_histogram("gantry.record.duration")
                .with_unit("s")
                .with_boundaries(STAGE_SECONDS.to_vec())
                .with_description("Time from the delivery of a batch of reports to its commit.")
                .build(),
            events: meter
                .u64_counter("gantry.outbox.events")
                .with_description("Public events that were handed to RabbitMQ, by whether it took them.")
                .build(),
        }
    }
}

/// A chunk of `reports` was applied.
pub(crate) fn applied(reports: usize, superseded: usize, events: &[Batch]) {
    let count = |result, n: usize| METRICS.reports.add(n as u64, &[KeyValue::new("result", result)]);
    count("superseded", superseded);
    count("applied", reports.saturating_sub(superseded));
    for event in events.iter().flat_map(|batch| &batch.events).filter(|event| event.kind != "started") {
        let class = event.data.failure.as_ref().map_or_else(String::new, |failure| failure.class.to_string());
        METRICS.ended.add(
            1,
            &[
                KeyValue::new("executor_type", event.data.executor_type.as_str()),
                KeyValue::new("outcome", event.kind.clone()),
                KeyValue::new("failure_class", class),
            ],
        );
    }
}

/// Jobs that their places refused were handed on.
pub(crate) fn handed_on(failovers: &[Failover]) {
    for Failover { from, to, class } in failovers {
        let labels = [("from", from.as_str()), ("to", to.as_str()), ("failure_class", class.as_str())];
        METRICS.failovers.add(1, &labels.map(|(name, value)| KeyValue::new(name, value)));
    }
}

/// A report was put aside, whether or not a part of it was recorded.
pub(crate) fn poison(reports: usize) {
    METRICS.reports.add(reports as u64, &[KeyValue::new("result", "poison")]);
}

/// A batch was recorded so long after it was delivered.
pub(crate) fn recorded(after: Duration) {
    METRICS.record.record(after.as_secs_f64(), &[]);
}

/// So many events were handed to RabbitMQ.
pub(crate) fn published(confirmed: usize, refused: usize) {
    METRICS.events.add(confirmed as u64, &[KeyValue::new("outcome", "published")]);
    METRICS.events.add(refused as u64, &[KeyValue::new("outcome", "failed")]);
}
