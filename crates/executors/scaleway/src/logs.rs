//! Pages of one run's log, and the places between them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::TimeDelta;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, LogCursor, LogPage, Stream};
use serde_json::Value;

use crate::loki::{Entry, Loki, MOST_ENTRIES};
use crate::place::Place;
use crate::wire::{Phase, Run};

/// Lines may bear a time that is this much before the run's own beginning: other machines, other clocks.
const BEFORE: TimeDelta = TimeDelta::minutes(1);
/// The bytes that a line is guessed to have, and the bounds of what is asked for at once.
const LINE: usize = 32;
const FEWEST: usize = 16;
const MANY: usize = 1_000;

/// What is known of a run whose log is read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The id of its definition.
    definition: String,
    /// The time from which on it may have printed, in nanoseconds.
    from: i64,
    /// When this process first saw that it was over.
    over: Option<Instant>,
}

impl Seen {
    pub(crate) fn is_over(&self) -> bool {
        self.over.is_some()
    }
}

/// Remembers a run as it was just seen.
pub(crate) fn note(place: &Place, run: &Run) {
    let before = place.seen.get(&run.id);
    let over = before.and_then(|seen| seen.over).or_else(|| (run.phase() == Phase::Over).then(Instant::now));
    let from = run.created_at.map_or(0, |at| (at - BEFORE).timestamp_nanos_opt().unwrap_or(0));
    place.seen.put(&run.id, Seen { definition: run.job_definition_id.clone(), from, over });
}

/// One page of a run's log.
pub(crate) async fn page(
    place: &Arc<Place>,
    id: &ExecutionId,
    cursor: Option<&LogCursor>,
    max_bytes: usize,
) -> Result<LogPage, Failure> {
    let Some(loki) = &place.loki else {
        return Ok(LogPage { chunks: Vec::new(), cursor: cursor.cloned(), more: false });
    };
    let seen = seen(place, id).await?;
    if let Some(over) = seen.over {
        // The last lines may still be on their way.
        tokio::time::sleep_until((over + loki.config.settle()).into()).await;
    }
    let start = match cursor {
        Some(cursor) => Position::parse(cursor)?,
        None => Position { time: seen.from, count: 0 },
    };
    let query = loki.query(&name(place, &seen.definition).await?, &id.0);
    let limit = (start.count + (max_bytes / LINE).clamp(FEWEST, MANY)).min(MOST_ENTRIES);
    let read = loki.read(&query, start.time, limit).await.map_err(|trouble| trouble.failure("read the log"))?;
    let until = if seen.is_over() { i64::MAX } else { settled_until(loki, &read.entries, read.now) };
    let part = cut(&read.entries, start, until, max_bytes, limit);
    let cursor = if part.end == start { cursor.cloned() } else { Some(part.end.cursor()) };
    Ok(LogPage { chunks: part.chunks, cursor, more: part.more })
}

async fn seen(place: &Place, id: &ExecutionId) -> Result<Seen, Failure> {
    if let Some(seen) = place.seen.get(&id.0) {
        return Ok(seen);
    }
    let run = place.run(&id.0).await.map_err(|trouble| trouble.failure("look at a run"))?;
    let Some(run) = run else {
        let settled = place.is_settled(&id.0, place.connection.visible_within());
        let class = if settled { FailureClass::Lost } else { FailureClass::BackendError };
        return Err(Failure::new(class, format!("the service shows no run {id}")));
    };
    note(place, &run);
    place.seen.get(&id.0).ok_or_else(|| Failure::new(FailureClass::BackendError, "too many runs at once"))
}

/// The name of a definition, by which Loki knows it.
async fn name(place: &Place, definition: &str) -> Result<String, Failure> {
    if let Some(name) = place.names.get(definition) {
        return Ok(name);
    }
    let found: Value = place.api.get(&format!("/job-definitions/{definition}"), &[]).await.map_err(|trouble| {
        let failure = trouble.failure("look at a definition");
        if trouble.is_not_found() { Failure { class: FailureClass::Lost, ..failure } } else { failure }
    })?;
    let name = found["name"].as_str().unwrap_or_default().to_owned();
    place.names.put(definition, name.clone());
    Ok(name)
}

/// Up to when nothing more will come, in nanoseconds: by Loki's own clock, or by its newest line if it tells no time.
fn settled_until(loki: &Loki, entries: &[Entry], now: Option<chrono::DateTime<chrono::Utc>>) -> i64 {
    let settle = i64::try_from(loki.config.settle().as_nanos()).unwrap_or(i64::MAX);
    let newest = || entries.last().map(|entry| entry.time);
    now.and_then(|now| now.timestamp_nanos_opt()).or_else(newest).unwrap_or(0).saturating_sub(settle)
}

