//! A container's output in pages, byte for byte.
//!
//! The cursor counts the bytes of each stream: the engine gives the same entries in the same order whenever it
//! is asked, so two counts are a place. Times would not do: the two streams are stamped independently, and all
//! pieces of a long line bear the time of the first.
//!
//! The engine can only read from the beginning. So that page after page does not cost more and more, the
//! response of the last page is kept and gone on with; it is dropped when it is not asked for, and any place can
//! be read again from scratch.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, LogCursor, LogPage, Stream};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::lines::Lines;
use crate::{error, observe};

/// A running container that says nothing for this long has nothing to say for now.
const QUIET: Duration = Duration::from_millis(20);
/// How long the engine may pause in the middle of what it has.
const STALLED: Duration = Duration::from_secs(30);
/// A response that nobody went on with for this long is dropped.
const KEPT: Duration = Duration::from_secs(60);

/// Bytes delivered of each stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Position {
    out: u64,
    err: u64,
}

impl Position {
    fn of(cursor: Option<&LogCursor>) -> Result<Self, Failure> {
        cursor.map_or(Ok(Self::default()), |cursor| {
            serde_json::from_str(&cursor.0).map_err(|error| {
                Failure::new(FailureClass::BackendError, format!("{:?} is not a log cursor: {error}", cursor.0))
            })
        })
    }

    fn cursor(self) -> Option<LogCursor> {
        let text = format!(r#"{{"out":{},"err":{}}}"#, self.out, self.err);
        (self != Self::default()).then_some(LogCursor(text))
    }

    fn stream(&mut self, stream: Stream) -> &mut u64 {
        match stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => &mut self.err,
        }
    }
}

/// The responses that can be gone on with, by container.
#[derive(Default)]
pub(crate) struct Readers(Mutex<HashMap<String, (Reader, Instant)>>);

impl Readers {
    /// A reader belongs to one caller at a time: a page that is aborted takes it along, and with it the only
    /// knowledge of how far it had read.
    fn take(&self, id: &str, at: Position) -> Option<Reader> {
        let mut readers = self.lock();
        readers.retain(|_, (_, used)| used.elapsed() < KEPT);
        readers.remove(id).map(|(reader, _)| reader).filter(|reader| reader.position == at)
    }

    fn keep(&self, id: &str, reader: Reader) {
        self.lock().insert(id.to_owned(), (reader, Instant::now()));
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Reader, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one page.
pub(crate) async fn page(
    engine: &Engine,
    id: &ExecutionId,
    cursor: Option<&LogCursor>,
    max_bytes: usize,
) -> Result<LogPage, Failure> {
    let docker = &engine.docker().await?;
    let at = Position::of(cursor)?;
    let failed = |error| error::failure("read the log", &error);
    let mut reader = match engine.readers.take(&id.0, at) {
        Some(reader) => reader,
        None => {
            // Followed only from the second page on: most containers have ended by the first.
            let follow = at != Position::default() && observe::is_running(docker, &id.0).await.map_err(failed)?;
            let reader = Reader::open(docker, &id.0, at, follow).await?;
            // Asked before it was opened. The first page did not ask: what it reads is whole only in one go.
            Reader { early: at == Position::default(), ..reader }
        }
    };
    let mut page = Page::default();
    loop {
        match reader.next().await? {
            Next::Bytes(stream, bytes) => {
                page.push(stream, &bytes);
                if page.size >= max_bytes {
                    reader.resumed = true;
                    let page = page.finish(reader.position, true);
                    engine.readers.keep(&id.0, reader);
                    return Ok(page);
                }
            }
            Next::Quiet if observe::is_running(docker, &id.0).await.map_err(failed)? => {
                let page = page.finish(reader.position, false);
                engine.readers.keep(&id.0, reader);
                return Ok(page);
            }
            // It ended while it was followed. Engines up to 22 may then leave out the last lines of a followed
            // log: the end is read as what lies there.
            Next::Quiet => reader = Reader::open(docker, &id.0, reader.position, false).await?,
            Next::End if reader.follow => reader = Reader::open(docker, &id.0, reader.position, false).await?,
            // What was read lay there before the container ended, perhaps long before: its end is not the log's end.
            Next::End
                if reader.resumed && reader.early && !observe::is_running(docker, &id.0).await.map_err(failed)? =>
            {
                reader = Reader::open(docker, &id.0, reader.position, false).await?;
            }
            Next::End => return Ok(page.finish(reader.position, false)),
        }
    }
}

/// What is read so far of a page; neighbours of one stream are one piece.
#[derive(Default)]
struct Page {
    chunks: Vec<(Stream, BytesMut)>,
    size: usize,
}

impl Page {
    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.size += bytes.len();
        match self.chunks.last_mut() {
            Some((last, piece)) if *last == stream => piece.extend_from_slice(bytes),
            _ => self.chunks.push((stream, BytesMut::from(bytes))),
        }
    }

    fn finish(self, at: Position, more: bool) -> LogPage {
        let chunks = self.chunks.into_iter().map(|(stream, piece)| (stream, piece.freeze())).collect();
        LogPage { chunks, cursor: at.cursor(), more }
    }
}

/// A response that is being read.
struct Reader {
    entries: BoxStream<'static, Result<LogOutput, Error>>,
    follow: bool,
    /// It may have been opened before the container ended, and so does not have to be the whole log.
    early: bool,
    /// It was kept between two pages: time in which more may have been printed.
    resumed: bool,
    position: Position,
    lines: Lines,
    /// What is left of an entry in which the place lies that was asked for.
    rest: Option<(Stream, Bytes)>,
}

enum Next {
    Bytes(Stream, Bytes),
    /// Nothing came in time.
    Quiet,
    End,
}

impl Reader {
    /// Opens the log and passes over what lies before `at`.
    async fn open(docker: &Docker, id: &str, at: Position, follow: bool) -> Result<Self, Failure> {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).follow(follow).build();
        let entries = docker.logs(id, Some(options)).boxed();
        let (position, lines) = (Position::default(), Lines::default());
        let mut reader = Self { entries, follow, early: false, resumed: false, position, lines, rest: None };
        while reader.position != at {
            reader.pass(at).await?;
        }
        Ok(reader)
    }

