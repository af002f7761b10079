//! Reports come in batches of lists. A delivery is acked once everything in it is recorded or put aside.

use std::time::{Duration, Instant};

use futures::future::join_all;
use gantry_broker::consume::{self, Consumer};
use gantry_broker::dead_letter::{self, Reason, dead_letter};
use gantry_broker::{Delivery, Outgoing, Peers, ack_all};
use gantry_core::message::{self, Control, Ended, Nudge, Report, ReportKind, ReportedOutcome, Reports, Token};
use gantry_core::text::sanitize_json;
use gantry_core::{ExecutorType, Failure, FailureClass};
use gantry_runtime::{Linger, Shutdown};
use gantry_store::events::Batch;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::apply::{self, Poison};
use crate::{Parts, metrics};

/// Lists taken at once at most, and reports applied in one transaction at most.
const LISTS: usize = 50;
const REPORTS: usize = 500;
/// How often a transaction begins under load. It holds the rows of hosts that claims wait for, and costs each report less if
/// it has more of them.
const EVERY: Duration = Duration::from_millis(25);
/// The reason of a letter that holds one report.
const POISON: &str = "poison_report";
/// How long to wait before Postgres is asked again.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown, committed: mpsc::Sender<Vec<Batch>>) {
    let options = consume::Options {
        max_batch: LISTS,
        max_wait: Duration::ZERO,
        prefetch: 4 * LISTS as u16,
        ..consume::Options::default()
    };
    let mut consumer = Consumer::new(&parts.broker, parts.broker.topology().reports_queue(), options);
    let mut linger = Linger::new(EVERY, REPORTS);
    let peers = Peers::of(&parts.broker, &parts.broker.topology().reports_queue());
    loop {
        let deliveries = tokio::select! {
            deliveries = consumer.next_batch_gathered_until(linger.until()) => deliveries,
            () = shutdown.requested() => return,
        };
        let begun = tokio::time::Instant::now();
        let Some(reports) = record(parts, shutdown, &committed, deliveries).await else { return };
        linger.share(peers.count());
        linger.done(begun, reports);
    }
}

/// Records a batch, and returns how many reports it had; none if the process is ending before it could.
async fn record(
    parts: &Parts,
    shutdown: &Shutdown,
    committed: &mpsc::Sender<Vec<Batch>>,
    deliveries: Vec<Delivery>,
) -> Option<usize> {
    let delivered = Instant::now();
    let mut reports = Vec::new();
    let mut good = Vec::with_capacity(deliveries.len());
    let mut poison = Vec::new();
    let mut broken = Vec::new();
    for delivery in deliveries {
        match read(delivery.body(), &mut reports, &mut poison) {
            Ok(()) => good.push(delivery),
            // The good ones of the list are recorded; the list as it was goes to the dead letters.
            Err(why) => broken.push((delivery, why)),
        }
    }
    for chunk in reports.chunks(REPORTS) {
        let Some(applied) = apply_or_wait(parts, shutdown, chunk, &mut poison).await else {
            let broken = broken.into_iter().map(|(delivery, _)| delivery);
            join_all(good.into_iter().chain(broken).map(Delivery::requeue)).await;
            return None;
        };
        // First: slots are free, and jobs wait for them. And where jobs stand in line now that went on elsewhere.
        let lines = applied.failovers.iter().map(|failover| failover.to);
        nudge(parts, applied.freed.into_iter().chain(lines).collect(), !applied.lined_up);
        gantry_runtime::metrics::batch("record", chunk.len());
        metrics::applied(chunk.len(), applied.superseded, &applied.events);
        metrics::handed_on(&applied.failovers);
        chunk.iter().for_each(trace);
        // The receiver ends only after this sender.
        let _ = committed.send(applied.events).await;
    }
    if !reports.is_empty() {
        metrics::recorded(delivered.elapsed());
    }
    metrics::poison(poison.len());
    for item in &poison {
        put_report_aside(parts, item).await;
    }
    for (delivery, message) in broken {
        put_aside(parts, delivery, &message).await;
    }
    ack_all(good).await;
    Some(reports.len())
}

