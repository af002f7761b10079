//! What the metrics of all parts have in common.

use std::sync::LazyLock;

use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};

/// Bucket boundaries for a stage of a job's way, in seconds: from a nudge to a long queue.
pub const STAGE_SECONDS: [f64; 16] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0];

/// Made at its first use, when telemetry has begun.
static BATCH: LazyLock<Histogram<u64>> = LazyLock::new(|| {
    global::meter("gantry")
        .u64_histogram("gantry.batch.size")
        .with_unit("{item}")
        .with_boundaries(vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0])
        .with_description("Items that one transaction or one round of publishing took.")
        .build()
});

/// `operation` took so many items at once. None is no batch.
pub fn batch(operation: &'static str, items: usize) {
    if items > 0 {
        BATCH.record(items as u64, &[KeyValue::new("operation", operation)]);
    }
}