    /// Passes over one entry, or over its part before `at`.
    async fn pass(&mut self, mut at: Position) -> Result<(), Failure> {
        let (stream, mut bytes) = match self.entry(STALLED).await? {
            Next::Bytes(stream, bytes) => (stream, bytes),
            Next::Quiet => return Err(stalled()),
            Next::End => return Err(another("it ends before", at)),
        };
        let passed = self.position.stream(stream);
        let wanted = usize::try_from(at.stream(stream).saturating_sub(*passed)).unwrap_or(usize::MAX);
        let rest = bytes.split_off(wanted.min(bytes.len()));
        *passed += bytes.len() as u64;
        if !rest.is_empty() {
            if self.position != at {
                return Err(another("it does not pass by", at));
            }
            self.rest = Some((stream, rest));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Next, Failure> {
        let next = match self.rest.take() {
            Some((stream, bytes)) => Next::Bytes(stream, bytes),
            None => self.entry(if self.follow { QUIET } else { STALLED }).await?,
        };
        match &next {
            Next::Bytes(stream, bytes) => *self.position.stream(*stream) += bytes.len() as u64,
            Next::Quiet if !self.follow => return Err(stalled()),
            Next::Quiet | Next::End => {}
        }
        Ok(next)
    }

    /// The next entry, whatever the position.
    async fn entry(&mut self, within: Duration) -> Result<Next, Failure> {
        let Ok(entry) = tokio::time::timeout(within, self.entries.next()).await else {
            return Ok(Next::Quiet);
        };
        let (stream, message) = match entry {
            None => return Ok(Next::End),
            Some(Ok(LogOutput::StdOut { message })) => (Stream::Stdout, message),
            Some(Ok(LogOutput::StdErr { message })) => (Stream::Stderr, message),
            // The engine's own words, in the middle of the response.
            Some(Ok(other)) => {
                let text = String::from_utf8_lossy(other.as_ref());
                return Err(Failure::new(FailureClass::BackendError, format!("read the log: {}", text.trim())));
            }
            Some(Err(error)) => return Err(error::failure("read the log", &error)),
        };
        Ok(Next::Bytes(stream, self.lines.take(stream, message)?))
    }
}

/// Not the log that the cursor is of.
fn another(what: &str, at: Position) -> Failure {
    let place = format!("byte {} of stdout and {} of stderr, which were read before", at.out, at.err);
    Failure::new(FailureClass::BackendError, format!("read the log: {what} {place}"))
}

fn stalled() -> Failure {
    Failure::new(FailureClass::HostUnreachable, "read the log: the engine stopped in the middle of its answer")
}