/// The last span of a job's trace, which began with its producer.
fn trace(report: &Report) {
    let Some(context) = &report.traceparent else { return };
    let mut headers = gantry_broker::Headers::default();
    headers.insert("traceparent", context.as_str());
    let span = tracing::info_span!("recorded", job.id = %report.token.job, attempt = report.token.attempt);
    gantry_broker::trace::set_parent(&span, &headers);
    span.in_scope(|| tracing::trace!("committed"));
}

/// Adds the reports of a list, and those that cannot be recorded as they are. Its error says why the list must be put aside: it
/// is none, or has items that nothing can be told of.
fn read(list: &[u8], reports: &mut Vec<Report>, poison: &mut Vec<Poison>) -> Result<(), String> {
    let items = message::reports(list).ok_or("it is no list of reports of version 1")?;
    let mut unreadable = Ok(());
    let others = poison.len();
    for item in items {
        match decode(item) {
            Ok(Ok(report)) => reports.push(report),
            Ok(Err(bad)) => {
                reports.extend(salvage(&bad.report));
                poison.push(bad);
            }
            Err(error) => unreadable = Err(error.to_string()),
        }
    }
    if unreadable.is_err() {
        // They are put aside with their list.
        poison.truncate(others);
    }
    unreadable
}

/// Reads a report, without a tree between where nothing in it can be a NUL. The outer error is that of an item which is no JSON value.
fn decode(item: &str) -> Result<Result<Report, Poison>, serde_json::Error> {
    if !item.contains("\\u0000")
        && let Ok(report) = serde_json::from_str(item)
    {
        return Ok(Ok(report));
    }
    let mut value: Value = serde_json::from_str(item)?;
    sanitize_json(&mut value);
    Ok(Report::deserialize(&value).map_err(|error| Poison { report: value, reason: error.to_string() }))
}

/// What must be recorded even of an end whose details this version cannot read: that the attempt is over, with its
/// exit code. Its neighbours' slots wait for it, and its worker would send it again for ever.
fn salvage(report: &Value) -> Option<Report> {
    let token = Token::deserialize(report).ok()?;
    if report.get("kind").and_then(Value::as_str) != Some("ended") {
        return None;
    }
    let outcome = report.get("outcome");
    let exit_code = outcome.and_then(|outcome| outcome.get("exit_code")).and_then(Value::as_i64);
    let exit_code = exit_code.and_then(|code| i32::try_from(code).ok());
    let exited = outcome.and_then(|outcome| outcome.get("outcome")).and_then(Value::as_str) == Some("exited");
    let outcome = match exit_code {
        Some(exit_code) if exited => ReportedOutcome::Exited { exit_code },
        _ => {
            let message = "the worker's report could not be read by this recorder; the dead letters have it";
            ReportedOutcome::Failed(Failure { exit_code, ..Failure::new(FailureClass::BackendError, message) })
        }
    };
    Some(Report { token, traceparent: None, kind: ReportKind::Ended(Ended::bare(outcome)) })
}

