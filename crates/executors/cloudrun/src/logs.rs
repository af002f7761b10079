//! The log of an execution, in pages, from Cloud Logging.
//!
//! Cloud Logging shows a line some time after it was printed, and not in order. So a running container's log is read
//! only up to [`Options::log_delay_seconds`] ago, and an ended one's is read once so much time has passed since its end
//! was first seen.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use gantry_core::clock::{Clock as _, SystemClock};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{LogCursor, LogPage, Observed, Stream};
use google_cloud_gax::error::Error;
use google_cloud_logging_v2::model::LogEntry;
use google_cloud_logging_v2::model::log_entry::Payload;
use google_cloud_run_v2::model::Job;
use google_cloud_wkt::Timestamp;

use crate::config::{Connection, Options};
use crate::cursor::{Cursor, Entry, Page, rfc3339};
use crate::region::{Clients, Region};
use crate::state::{self, Standing};
use crate::{error, job, observe};

/// The streams as Cloud Run names their logs. What the system itself says is in a third, and is not the container's.
const STDOUT: &str = "run.googleapis.com%2Fstdout";
const STDERR: &str = "run.googleapis.com%2Fstderr";
const SYSTEM: &str = "run.googleapis.com%2Fvarlog%2Fsystem";
/// The most entries that the service gives at a time.
const MOST: usize = 1000;
/// What a line is taken to be long, to ask for no more entries than a page has room for.
const LINE: usize = 32;
/// How much earlier than its Job a line may be by its clock.
const SKEW: Duration = Duration::from_secs(60);

/// Where the container stands, for its log.
enum Stage {
    /// It printed nothing, or nothing yet.
    Silent,
    Running,
    /// Over for so long.
    Ended(Duration),
    /// Its Job is gone; its log may still be there.
    Gone,
}

pub(crate) async fn page(
    region: &Region,
    options: &Options,
    id: &str,
    cursor: Option<&LogCursor>,
    max_bytes: usize,
) -> Result<LogPage, Failure> {
    let read = cursor.map(Cursor::parse).transpose()?;
    let clients = region.clients().await?;
    let delay = Duration::from_secs(options.log_delay_seconds.into());
    let nothing = LogPage { chunks: Vec::new(), cursor: cursor.cloned(), more: false };
    // The first read says when the Job was created: without a time the service would search all that it keeps.
    let known = region.names.ended_ago(id).filter(|_| cursor.is_some());
    let (stage, created) = match known {
        Some(ago) => (Stage::Ended(ago), None),
        None => stage(region, clients, id).await?,
    };
    let until = match stage {
        Stage::Silent => return Ok(nothing),
        // A running container's log can wait for its next turn.
        Stage::Running if !region.log_reads.try_take(options.log_reads_per_minute) => return Ok(nothing),
        Stage::Running => Some(SystemClock.now() - delay),
        Stage::Ended(ago) => {
            tokio::time::sleep(delay.saturating_sub(ago)).await;
            region.log_reads.take(options.log_reads_per_minute).await;
            None
        }
        Stage::Gone => {
            region.log_reads.take(options.log_reads_per_minute).await;
            None
        }
    };
    let from = read.as_ref().map(Cursor::time).or(created.map(|at| rfc3339(at - SKEW)));
    let filter = filter(&region.connection, id, &[STDOUT, STDERR], from.as_deref(), until);
    let page = read_page(region, options, clients, &filter, Page::after(read, max_bytes)).await?;
    if matches!(stage, Stage::Gone) && page.cursor.is_none() {
        return Err(Failure::new(FailureClass::Lost, format!("there is no Job {id}, and no log of it")));
    }
    Ok(page)
}

/// Where the container stands, and when its Job was created.
async fn stage(region: &Region, clients: &Clients, id: &str) -> Result<(Stage, Option<DateTime<Utc>>), Failure> {
    let found = observe::get(region, clients, id).await.map_err(|error| error::failure("get the Job", &error))?;
    let Some(found) = found else {
        // Not to be seen yet is not gone.
        return Ok((if region.names.is_absent(id) { Stage::Gone } else { Stage::Silent }, None));
    };
    let created = found.create_time.as_ref().and_then(time);
    Ok((stage_of(region, id, &found), created))
}

fn stage_of(region: &Region, id: &str, found: &Job) -> Stage {
    match state::of_job(found) {
        Standing::Known(Observed::Starting) => Stage::Silent,
        Standing::Known(Observed::Running) => Stage::Running,
        Standing::Known(Observed::Gone) => Stage::Gone,
        // It never started.
        Standing::Known(Observed::Ended(_)) => Stage::Silent,
        Standing::AskExecution if state::has_ended(found) => Stage::Ended(region.names.ended(id)),
        // The service does not say how its execution is; more may come.
        Standing::AskExecution => Stage::Running,
    }
}

/// What the entries of an execution in these logs have in common.
fn filter(
    connection: &Connection,
    id: &str,
    logs: &[&str],
    from: Option<&str>,
    until: Option<DateTime<Utc>>,
) -> String {
    let (project, region, execution) = (&connection.project, &connection.region, job::execution(id));
    let logs: Vec<_> = logs.iter().map(|log| format!("\"projects/{project}/logs/{log}\"")).collect();
    let mut filter = format!(
        "resource.type=\"cloud_run_job\" AND resource.labels.job_name=\"{id}\" AND \
         resource.labels.location=\"{region}\" AND \
         labels.\"run.googleapis.com/execution_name\"=\"{execution}\" AND logName=({})",
        logs.join(" OR "),
    );
    if let Some(from) = from {
        filter.push_str(&format!(" AND timestamp>=\"{from}\""));
    }
    if let Some(until) = until {
        filter.push_str(&format!(" AND timestamp<=\"{}\"", rfc3339(until)));
    }
    filter
}

