//! The log of one attempt on its way from the backend to Postgres: head and tail kept, the cut marked.

use std::collections::VecDeque;

use bytes::Bytes;
use gantry_store::logs::{self, NewChunk, Position};

use crate::executor::{LogCursor, LogPage, Stream};

/// Chunks of a page at most: each is a row. Where the streams take turns more often, turns are put together, for each
/// stream in its order, over so many bytes that this holds.
const PAGE_CHUNKS: usize = 512;

/// One stream's end, while the head is full.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    /// Bytes of the stream that were read after the head, kept or not.
    read: i64,
}

/// Up to where a log was read and stored.
#[derive(Debug)]
pub(crate) struct LogTail {
    /// What is durable; its cursor stands right behind the stored bytes.
    stored: Position,
    /// Where to read on: ahead of `stored.cursor` once the head is full. An adopter begins at the stored one and
    /// reads the rest again.
    read: Option<LogCursor>,
    head_limit: i64,
    tail_limit: usize,
    /// Stdout's and stderr's, from the first page on that the head had no room for.
    tails: Option<Box<[Tail; 2]>>,
}

/// What a page adds.
#[derive(Debug)]
pub(crate) struct Addition {
    pub(crate) chunks: Vec<NewChunk>,
    pub(crate) position: Position,
}

impl LogTail {
    pub(crate) fn new(stored: Position, head_limit: u64, tail_limit: usize) -> Self {
        let read = stored.cursor.clone().map(LogCursor);
        let head_limit = i64::try_from(head_limit).unwrap_or(i64::MAX);
        Self { stored, read, head_limit, tail_limit, tails: None }
    }

    /// Where to read on.
    pub(crate) fn cursor(&self) -> Option<&LogCursor> {
        self.read.as_ref()
    }

    /// Whether anything is stored.
    pub(crate) fn is_empty(&self) -> bool {
        self.stored.sequence == 0
    }

    /// What to store of a page; none if there is nothing to store now. The caller calls [`LogTail::stored`] once
    /// it is durable, or [`LogTail::rewind`].
    pub(crate) fn take(&mut self, page: LogPage) -> Option<Addition> {
        self.read = page.cursor;
        if page.chunks.is_empty() {
            return None;
        }
        // Whole pages only, and both streams at once: so the stored cursor always stands behind the stored bytes.
        let size: usize = page.chunks.iter().map(|(_, bytes)| bytes.len()).sum();
        let held = self.stored.stdout_bytes.max(self.stored.stderr_bytes);
        if self.tails.is_some() || held + len(size) > self.head_limit {
            let tails = self.tails.get_or_insert_default();
            for (stream, bytes) in page.chunks {
                tails[stream as usize].push(&bytes, self.tail_limit);
            }
            return None;
        }
        let mut position = self.stored.clone();
        position.cursor = self.read.clone().map(|cursor| cursor.0);
        let chunks = turns(page.chunks, size)
            .into_iter()
            .map(|(stream, data)| {
                let (stream, total) = total_of(stream, &mut position);
                let byte_offset = *total;
                *total += len(data.len());
                position.sequence += 1;
                NewChunk { stream, byte_offset, sequence: position.sequence, omitted_bytes: 0, data }
            })
            .collect();
        Some(Addition { chunks, position })
    }

    /// What [`LogTail::take`] gave is durable.
    pub(crate) fn stored(&mut self, position: Position) {
        self.stored = position;
    }

    /// What it gave could not be stored: read again from what is.
    pub(crate) fn rewind(&mut self) {
        self.read = self.stored.cursor.clone().map(LogCursor);
        self.tails = None;
    }

    /// The kept tails, once the log has ended.
    pub(crate) fn take_tails(&mut self) -> Option<Addition> {
        let tails = self.tails.take()?;
        let mut position = self.stored.clone();
        position.cursor = self.read.clone().map(|cursor| cursor.0);
        let mut chunks = Vec::new();
        let tails = [Stream::Stdout, Stream::Stderr].into_iter().zip(*tails);
        for (stream, tail) in tails.filter(|(_, tail)| tail.read > 0) {
            let omitted_bytes = tail.read - len(tail.bytes.len());
            position.sequence += 1;
            let sequence = position.sequence;
            let (kind, total) = total_of(stream, &mut position);
            let byte_offset = *total + omitted_bytes;
            *total += tail.read;
            let data: Vec<u8> = tail.bytes.into();
            chunks.push(NewChunk { stream: kind, byte_offset, sequence, omitted_bytes, data: data.into() });
        }
        Some(Addition { chunks, position })
    }
}

impl Tail {
    fn push(&mut self, bytes: &Bytes, limit: usize) {
        self.read += len(bytes.len());
        self.bytes.extend(bytes);
        let excess = self.bytes.len().saturating_sub(limit);
        self.bytes.drain(..excess);
    }
}

/// The pieces as few enough chunks. A piece is never divided, so a line of output stays whole.
fn turns(pieces: Vec<(Stream, Bytes)>, size: usize) -> Vec<(Stream, Bytes)> {
    let switches = pieces.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
    // Each window closes at its size and gives at most one chunk of each stream.
    let window = if switches < PAGE_CHUNKS { 0 } else { size / (PAGE_CHUNKS / 2 - 1) + 1 };
    let mut chunks: Vec<(Stream, Vec<Bytes>)> = Vec::new();
    // Where the window's chunks begin, and what is in them.
    let (mut first, mut filled) = (0, 0);
    for (stream, bytes) in pieces {
        if chunks.last().is_some_and(|(last, _)| *last != stream) && filled >= window {
            (first, filled) = (chunks.len(), 0);
        }
        filled += bytes.len();
        match chunks[first..].iter_mut().find(|(open, _)| *open == stream) {
            Some((_, parts)) => parts.push(bytes),
            None => chunks.push((stream, vec![bytes])),
        }
    }
    chunks.into_iter().map(|(stream, parts)| (stream, joined(parts))).collect()
}

