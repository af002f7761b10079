//! Logs.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gantry_core::{FailureClass, Status};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use super::schema;

/// The name of the server-sent event that carries a [`LogChunk`] of stdout.
pub const STDOUT_EVENT: &str = "stdout";
/// The name of the server-sent event that carries a [`LogChunk`] of stderr.
pub const STDERR_EVENT: &str = "stderr";
/// The name of the last server-sent event, which carries a [`LogEnd`].
pub const END_EVENT: &str = "end";
/// The name of the server-sent event before Gantry breaks a stream off: a [`super::ProblemDetails`]. Connect again
/// with the last id.
pub const ERROR_EVENT: &str = "error";

/// A place in a job's log: right after chunk `sequence` of `attempt`. Written `attempt.sequence`; `0.0` is the
/// beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The attempt, from 1.
    pub attempt: i32,
    /// The chunk's number in its attempt, from 1.
    pub sequence: i32,
}

/// A text that is no [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is `attempt.sequence`, such as `1.42`, as `next` or the id of an event gave it")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.attempt, self.sequence)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let number = |text: &str| text.parse::<u32>().ok().and_then(|n| i32::try_from(n).ok()).ok_or(InvalidCursor);
        let (attempt, sequence) = text.split_once('.').ok_or(InvalidCursor)?;
        Ok(Self { attempt: number(attempt)?, sequence: number(sequence)? })
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// One of a container's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The bytes of a chunk. A chunk can end in the middle of a character: join the bytes before you decode them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// The bytes, which are valid UTF-8.
    Text(String),
    /// The bytes in base64 (RFC 4648 §4, padded), because they are not valid UTF-8 by themselves.
    Base64(String),
}

impl Data {
    /// Text where the bytes are UTF-8, else base64: nothing is ever replaced.
    pub fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Base64(STANDARD.encode(error.as_bytes())),
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// Where what calls itself base64 is not.
    pub fn into_bytes(self) -> Result<Vec<u8>, base64::DecodeError> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Base64(text) => STANDARD.decode(text),
        }
    }
}

/// A piece of one stream of an attempt's log: an item of [`LogPage`], and the data of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogChunk {
    /// Its place, `attempt.sequence`; pass it as `after` (or `Last-Event-ID`) to go on behind it.
    #[schema(value_type = String, example = "1.42")]
    pub cursor: Cursor,
    /// The attempt, from 1.
    pub attempt: i32,
    /// Which stream.
    pub stream: Stream,
    /// Where in its stream it begins, in bytes.
    pub offset: i64,
    /// Bytes of the stream that were left out right before it, because the log was too long.
    #[serde(default)]
    pub omitted_bytes: i64,
    /// Its bytes, as one field `text` or `base64`.
    #[serde(flatten)]
    pub data: Data,
}

/// A page of a job's log, in the order in which it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogPage {
    /// The chunks, of both streams.
    pub chunks: Vec<LogChunk>,
    /// Pass it as `after` for what comes next. It is `after` itself where nothing new was there.
    #[schema(value_type = String, example = "1.42")]
    pub next: Cursor,
    /// Whether this is the end: the job has ended and no chunk comes after these.
    pub complete: bool,
}

/// The data of the event `end`: the job has ended and its whole log was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEnd {
    /// How it ended.
    #[schema(value_type = schema::Status)]
    pub status: Status,
    /// The exit code of the last attempt; absent if no container ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it did not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::FailureClass>)]
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cursor_is_written_and_read() {
        let cursor = Cursor { attempt: 2, sequence: 17 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in ["", "1", "1.", ".1", "-1.2", "1.2.3", "a.b", "1.99999999999"] {
            assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor), "{text}");
        }
    }

    #[test]
    fn half_a_character_is_kept() {
        let bytes = "é".as_bytes();
        let chunk = LogChunk {
            cursor: Cursor { attempt: 1, sequence: 1 },
            attempt: 1,
            stream: Stream::Stdout,
            offset: 0,
            omitted_bytes: 0,
            data: Data::new(bytes[..1].to_vec()),
        };
        let json = serde_json::to_value(&chunk).expect("JSON");
        assert_eq!(json["base64"], json!("ww=="));
        assert_eq!(json.get("text"), None);
        let back: LogChunk = serde_json::from_value(json).expect("a chunk");
        assert_eq!(back.data.into_bytes(), Ok(bytes[..1].to_vec()));
        assert_eq!(Data::new(bytes.to_vec()), Data::Text("é".into()));
    }
}
