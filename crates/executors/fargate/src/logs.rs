//! A task's log, from CloudWatch: one event a line, both streams as one.

use std::time::Duration;

use aws_sdk_cloudwatchlogs::operation::get_log_events::GetLogEventsOutput;
use aws_sdk_cloudwatchlogs::types::OutputLogEvent;
use bytes::Bytes;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, LogCursor, LogPage, Stream};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::config::Options;
use crate::error::Trouble;
use crate::observe;
use crate::overrides::CONTAINER;

/// Lines are taken to have so many bytes, to read about as much as is asked for.
const LINE: usize = 64;
/// The most events that one request gives.
const EVENTS: usize = 10_000;
/// Pages without events that are read in one go: an empty one is not the end, the same token again is.
const EMPTY_PAGES: usize = 32;

/// A place in a log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// What CloudWatch calls the place before the page; the beginning, or `time`, if absent.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Events of that page that were read.
    #[serde(rename = "n", default)]
    skip: usize,
    /// Whether the page is not the token's, which was too old, but begins with `time`, of which `same` were read.
    #[serde(rename = "by", default)]
    by_time: bool,
    /// The time of the last event that was read, in milliseconds, and how many of that time were: tokens last for a day,
    /// and a job may be silent for longer.
    #[serde(rename = "ms", default)]
    time: Option<i64>,
    #[serde(rename = "same", default)]
    same: usize,
}

/// What is known of a task, for a reader that wants to know if more is to come.
enum Over {
    No,
    /// Since when this process knows.
    For(Duration),
    /// ECS does not have it any more.
    Gone,
}

pub(crate) async fn page(
    client: &Client,
    options: &Options,
    id: &ExecutionId,
    cursor: Option<&LogCursor>,
    max_bytes: usize,
) -> Result<LogPage, Failure> {
    let place = match cursor {
        Some(cursor) => serde_json::from_str(&cursor.0)
            .map_err(|_| Failure::new(FailureClass::BackendError, format!("{:?} is no place in this log", cursor.0)))?,
        None => Place::default(),
    };
    let settle = Duration::from_secs(options.log_settle_seconds);
    loop {
        // The state first: what is read after the end has settled is the whole rest.
        let over = over(client, id).await?;
        match read(client, options, id, place.clone(), max_bytes).await? {
            Read::Some { chunks, place, full } => {
                let cursor = serde_json::to_string(&place).expect("plain fields");
                let more = full || !matches!(over, Over::No);
                return Ok(LogPage { chunks, cursor: Some(LogCursor(cursor)), more });
            }
            Read::NoStream if matches!(over, Over::Gone) => {
                return Err(Failure::new(
                    FailureClass::Lost,
                    format!("ECS has no task {id}, and CloudWatch no log of it"),
                ));
            }
            Read::Nothing | Read::NoStream => {}
        }
        match over {
            // One more look when it has settled, and none before: reads are few for a whole account.
            Over::For(known) if known < settle => tokio::time::sleep(settle - known).await,
            Over::No | Over::For(_) | Over::Gone => {
                return Ok(LogPage { chunks: Vec::new(), cursor: cursor.cloned(), more: false });
            }
        }
    }
}

/// Nothing is asked where the states that were seen lately say it.
async fn over(client: &Client, id: &ExecutionId) -> Result<Over, Failure> {
    if let Some(known) = client.memory.ended.get(&id.0) {
        return Ok(Over::For(known));
    }
    if client.memory.alive.get(&id.0).is_some() {
        return Ok(Over::No);
    }
    let described = observe::describe(client, std::slice::from_ref(&id.0)).await?;
    match described.tasks.first() {
        Some(task) if task.last_status() == Some("STOPPED") => Ok(Over::For(client.memory.ended.note(&id.0))),
        // A task that was launched just now may not be visible yet.
        None if client.memory.launched.get(&id.0).is_none() => Ok(Over::Gone),
        _ => Ok(Over::No),
    }
}

enum Read {
    Some { chunks: Vec<(Stream, Bytes)>, place: Place, full: bool },
    Nothing,
    NoStream,
}

async fn read(
    client: &Client,
    options: &Options,
    id: &ExecutionId,
    mut place: Place,
    max_bytes: usize,
) -> Result<Read, Failure> {
    let pace = client.pace().await?;
    for _ in 0..EMPTY_PAGES {
        let skip = if place.by_time { place.same } else { place.skip };
        let limit = (skip + max_bytes / LINE + 1).clamp(1, EVENTS);
        pace.log_reads.until_ready().await;
        let answer = match request(client, options, id, &place, limit).await {
            Ok(answer) => answer,
            Err(trouble) if trouble.says("ResourceNotFoundException", "log stream") => return Ok(Read::NoStream),
            // Made with the first line of the first task.
            Err(trouble) if options.create_log_group && trouble.says("ResourceNotFoundException", "log group") => {
                return Ok(Read::NoStream);
            }
            Err(trouble) if place.token.is_some() && trouble.says("InvalidParameterException", "token") => {
                // The token is too old. The time is not, and events of one time keep their order.
                place = Place { token: None, by_time: place.time.is_some(), skip: 0, ..place };
                continue;
            }
            Err(trouble) => return Err(trouble.failure()),
        };
        let next = answer.next_forward_token;
        let events = answer.events.unwrap_or_default();
        let got = events.len();
        let fresh = &events[skip.min(got)..];
        if !fresh.is_empty() {
            let chunks = take(fresh, max_bytes, &mut place);
            let all = chunks.len() == fresh.len();
            match next {
                Some(next) if all => place = Place { token: Some(next), skip: 0, by_time: false, ..place },
                _ if place.by_time => {}
                _ => place.skip += chunks.len(),
            }
            return Ok(Read::Some { chunks, place, full: !all || got >= limit });
        }
        if next.is_none() || next == place.token || got > 0 {
            return Ok(Read::Nothing);
        }
        place = Place { token: next, skip: 0, by_time: false, ..place };
    }
    Ok(Read::Nothing)
}

/// Lines of about so many bytes, at least one.
fn take(events: &[OutputLogEvent], max_bytes: usize, place: &mut Place) -> Vec<(Stream, Bytes)> {
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    for event in events {
        if bytes >= max_bytes && !chunks.is_empty() {
            break;
        }
        let line = format!("{}\n", event.message.as_deref().unwrap_or_default());
        bytes += line.len();
        chunks.push((Stream::Stdout, Bytes::from(line)));
        place.same = if event.timestamp == place.time { place.same + 1 } else { 1 };
        place.time = event.timestamp;
    }
    chunks
}

async fn request(
    client: &Client,
    options: &Options,
    id: &ExecutionId,
    place: &Place,
    limit: usize,
) -> Result<GetLogEventsOutput, Trouble> {
    let task = id.0.rsplit('/').next().unwrap_or_default();
    let answer = client
        .logs
        .get_log_events()
        .log_group_name(&options.log_group)
        .log_stream_name(format!("{}/{CONTAINER}/{task}", options.log_prefix))
        .start_from_head(true)
        .limit(i32::try_from(limit).unwrap_or(i32::MAX))
        .set_start_time(place.time.filter(|_| place.by_time))
        .set_next_token(place.token.clone())
        .send()
        .await;
    answer.map_err(|error| Trouble::of("GetLogEvents", &error))
}
