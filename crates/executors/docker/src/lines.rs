//! From the engine's log entries back to the bytes that the container wrote.

use bytes::{Bytes, BytesMut};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::Stream;

/// Puts the pieces of long lines together.
///
/// The engine cuts a line into entries of 16 KiB, all with the time of the first, and its `local` driver then
/// loses the line's end (moby up to 20.10 at least). So an entry that does not end its line, followed by one
/// with another time, has lost its newline. Only at the very end of a stream is there no telling: the newline of
/// a last line longer than 16 KiB is left out.
#[derive(Default)]
pub(crate) struct Lines {
    /// Per stream, the time of the last entry if it did not end its line.
    open: [Option<Bytes>; 2],
}

impl Lines {
    /// The bytes of an entry `TIME BYTES`, with the newline that was lost before it.
    pub(crate) fn take(&mut self, stream: Stream, mut entry: Bytes) -> Result<Bytes, Failure> {
        let Some(space) = entry.iter().position(|byte| *byte == b' ') else {
            let message = "read the log: the engine gave an entry without a time";
            return Err(Failure::new(FailureClass::BackendError, message));
        };
        let payload = entry.split_off(space + 1);
        let open = &mut self.open[match stream {
            Stream::Stdout => 0,
            Stream::Stderr => 1,
        }];
        let lost = open.as_ref().is_some_and(|before| *before != entry);
        if payload.ends_with(b"\n") {
            *open = None;
        } else if lost || open.is_none() {
            *open = Some(entry);
        }
        if !lost {
            return Ok(payload);
        }
        let mut bytes = BytesMut::with_capacity(payload.len() + 1);
        bytes.extend_from_slice(b"\n");
        bytes.extend_from_slice(&payload);
        Ok(bytes.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Stream::{Stderr, Stdout};

    fn join(entries: &[(Stream, &str)]) -> String {
        let mut lines = Lines::default();
        let take = |(stream, entry): &(Stream, &str)| lines.take(*stream, Bytes::copy_from_slice(entry.as_bytes()));
        let joined: Result<Vec<Bytes>, Failure> = entries.iter().map(take).collect();
        String::from_utf8(joined.expect("entries with times").concat()).expect("text")
    }

    #[test]
    fn whole_lines_and_an_unended_last_one_stay() {
        assert_eq!(join(&[(Stdout, "1 a b\n"), (Stdout, "1 \n"), (Stdout, "2 c")]), "a b\n\nc");
    }

    #[test]
    fn the_lost_end_of_a_long_line_comes_back() {
        assert_eq!(join(&[(Stdout, "1 aa"), (Stdout, "1 b"), (Stdout, "2 c\n")]), "aab\nc\n");
        assert_eq!(
            join(&[(Stdout, "1 aa"), (Stdout, "1 "), (Stdout, "2 bb"), (Stdout, "2 c"), (Stdout, "3 d")]),
            "aa\nbbc\nd"
        );
    }

    #[test]
    fn an_end_that_is_there_is_not_doubled() {
        assert_eq!(join(&[(Stdout, "1 aa"), (Stdout, "1 b\n"), (Stdout, "2 c\n")]), "aab\nc\n");
    }

    #[test]
    fn the_streams_do_not_mix() {
        assert_eq!(join(&[(Stdout, "1 aa"), (Stderr, "2 e\n"), (Stdout, "1 b\n")]), "aae\nb\n");
    }

    #[test]
    fn an_entry_without_a_time_is_refused() {
        assert!(Lines::default().take(Stdout, Bytes::from_static(b"x")).is_err());
    }
}
