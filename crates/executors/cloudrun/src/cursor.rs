//! A place in an execution's log: a time, and which lines of just that time were read.
//!
//! Lines can share a time to the nanosecond, so a time alone would lose some or repeat some.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{LogCursor, Stream};
use serde::{Deserialize, Serialize};

/// One line of a container, as Cloud Logging keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) time: DateTime<Utc>,
    /// Unique among the entries of one time and one stream.
    pub(crate) insert_id: String,
    pub(crate) stream: Stream,
    /// With its end.
    pub(crate) line: Bytes,
}

/// How far a log was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cursor {
    /// Everything before this was read.
    at: DateTime<Utc>,
    /// What was read of this very time, by stream and insert id.
    seen: BTreeSet<String>,
}

/// A page that is being put together.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) chunks: Vec<(Stream, Bytes)>,
    pub(crate) cursor: Option<Cursor>,
    bytes: usize,
    max_bytes: usize,
}

impl Cursor {
    pub(crate) fn parse(cursor: &LogCursor) -> Result<Self, Failure> {
        serde_json::from_str(&cursor.0).map_err(|error| {
            Failure::new(FailureClass::BackendError, format!("read the log: the cursor {:?}: {error}", cursor.0))
        })
    }

    pub(crate) fn write(&self) -> LogCursor {
        LogCursor(serde_json::to_string(self).expect("times and words are JSON"))
    }

    /// Its time, as a filter takes it.
    pub(crate) fn time(&self) -> String {
        rfc3339(self.at)
    }
}

/// A time as a filter takes it.
pub(crate) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Nanos, true)
}

impl Page {
    pub(crate) fn after(cursor: Option<Cursor>, max_bytes: usize) -> Self {
        Self { chunks: Vec::new(), cursor, bytes: 0, max_bytes }
    }

    /// For about how many bytes there is room.
    pub(crate) fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes)
    }

    /// Takes an entry, which comes in the order of times; one that was read before is passed over. False if the page is
    /// full, and the entry was not taken.
    pub(crate) fn take(&mut self, entry: Entry) -> bool {
        let key = entry.key();
        match &mut self.cursor {
            Some(cursor) if entry.time < cursor.at => return true,
            Some(cursor) if entry.time == cursor.at && cursor.seen.contains(&key) => return true,
            _ if self.bytes >= self.max_bytes && !self.chunks.is_empty() => return false,
            Some(cursor) if entry.time == cursor.at => drop(cursor.seen.insert(key)),
            cursor => *cursor = Some(Cursor { at: entry.time, seen: BTreeSet::from([key]) }),
        }
        self.bytes += entry.line.len();
        self.chunks.push((entry.stream, entry.line));
        true
    }
}

impl Entry {
    fn key(&self) -> String {
        let stream = match self.stream {
            Stream::Stdout => 'o',
            Stream::Stderr => 'e',
        };
        format!("{stream}{}", self.insert_id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A log in the service's order: by time, and by insert id within one.
    fn log(times: Vec<(u8, bool)>) -> Vec<Entry> {
        let entry = |(number, (time, stderr)): (usize, (u8, bool))| Entry {
            time: DateTime::from_timestamp(1_700_000_000, u32::from(time)).expect("a time"),
            // The same in both streams, and not in the order of the lines.
            insert_id: format!("{:04}", (number / 2 * 7919) % 10_000),
            stream: if stderr { Stream::Stderr } else { Stream::Stdout },
            line: Bytes::from(format!("{number}\n")),
        };
        let mut entries: Vec<Entry> = times.into_iter().enumerate().map(entry).collect();
        entries.sort_by_key(|entry| (entry.time, entry.insert_id.clone(), entry.stream));
        entries.dedup_by_key(|entry| (entry.time, entry.key()));
        entries
    }

    /// What the service lists from a cursor's time on.
    fn page(log: &[Entry], cursor: Option<&LogCursor>, max_bytes: usize) -> Page {
        let cursor = cursor.map(|cursor| Cursor::parse(cursor).expect("a cursor"));
        let from = cursor.as_ref().map(|cursor| cursor.at);
        let mut page = Page::after(cursor, max_bytes);
        let listed = log.iter().filter(|entry| from.is_none_or(|from| entry.time >= from));
        let _ = listed.cloned().try_for_each(|entry| page.take(entry).then_some(()));
        page
    }

    proptest! {
        #[test]
        fn pages_make_the_whole_and_reading_again_gives_the_same(
            // Few times for many lines: most are shared.
            times in prop::collection::vec((0..6_u8, any::<bool>()), 0..60),
            max_bytes in 1..40_usize,
        ) {
            let log = log(times);
            let (mut read, mut cursor) = (Vec::new(), None);
            loop {
                let next = page(&log, cursor.as_ref(), max_bytes);
                let again = page(&log, cursor.as_ref(), max_bytes);
                prop_assert_eq!(&next.chunks, &again.chunks);
                prop_assert_eq!(&next.cursor, &again.cursor);
                if next.chunks.is_empty() {
                    prop_assert_eq!(next.cursor.map(|at| at.write()), cursor);
                    break;
                }
                read.extend(next.chunks);
                cursor = next.cursor.map(|at| at.write());
            }
            let whole: Vec<_> = log.into_iter().map(|entry| (entry.stream, entry.line)).collect();
            prop_assert_eq!(read, whole);
        }

        #[test]
        fn a_line_that_comes_late_with_a_time_that_was_read_is_not_lost(
            times in prop::collection::vec((3..4_u8, any::<bool>()), 2..20),
            late in any::<prop::sample::Index>(),
        ) {
            let whole = log(times);
            let mut first = whole.clone();
            let late = first.remove(late.index(first.len()));
            let cursor = page(&first, None, usize::MAX).cursor.map(|at| at.write());
            let rest = page(&whole, cursor.as_ref(), usize::MAX);
            prop_assert_eq!(rest.chunks, vec![(late.stream, late.line)]);
        }
    }

    #[test]
    fn a_cursor_that_is_none_is_an_error() {
        let failure = Cursor::parse(&LogCursor("17".into())).expect_err("not a cursor");
        assert_eq!(failure.class, FailureClass::BackendError);
    }
}
