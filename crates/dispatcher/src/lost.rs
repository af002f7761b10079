//! Attempts that were given up because their end can never be confirmed: marked where a host is lost or a job's own
//! policy says so, and reported, so that the recorder ends them like any other.

use std::collections::HashMap;
use std::time::Duration;

use gantry_broker::Outgoing;
use gantry_core::message::{Report, ReportsToWrite, Token};
use gantry_runtime::clock::{Boottime, Monotonic};
use gantry_store::lost;
use tokio::time::timeout;

use crate::Parts;

/// Rows touched by one statement at most; a full batch is followed by the next.
const BATCH: i64 = 500;
/// Reports in one message.
const LIST: usize = 100;
/// How long a report may take to be recorded before it is sent again, and then only if none wait in their queue.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long RabbitMQ may take to say how long a queue is.
const DEPTH_WITHIN: Duration = Duration::from_secs(1);

/// The reports that this process has sent, and when. Those of another dispatcher, or of an earlier life, are sent
/// again: a second one changes nothing.
#[derive(Default)]
pub(crate) struct Sent(HashMap<Token, Duration>);

/// Marks what is lost and reports what is marked.
///
/// `reached_for` is the time for which Postgres has answered this process without a gap.
pub(crate) async fn pass(parts: &Parts, sent: &mut Sent, reached_for: Duration) -> Result<(), gantry_store::Error> {
    let store = &parts.store;
    loop {
        let marked = lost::mark_on_lost_hosts(store, BATCH).await?;
        if marked > 0 {
            tracing::warn!(attempts = marked, "attempts on lost hosts are given up");
        }
        if marked < BATCH.unsigned_abs() {
            break;
        }
    }
    // An end that was reported and is not recorded yet must not become stale.
    while reports_are_read(parts).await {
        let marked = lost::mark_by_policy(store, reached_for, BATCH).await?;
        if marked > 0 {
            tracing::warn!(
                attempts = marked,
                "attempts were out of reach for longer than their jobs wait, and are given up"
            );
        }
        if marked < BATCH.unsigned_abs() {
            break;
        }
    }
    report(parts, sent, lost::reports(store, BATCH).await?).await;
    Ok(())
}

async fn report(parts: &Parts, sent: &mut Sent, open: Vec<Report>) {
    let now = Boottime.now();
    sent.0.retain(|token, _| open.iter().any(|report| report.token == *token));
    let waited = |at: &Duration| now.saturating_sub(*at) > PATIENCE;
    let may_repeat = sent.0.values().any(waited) && reports_are_read(parts).await;
    let due: Vec<Report> =
        open.into_iter().filter(|report| sent.0.get(&report.token).is_none_or(|at| may_repeat && waited(at))).collect();
    let messages = due.chunks(LIST).filter_map(|reports| {
        let reports = reports.iter().collect();
        Outgoing::json(parts.broker.topology().reports(), &ReportsToWrite::V1 { reports }).ok()
    });
    let failed = parts.publisher.publish_all(messages.collect()).await.into_iter().find_map(Result::err);
    if let Some(error) = failed {
        tracing::warn!(%error, "the end of attempts that were given up could not be reported, trying again");
        return;
    }
    sent.0.extend(due.into_iter().map(|report| (report.token, now)));
}

/// Whether no report waits in its queue: sending again would only make it longer.
async fn reports_are_read(parts: &Parts) -> bool {
    let queue = parts.broker.topology().reports_queue();
    matches!(timeout(DEPTH_WITHIN, parts.broker.ready_messages(&queue)).await, Ok(Ok(0)))
}