/// A place in a log: behind so many of the lines of one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    /// In nanoseconds since 1970.
    time: i64,
    count: usize,
}

impl Position {
    fn parse(cursor: &LogCursor) -> Result<Self, Failure> {
        let parse = || {
            let (time, count) = cursor.0.split_once('+')?;
            Some(Self { time: time.parse().ok()?, count: count.parse().ok()? })
        };
        parse().ok_or_else(|| Failure::new(FailureClass::BackendError, format!("{:?} is no place in a log", cursor.0)))
    }

    fn cursor(self) -> LogCursor {
        LogCursor(format!("{}+{}", self.time, self.count))
    }
}

/// What of a read becomes a page.
#[derive(Debug, PartialEq)]
struct Part {
    chunks: Vec<(Stream, Bytes)>,
    end: Position,
    more: bool,
}

/// The entries behind `start` and before `until`, at least one and up to about `max_bytes` of them. `limit` is what
/// was asked for.
fn cut(entries: &[Entry], start: Position, until: i64, max_bytes: usize, limit: usize) -> Part {
    let mut part = Part { chunks: Vec::new(), end: start, more: false };
    let (mut skip, mut bytes) = (start.count, 0);
    for entry in entries {
        if entry.time == start.time && skip > 0 {
            skip -= 1;
            continue;
        }
        if entry.time >= until {
            return part;
        }
        if bytes > 0 && bytes + entry.text.len() >= max_bytes {
            part.more = true;
            return part;
        }
        bytes += entry.text.len() + 1;
        part.chunks.push((entry.stream, Bytes::from(format!("{}\n", entry.text))));
        let count = if entry.time == part.end.time { part.end.count + 1 } else { 1 };
        part.end = Position { time: entry.time, count };
    }
    part.more = entries.len() >= limit;
    if part.more && part.chunks.is_empty() {
        // As many lines at one nanosecond as Loki gives at all: what else there is at that time cannot be had.
        part.end = Position { time: start.time + 1, count: 0 };
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: i64, text: &str) -> Entry {
        Entry { time, stream: Stream::Stdout, text: text.into() }
    }

    fn log() -> Vec<Entry> {
        [(10, "a"), (10, "b"), (10, "c"), (11, "d"), (13, "e"), (13, "f")].map(|(time, text)| entry(time, text)).into()
    }

    /// Reads a log to its end as Loki gives it, `room` entries and `max_bytes` at a time.
    fn whole(log: &[Entry], room: usize, max_bytes: usize) -> String {
        let (mut position, mut text) = (Position { time: 0, count: 0 }, String::new());
        loop {
            let limit = position.count + room;
            let given: Vec<Entry> =
                log.iter().filter(|entry| entry.time >= position.time).take(limit).cloned().collect();
            let part = cut(&given, position, i64::MAX, max_bytes, limit);
            let parsed = Position::parse(&part.end.cursor()).expect("its own cursor");
            assert_eq!(parsed, part.end);
            text.extend(part.chunks.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).trim_end().to_owned()));
            if !part.more {
                return text;
            }
            assert_ne!(part.end, position, "more is promised, and the place stands still");
            position = part.end;
        }
    }

    #[test]
    fn nothing_is_lost_or_doubled_at_equal_times() {
        for room in 1..8 {
            for max_bytes in 1..16 {
                assert_eq!(whole(&log(), room, max_bytes), "abcdef", "{room} entries, {max_bytes} bytes");
            }
        }
    }

    #[test]
    fn what_may_still_be_joined_by_earlier_lines_is_held_back() {
        let part = cut(&log(), Position { time: 0, count: 0 }, 11, 1_000, 100);
        assert_eq!((part.chunks.len(), part.end, part.more), (3, Position { time: 10, count: 3 }, false));
        let part = cut(&log(), part.end, 14, 1_000, 100);
        assert_eq!((part.chunks.len(), part.end, part.more), (3, Position { time: 13, count: 2 }, false));
        let part = cut(&log()[4..], part.end, 14, 1_000, 100);
        assert_eq!(part, Part { chunks: Vec::new(), end: Position { time: 13, count: 2 }, more: false });
    }

    #[test]
    fn a_flood_within_one_nanosecond_is_passed() {
        let flood: Vec<Entry> = (0..5).map(|n| entry(7, &n.to_string())).collect();
        let part = cut(&flood, Position { time: 7, count: 5 }, i64::MAX, 1_000, 5);
        assert_eq!(part, Part { chunks: Vec::new(), end: Position { time: 8, count: 0 }, more: true });
    }

    #[test]
    fn a_broken_cursor_is_refused() {
        for broken in ["", "1", "1+", "+1", "a+1", "1+-1"] {
            assert!(Position::parse(&LogCursor(broken.into())).is_err(), "{broken}");
        }
    }
}
