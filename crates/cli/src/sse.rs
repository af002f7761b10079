//! Server-sent events, as the WHATWG's HTML standard defines the stream (§9.2.6).

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its kind; `message` if the stream names none.
    pub(crate) name: String,
    /// Its lines, joined.
    pub(crate) data: String,
}

/// Cuts a stream into events, however its bytes arrive.
///
/// Ids are not kept: the log's chunks carry their cursor themselves.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    begun: bool,
    name: String,
    data: Option<String>,
}

impl Parser {
    /// Takes the next bytes; gives the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            // A line ends with CR, LF or both.
            let second_half = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = if std::mem::replace(&mut self.begun, true) { &line } else { line.trim_start_matches('\u{feff}') };
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return self.data.take().map(|data| Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            // Ids, comments (an empty field), and what is not known.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    const STREAM: &str = "\u{feff}: hello\r\n\r\nid: 1.1\r\nevent: stdout\r\ndata: {\"text\":\"é\"}\r\n\r\n\
        data:one\rdata:  two\rdata\r\r:\n\nevent: no data\n\nevent: end\nretry: 10\nother\ndata: x: y\n\ndata: unfinished\n";

    fn expected() -> Vec<Event> {
        vec![event("stdout", "{\"text\":\"é\"}"), event("message", "one\n two\n"), event("end", "x: y")]
    }

    #[test]
    fn fields_comments_and_every_end_of_line_are_read() {
        assert_eq!(Parser::default().push(STREAM.as_bytes()), expected());
    }

    #[test]
    fn it_does_not_matter_where_the_stream_is_cut() {
        let bytes = STREAM.as_bytes();
        for cut in 0..=bytes.len() {
            let mut parser = Parser::default();
            let mut events = parser.push(&bytes[..cut]);
            events.extend(parser.push(&bytes[cut..]));
            assert_eq!(events, expected(), "cut at {cut}");
        }
        let mut parser = Parser::default();
        let events: Vec<Event> = bytes.iter().flat_map(|byte| parser.push(&[*byte])).collect();
        assert_eq!(events, expected());
    }
}