/// The parts as one. One alone, which a whole page may be, is not copied.
fn joined(parts: Vec<Bytes>) -> Bytes {
    match <[Bytes; 1]>::try_from(parts) {
        Ok([part]) => part,
        Err(parts) => {
            let whole: Vec<u8> = parts.concat();
            whole.into()
        }
    }
}

fn total_of(stream: Stream, position: &mut Position) -> (logs::Stream, &mut i64) {
    match stream {
        Stream::Stdout => (logs::Stream::Stdout, &mut position.stdout_bytes),
        Stream::Stderr => (logs::Stream::Stderr, &mut position.stderr_bytes),
    }
}

fn len(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(pieces: &[(Stream, &str)], cursor: &str) -> LogPage {
        LogPage {
            chunks: pieces.iter().map(|(stream, text)| (*stream, Bytes::copy_from_slice(text.as_bytes()))).collect(),
            cursor: Some(LogCursor(cursor.into())),
            more: false,
        }
    }

    fn shape(addition: &Addition) -> Vec<(logs::Stream, i64, i64, String)> {
        let text = |chunk: &NewChunk| String::from_utf8(chunk.data.to_vec()).expect("text");
        addition.chunks.iter().map(|c| (c.stream, c.byte_offset, c.omitted_bytes, text(c))).collect()
    }

    #[test]
    fn neighbours_of_one_stream_are_one_chunk_and_order_is_kept() {
        let mut log = LogTail::new(Position::default(), 100, 10);
        let pieces = [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c"), (Stream::Stdout, "d")];
        let addition = log.take(page(&pieces, "1")).expect("new");
        use logs::Stream::{Stderr, Stdout};
        let expected = [(Stdout, 0, 0, "ab".into()), (Stderr, 0, 0, "c".into()), (Stdout, 2, 0, "d".into())];
        assert_eq!(shape(&addition), expected);
        assert_eq!((addition.position.sequence, addition.position.cursor.as_deref()), (3, Some("1")));
    }

    #[test]
    fn a_page_of_one_piece_is_not_copied() {
        let mut log = LogTail::new(Position::default(), 100, 10);
        let piece = Bytes::from("a page".to_owned());
        let page = LogPage { chunks: vec![(Stream::Stdout, piece.clone())], cursor: None, more: false };
        let addition = log.take(page).expect("new");
        assert_eq!(addition.chunks[0].data.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn streams_that_take_turns_all_the_time_are_few_chunks() {
        let turns: Vec<(Stream, String)> =
            (0..20_000).map(|n| (if n % 2 == 0 { Stream::Stdout } else { Stream::Stderr }, format!("{n}\n"))).collect();
        let pieces: Vec<(Stream, &str)> = turns.iter().map(|(stream, text)| (*stream, text.as_str())).collect();
        let mut log = LogTail::new(Position::default(), 1 << 20, 10);
        let addition = log.take(page(&pieces, "1")).expect("new");
        assert!((PAGE_CHUNKS / 4..=PAGE_CHUNKS).contains(&addition.chunks.len()), "{}", addition.chunks.len());
        for (stream, kind) in [(Stream::Stdout, logs::Stream::Stdout), (Stream::Stderr, logs::Stream::Stderr)] {
            let printed: String = turns.iter().filter(|(of, _)| *of == stream).map(|(_, text)| text.as_str()).collect();
            let chunks: Vec<&NewChunk> = addition.chunks.iter().filter(|chunk| chunk.stream == kind).collect();
            let mut end = 0;
            for chunk in &chunks {
                assert_eq!(chunk.byte_offset, end, "each begins where the last one ended");
                assert!(chunk.data.ends_with(b"\n"), "no line is divided");
                end += len(chunk.data.len());
            }
            assert!(chunks.iter().flat_map(|chunk| &chunk.data).eq(printed.as_bytes()));
        }
    }

    #[test]
    fn head_and_tail_are_kept_and_the_cut_is_marked() {
        let mut log = LogTail::new(Position::default(), 4, 3);
        let head = log.take(page(&[(Stream::Stdout, "abcd")], "1")).expect("head");
        log.stored(head.position);
        assert!(log.take(page(&[(Stream::Stdout, "efghij"), (Stream::Stderr, "x")], "2")).is_none());
        assert!(log.take(page(&[(Stream::Stdout, "kl")], "3")).is_none());
        assert_eq!(log.cursor(), Some(&LogCursor("3".into())));
        assert_eq!(log.stored.cursor.as_deref(), Some("1"), "an adopter must read the rest again");
        let tails = log.take_tails().expect("tail");
        let expected = [(logs::Stream::Stdout, 9, 5, "jkl".into()), (logs::Stream::Stderr, 0, 0, "x".into())];
        assert_eq!(shape(&tails), expected);
        assert_eq!((tails.position.stdout_bytes, tails.position.cursor.as_deref()), (12, Some("3")));
    }

    #[test]
    fn a_failed_write_is_read_again() {
        let mut log = LogTail::new(Position::default(), 4, 3);
        let first = log.take(page(&[(Stream::Stdout, "ab")], "1")).expect("new");
        log.stored(first.position);
        log.take(page(&[(Stream::Stdout, "cd")], "2")).expect("new");
        log.rewind();
        assert_eq!(log.cursor(), Some(&LogCursor("1".into())));
        let again = log.take(page(&[(Stream::Stdout, "cd")], "2")).expect("new");
        assert_eq!(shape(&again), [(logs::Stream::Stdout, 2, 0, "cd".into())]);
    }
}
