//! What a simulated container has printed by now: a function of its launch and the time, so that it is never stored.
//!
//! The log in order is `stdout`, `stderr`, then the lines. A cursor is an offset in it, in decimal. Where a byte of the
//! lines stands is computed, so that a flood of them costs what is read of it.

use std::io::Write as _;

use bytes::Bytes;
use gantry_worker::executor::{LogCursor, LogPage, Stream};

/// The bytes of the longest line that is as long as its number needs.
const LONGEST_LINE: usize = "line 4294967295\n".len();

/// A log as far as it was printed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Printed<'a> {
    pub(crate) stdout: &'a str,
    pub(crate) stderr: &'a str,
    pub(crate) lines: u32,
    /// How long each line is, its end included, if not as long as its number needs.
    pub(crate) line_bytes: Option<u32>,
}

impl Printed<'_> {
    /// The page after `cursor`, of at most `max_bytes` (and at least one byte, or nobody would get on). None for a
    /// cursor that is not one.
    pub(crate) fn page(self, cursor: Option<&LogCursor>, max_bytes: usize) -> Option<LogPage> {
        let start: u64 = cursor.map_or(Some(0), |cursor| cursor.0.parse().ok())?;
        let mut left = max_bytes.max(1);
        let mut at = start;
        let mut chunks = Vec::new();
        let mut begin = 0;
        for (stream, text) in [(Stream::Stdout, self.stdout), (Stream::Stderr, self.stderr)] {
            let from = offset(at.saturating_sub(begin)).min(text.len());
            let piece = &text.as_bytes()[from..text.len().min(from.saturating_add(left))];
            if !piece.is_empty() {
                chunks.push((stream, Bytes::copy_from_slice(piece)));
                left -= piece.len();
                at += piece.len() as u64;
            }
            begin += text.len() as u64;
        }
        let piece = lines_from(at.saturating_sub(begin), self.lines, self.line_bytes, left);
        if !piece.is_empty() {
            at += piece.len() as u64;
            chunks.push((Stream::Stdout, Bytes::from(piece)));
        }
        let more = at < begin + lines_bytes(self.lines, self.line_bytes);
        let cursor = if chunks.is_empty() { cursor.cloned() } else { Some(LogCursor(at.to_string())) };
        Some(LogPage { chunks, cursor, more })
    }
}

/// How many bytes `line 1` to `line COUNT` have, each with its end. Computed, so that reading a long log in small
/// pages does not print it anew for each.
fn lines_bytes(count: u32, line_bytes: Option<u32>) -> u64 {
    let count = u64::from(count);
    if let Some(each) = line_bytes {
        return count * u64::from(each);
    }
    let mut bytes = count * 6;
    let mut first = 1;
    while first <= count {
        bytes += count - first + 1;
        first *= 10;
    }
    bytes
}

/// At most `max` bytes of the lines up to `count`, from the byte `start` on.
fn lines_from(start: u64, count: u32, line_bytes: Option<u32>, max: usize) -> Vec<u8> {
    if start >= lines_bytes(count, line_bytes) || max == 0 {
        return Vec::new();
    }
    // The number of whole lines before `start`.
    let (mut low, mut high) = (0, count);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if lines_bytes(middle, line_bytes) <= start { low = middle } else { high = middle }
    }
    let skip = offset(start - lines_bytes(low, line_bytes));
    let wanted = offset(lines_bytes(count, line_bytes) - start).min(max);
    // With room for the line that goes beyond it.
    let mut bytes = Vec::with_capacity(wanted + line_bytes.map_or(LONGEST_LINE, |each| offset(u64::from(each))));
    for line in low + 1..=count {
        put_line(&mut bytes, line, line_bytes);
        if line == low + 1 {
            // What of the first one comes before `start`.
            bytes.drain(..skip);
        }
        if bytes.len() >= max {
            break;
        }
    }
    bytes.truncate(max);
    bytes
}

/// Adds a line, filled up with dots to its length.
fn put_line(bytes: &mut Vec<u8>, number: u32, line_bytes: Option<u32>) {
    let begin = bytes.len();
    write!(bytes, "line {number}").expect("a vector takes all that is written");
    if let Some(each) = line_bytes {
        bytes.push(b' ');
        bytes.resize(begin + offset(u64::from(each)) - 1, b'.');
    }
    bytes.push(b'\n');
}

fn offset(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(printed: Printed<'_>, max: usize) -> (String, String) {
        let (mut stdout, mut stderr, mut cursor) = (Vec::new(), Vec::new(), None);
        loop {
            let page = printed.page(cursor.as_ref(), max).expect("a cursor of its own");
            assert!(page.chunks.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= max);
            for (stream, bytes) in page.chunks {
                if stream == Stream::Stdout { stdout.extend(bytes) } else { stderr.extend(bytes) }
            }
            cursor = page.cursor;
            if !page.more {
                let text = |bytes| String::from_utf8(bytes).expect("whole characters");
                return (text(stdout), text(stderr));
            }
        }
    }

    #[test]
    fn pages_of_any_size_make_the_whole() {
        let printed = Printed { stdout: "one é\n", stderr: "two\n", lines: 1203, line_bytes: None };
        let lines: String = (1..=1203).map(|n| format!("line {n}\n")).collect();
        for max in [1, 2, 3, 7, 64, 1000, 1_000_000] {
            let (stdout, stderr) = read(printed, max);
            assert_eq!((stdout, stderr.as_str()), (format!("one é\n{lines}"), "two\n"), "pages of {max}");
        }
    }

    #[test]
    fn long_lines_are_as_long_as_they_should_be() {
        for each in [20, 21, 1000] {
            let printed = Printed { lines: 120, line_bytes: Some(each), ..Printed::default() };
            let (whole, _) = read(printed, 1_000_000);
            assert_eq!(whole.lines().count(), 120);
            assert!(whole.lines().all(|line| line.len() + 1 == each as usize));
            assert!(whole.starts_with("line 1 ..") && whole.contains("\nline 120 ."), "{whole}");
            for max in [7, 64, 4096] {
                assert_eq!(read(printed, max).0, whole, "pages of {max}");
            }
        }
        // A flood of 256 GiB costs what is read of it.
        let flood = Printed { lines: u32::MAX, line_bytes: Some(64), ..Printed::default() };
        let page = flood.page(Some(&LogCursor((1_u64 << 37).to_string())), 1000).expect("a cursor");
        assert!(page.more && page.chunks[0].1.starts_with(b"line 2147483649 ..") && page.chunks[0].1.len() == 1000);
    }

    #[test]
    fn the_length_of_lines_is_computed_right() {
        for count in [0, 1, 9, 10, 11, 99, 100, 1000, 12_345] {
            let printed: usize = (1..=count).map(|n| format!("line {n}\n").len()).sum();
            assert_eq!(lines_bytes(count, None), printed as u64, "{count}");
        }
    }

    #[test]
    fn nothing_new_keeps_the_cursor() {
        let silent = Printed::default();
        assert_eq!(silent.page(None, 10), Some(LogPage { chunks: Vec::new(), cursor: None, more: false }));
        let printed = Printed { stdout: "abc", ..Printed::default() };
        let cursor = LogCursor("3".into());
        assert_eq!(
            printed.page(Some(&cursor), 10),
            Some(LogPage { chunks: Vec::new(), cursor: Some(cursor), more: false })
        );
        assert_eq!(printed.page(Some(&LogCursor("x".into())), 10), None);
    }
}
