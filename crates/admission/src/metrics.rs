//! Submissions by what became of them, whichever door they came through.

use std::sync::LazyLock;

use gantry_core::Problem;
use gantry_core::problem::Code;
use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

/// Made at its first use, when telemetry has begun.
static SUBMISSIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    global::meter("gantry-admission")
        .u64_counter("gantry.submissions")
        .with_description("Submissions that were decided about.")
        .build()
});

/// Where submissions come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The queue `gantry.submissions`.
    Amqp,
    /// `POST /v1/jobs`.
    Http,
}

/// Counts one verdict: whether the job existed already, or why it was refused.
pub fn count(door: Door, verdict: Result<bool, &Problem>) {
    let (outcome, code) = match verdict {
        Ok(false) => ("accepted", ""),
        Ok(true) => ("existing", ""),
        Err(problem) => ("rejected", code(problem.code)),
    };
    let door = match door {
        Door::Amqp => "amqp",
        Door::Http => "http",
    };
    SUBMISSIONS.add(1, &[KeyValue::new("door", door), KeyValue::new("outcome", outcome), KeyValue::new("code", code)]);
}

fn code(code: Code) -> &'static str {
    code.into()
}