/// Fills a page. Several requests only where all of the first one's entries were read before, or are small.
async fn read_page(
    region: &Region,
    options: &Options,
    clients: &Clients,
    filter: &str,
    mut page: Page,
) -> Result<LogPage, Failure> {
    let size = (page.room() / LINE).clamp(16, MOST);
    let mut token = String::new();
    loop {
        let request = clients.logging.list_log_entries().set_filter(filter).set_order_by("timestamp asc");
        let request = request.set_resource_names([format!("projects/{}", region.connection.project)]);
        let size = i32::try_from(size).expect("at most a thousand");
        let listed = request.set_page_size(size).set_page_token(token).send().await;
        let listed = listed.map_err(|error| error::failure("read the log", &error))?;
        let mut full = false;
        for entry in listed.entries.into_iter().filter_map(entry) {
            full = full || !page.take(entry);
        }
        token = listed.next_page_token;
        if full || token.is_empty() || !page.chunks.is_empty() {
            let more = full || !token.is_empty();
            // More is promised only where something was read: a page of nothing but what was read before goes on above.
            return Ok(LogPage { more, cursor: page.cursor.as_ref().map(Cursor::write), chunks: page.chunks });
        }
        region.log_reads.take(options.log_reads_per_minute).await;
    }
}

/// What the system itself says about an execution that is over, a line each.
pub(crate) async fn system(region: &Region, options: &Options, clients: &Clients, id: &str) -> Result<String, Error> {
    region.log_reads.take(options.log_reads_per_minute).await;
    let request = clients.logging.list_log_entries().set_filter(filter(&region.connection, id, &[SYSTEM], None, None));
    let request = request.set_resource_names([format!("projects/{}", region.connection.project)]);
    let listed = request.set_order_by("timestamp desc").set_page_size(100).send().await?;
    let text = |entry: LogEntry| match entry.payload? {
        Payload::TextPayload(text) => Some(text),
        _ => None,
    };
    Ok(listed.entries.into_iter().filter_map(text).collect::<Vec<_>>().join("\n"))
}

/// A line of the container; none if it is not one.
fn entry(entry: LogEntry) -> Option<Entry> {
    let stream = match entry.log_name.rsplit('/').next()? {
        STDOUT => Stream::Stdout,
        STDERR => Stream::Stderr,
        _ => return None,
    };
    let time = time(entry.timestamp.as_ref()?)?;
    let mut line = match entry.payload? {
        Payload::TextPayload(text) => text,
        // The container printed an object of JSON, and the service took it apart.
        Payload::JsonPayload(object) => serde_json::to_string(&object).ok()?,
        _ => return None,
    };
    line.push('\n');
    Some(Entry { time, insert_id: entry.insert_id, stream, line: Bytes::from(line) })
}

fn time(time: &Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time.seconds(), u32::try_from(time.nanos()).ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(log: &str, payload: Value) -> Option<Entry> {
        let mut value = json!({
            "logName": format!("projects/p/logs/{log}"), "timestamp": "2026-01-01T00:00:00.123456789Z", "insertId": "a",
        });
        value.as_object_mut().expect("an object").extend(payload.as_object().expect("an object").clone());
        entry(serde_json::from_value(value).expect("an entry"))
    }

    #[test]
    fn the_log_tells_the_stream_and_the_severity_does_not() {
        let error = json!({ "textPayload": "a", "severity": "ERROR" });
        assert_eq!(read(STDOUT, error).map(|entry| entry.stream), Some(Stream::Stdout));
        assert_eq!(read(STDERR, json!({ "textPayload": "a" })).map(|entry| entry.stream), Some(Stream::Stderr));
        assert_eq!(
            read("run.googleapis.com%2Fvarlog%2Fsystem", json!({ "textPayload": "Container called exit(0)." })),
            None
        );
    }

    #[test]
    fn text_and_objects_are_lines() {
        for (payload, line) in [
            (json!({ "textPayload": "  a\tb" }), "  a\tb\n"),
            (json!({ "textPayload": "" }), "\n"),
            (json!({ "jsonPayload": { "a": [1, "b"], "c": null } }), "{\"a\":[1,\"b\"],\"c\":null}\n"),
        ] {
            let read = read(STDOUT, payload).expect("a line");
            assert_eq!(read.line, line);
            assert_eq!(rfc3339(read.time), "2026-01-01T00:00:00.123456789Z");
        }
    }

    #[test]
    fn a_filter_names_the_execution_and_its_streams() {
        let connection: Connection =
            serde_json::from_value(json!({ "project": "p", "region": "r" })).expect("a connection");
        let filter = filter(&connection, "j", &[STDOUT, STDERR], Some("2026-01-01T00:00:00.000000001Z"), None);
        for part in [
            "resource.type=\"cloud_run_job\"",
            "labels.\"run.googleapis.com/execution_name\"=\"j-run\"",
            "logName=(\"projects/p/logs/run.googleapis.com%2Fstdout\" OR ",
            " OR \"projects/p/logs/run.googleapis.com%2Fstderr\")",
            "timestamp>=\"2026-01-01T00:00:00.000000001Z\"",
        ] {
            assert!(filter.contains(part), "{filter}");
        }
    }
}