/// Applies a chunk, waiting with it in hand while Postgres is away.
async fn apply_or_wait(
    parts: &Parts,
    shutdown: &Shutdown,
    chunk: &[Report],
    poison: &mut Vec<Poison>,
) -> Option<gantry_store::reports::Applied> {
    loop {
        // Of its own: a try that fails half-way is tried again as a whole.
        let mut found = Vec::new();
        match apply::apply(&parts.store, chunk, &mut found).await {
            Ok(applied) => {
                poison.append(&mut found);
                return Some(applied);
            }
            Err(error) => tracing::warn!(%error, reports = chunk.len(), "cannot record now, trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.requested() => return None,
        }
    }
}

async fn put_aside(parts: &Parts, delivery: Delivery, message: &str) {
    tracing::error!(%message, "a list of reports could not be decoded");
    let reason = Reason { code: "invalid_message", message, origin: "recorder", tenant: None };
    if let Err(error) = dead_letter(&parts.publisher, delivery, reason).await {
        tracing::warn!(%error, "a broken list of reports could not be dead-lettered and went back to its queue");
    }
}

/// One report of a list goes to the dead letters by itself; its neighbours were recorded.
async fn put_report_aside(parts: &Parts, poison: &Poison) {
    tracing::error!(reason = %poison.reason, "a report could not be recorded as it is");
    let list = Reports::V1 { reports: vec![poison.report.clone()] };
    let Ok(mut letter) = Outgoing::json(parts.broker.topology().dead(), &list) else { return };
    letter.headers.insert("x-gantry-reason", POISON);
    letter.headers.insert("x-gantry-message", poison.reason.as_str());
    letter.headers.insert("x-gantry-origin", "recorder");
    letter.headers.insert(dead_letter::QUEUE, "gantry.reports");
    // Recorded or not, the row tells: an attempt whose end is not recorded is reported again by its worker.
    match parts.publisher.publish(letter).await {
        Ok(()) => dead_letter::count("recorder", POISON),
        Err(error) => tracing::error!(%error, report = %poison.report, "a report could not be dead-lettered"),
    }
}

fn nudge(parts: &Parts, mut executors: Vec<ExecutorType>, only_slots: bool) {
    executors.sort_unstable();
    executors.dedup();
    if executors.is_empty() {
        return;
    }
    let control = Control::V1(Nudge::Dispatch { executors, only_slots, newcomers: Vec::new() });
    if let Ok(body) = serde_json::to_vec(&control) {
        parts.publisher.publish_unconfirmed(Outgoing::transient(parts.broker.topology().control(), body));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(more: &str) -> String {
        let token = r#""job": "019d2f4e-7c1a-7b3e-9d50-3f1c2a4b5d6e", "attempt": 1, "epoch": 1"#;
        format!(r#"{{{token}, "kind": "ended", "outcome": {{"outcome": "exited", "exit_code": 0}}{more}}}"#)
    }

    fn list(items: &[String]) -> Vec<u8> {
        format!(r#"{{"version": "1", "reports": [{}]}}"#, items.join(",")).into_bytes()
    }

    fn metadata(report: &Report) -> &Value {
        match &report.kind {
            ReportKind::Ended(ended) => &ended.metadata,
            ReportKind::Started { .. } => &Value::Null,
        }
    }

    #[test]
    fn a_report_is_read_with_what_postgres_can_store() {
        let (mut reports, mut poison) = (Vec::new(), Vec::new());
        let items = [
            ended(""),
            ended(r#", "metadata": {"a": "b\u0000c"}"#),
            ended(r#", "metadata": {"a": "b\\u0000c"}"#),
            ended(r#", "run_millis": 1, "run_millis": 2"#),
        ];
        assert_eq!(read(&list(&items), &mut reports, &mut poison), Ok(()));
        let read: Vec<&Value> = reports.iter().map(metadata).collect();
        let expected = [Value::Null, json!({"a": "b\u{fffd}c"}), json!({"a": r"b\u0000c"}), Value::Null];
        assert!(read.into_iter().eq(&expected) && poison.is_empty(), "{reports:?}, {poison:?}");
    }

    #[test]
    fn what_cannot_be_recorded_as_it_is_goes_with_its_list_if_that_goes() {
        let strange = ended(r#", "run_millis": "long""#);
        let (mut reports, mut poison) = (Vec::new(), Vec::new());
        assert_eq!(read(&list(&[strange.clone(), ended("")]), &mut reports, &mut poison), Ok(()));
        assert_eq!((reports.len(), poison.len()), (2, 1), "its end is told all the same");
        let no_number = ended(r#", "run_millis": 1e999"#);
        assert!(read(&list(&[strange, no_number, ended("")]), &mut reports, &mut poison).is_err());
        assert_eq!((reports.len(), poison.len()), (4, 1));
    }

    #[test]
    fn another_list_is_none_of_reports() {
        for body in [r#"{"version": "2", "reports": []}"#, r#"{"version": "1", "jobs": []}"#, "[]"] {
            assert!(read(body.as_bytes(), &mut Vec::new(), &mut Vec::new()).is_err(), "{body}");
        }
    }
}
