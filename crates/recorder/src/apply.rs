//! A batch that Postgres refuses for its content is halved until the one bad report stands alone; that one is
//! recorded without its payload, because a job's end and its slot matter more than the details.

use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome};
use gantry_core::text;
use gantry_store::reports::{self, Applied};
use gantry_store::{Error, Store};
use serde_json::Value;

/// A report that could not be recorded as it is.
#[derive(Debug)]
pub(crate) struct Poison {
    pub(crate) report: Value,
    pub(crate) reason: String,
}

/// The longest message of a stripped failure, in bytes.
const MESSAGE_BYTES: usize = 500;

/// Applies a batch. The error is transient: Postgres is away.
pub(crate) async fn apply(store: &Store, batch: &[Report], poison: &mut Vec<Poison>) -> Result<Applied, Error> {
    if batch.is_empty() {
        return Ok(Applied::default());
    }
    match reports::apply(store, batch, &rand::random::<f64>).await {
        Ok(applied) => Ok(applied),
        Err(error) if error.is_transient() => Err(error),
        Err(error) => match batch {
            [report] => apply_stripped(store, report, &error, poison).await,
            _ => {
                let (left, right) = batch.split_at(batch.len() / 2);
                let mut applied = Box::pin(apply(store, left, poison)).await?;
                let rest = Box::pin(apply(store, right, poison)).await?;
                applied.events.extend(rest.events);
                applied.freed.extend(rest.freed);
                applied.lined_up |= rest.lined_up;
                applied.failovers.extend(rest.failovers);
                applied.superseded += rest.superseded;
                Ok(applied)
            }
        },
    }
}

async fn apply_stripped(
    store: &Store,
    report: &Report,
    cause: &Error,
    poison: &mut Vec<Poison>,
) -> Result<Applied, Error> {
    let stripped = Report { token: report.token, traceparent: None, kind: strip(&report.kind) };
    let put_aside = |reason: String| Poison { report: serde_json::to_value(report).unwrap_or_default(), reason };
    match reports::apply(store, &[stripped], &rand::random::<f64>).await {
        Ok(applied) => {
            poison.push(put_aside(format!("recorded without its payload: {cause}")));
            Ok(applied)
        }
        Err(error) if error.is_transient() => Err(error),
        Err(error) => {
            poison.push(put_aside(format!("not recorded: {error}")));
            Ok(Applied::default())
        }
    }
}

/// What must be recorded: status, exit code, class, and the slot that goes with them.
fn strip(kind: &ReportKind) -> ReportKind {
    let ReportKind::Ended(ended) = kind else { return kind.clone() };
    let outcome = match &ended.outcome {
        ReportedOutcome::Failed(failure) => {
            let message = text::sanitize(&text::excerpt(&failure.message, MESSAGE_BYTES)).into_owned();
            ReportedOutcome::Failed(gantry_core::Failure { message, ..failure.clone() })
        }
        exited => exited.clone(),
    };
    ReportKind::Ended(Ended {
        execution_id: ended.execution_id.clone().filter(|id| id.chars().count() <= 255 && !id.contains('\0')),
        run_millis: ended.run_millis,
        not_launched: ended.not_launched,
        logs_incomplete: ended.logs_incomplete,
        ..Ended::bare(outcome)
    })
}
