//! Following a job's log.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures::{Stream, stream};
use gantry_core::JobId;
use gantry_core::problem::Code;
use gantry_store::jobs::JobView;
use gantry_store::{jobs, logs};
use serde::Serialize;
use tokio::sync::watch;

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::no_job;
use crate::routes::logs::whole;
use crate::service::App;
use crate::watch::Seen;
use crate::wire::{self, Cursor, LogChunk, LogEnd};

/// Chunks, and bytes of them, read at once: what a follower may hold in memory.
const PAGE: i64 = 512;
const PAGE_BYTES: i64 = 512 << 10;
/// Before the database is asked again after it failed to answer.
const PAUSE: Duration = Duration::from_secs(1);

/// One reader of one job's log.
pub(crate) struct Follower {
    app: Arc<App>,
    caller: Caller,
    job: JobId,
    /// Up to where chunks were read.
    cursor: Cursor,
    /// Read, and not sent yet.
    read: VecDeque<LogChunk>,
    progress: watch::Receiver<Seen>,
    over: bool,
}

/// What a look brought.
enum Look {
    Chunks,
    Nothing,
    End(Box<JobView>),
}

impl Follower {
    pub(crate) fn new(
        app: Arc<App>,
        caller: Caller,
        job: JobId,
        cursor: Cursor,
        progress: watch::Receiver<Seen>,
    ) -> Self {
        Self { app, caller, job, cursor, read: VecDeque::new(), progress, over: false }
    }

    /// The events, up to `end` or `error`.
    pub(crate) fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(event), follower))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(chunk) = self.read.pop_front() {
                let name = match chunk.stream {
                    wire::Stream::Stdout => wire::STDOUT_EVENT,
                    wire::Stream::Stderr => wire::STDERR_EVENT,
                };
                return Some(event(name, &chunk).id(chunk.cursor.to_string()));
            }
            if self.over {
                return None;
            }
            match self.look().await {
                Ok(Look::Chunks) => {}
                Ok(Look::Nothing) => {
                    tokio::select! {
                        _ = self.progress.changed() => {}
                        () = self.app.stopping.cancelled() => return Some(self.broken_off(stopping())),
                    }
                }
                Ok(Look::End(job)) => return Some(self.ended(*job)),
                // The connection is kept: an outage of the database is no end of the job.
                Err(error) if error.is_unavailable() => {
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = self.app.stopping.cancelled() => return Some(self.broken_off(stopping())),
                    }
                }
                Err(error) => return Some(self.broken_off(error)),
            }
        }
    }

    async fn look(&mut self) -> Result<Look> {
        // The status first, then the chunks: whoever sees the end has every chunk in reach.
        let seen = (*self.progress.borrow_and_update()).ok_or_else(|| no_job(self.job))?;
        let ended = seen.status.is_terminal();
        let stored = Cursor { attempt: seen.attempt, sequence: seen.log_sequence };
        let scope = self.caller.scope();
        if ended || stored > self.cursor {
            let after = (self.cursor.attempt, self.cursor.sequence);
            let chunks = logs::read(&self.app.store, scope, self.job, after, PAGE, PAGE_BYTES).await?.chunks;
            if ended {
                whole(&self.app, &self.caller, self.job, self.cursor).await?;
            }
            if let Some(last) = chunks.last() {
                self.cursor = Cursor { attempt: last.attempt, sequence: last.sequence };
                self.read.extend(chunks.into_iter().map(LogChunk::from));
                return Ok(Look::Chunks);
            }
        }
        if !ended {
            return Ok(Look::Nothing);
        }
        let job = jobs::get(&self.app.store, scope, self.job).await?.ok_or_else(|| no_job(self.job))?;
        Ok(Look::End(Box::new(job)))
    }

    fn ended(&mut self, job: JobView) -> Event {
        self.over = true;
        let end = LogEnd {
            status: job.status,
            exit_code: job.exit_code,
            failure_class: job.failure_class,
            error_message: job.error_message,
        };
        event(wire::END_EVENT, &end)
    }

    fn broken_off(&mut self, error: Error) -> Event {
        self.over = true;
        event(wire::ERROR_EVENT, &error.details())
    }
}

fn stopping() -> Error {
    Error::new(Code::Unavailable, "this API process stops; connect again with the last id")
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    match event.json_data(data) {
        Ok(event) => event,
        Err(error) => {
            tracing::error!(%error, "an event could not be written");
            Event::default().event(name)
        }
    }
}
