//! A job's log as it grows.

use gantry_api::wire::{Cursor, END_EVENT, ERROR_EVENT, LogChunk, LogEnd, ProblemDetails, STDERR_EVENT, STDOUT_EVENT};
use gantry_core::JobId;
use reqwest::StatusCode;
use serde::de::DeserializeOwned;

use super::logs::Sink;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::patience::Patience;
use crate::sse::{Event, Parser};

/// Writes the job's whole log into `sink`, until the job has ended and all of it is written. When the connection
/// drops, goes on behind the last chunk that was written: none is missing and none comes twice.
pub(super) async fn to_end(client: &Client, id: JobId, sink: &mut Sink) -> Result<LogEnd> {
    let mut follower = Follower { client, id, after: Cursor::default(), sink, patience: Patience::new() };
    loop {
        match follower.stream().await {
            Ok(end) => return Ok(end),
            Err(error) => follower.patience.after(error).await?,
        }
    }
}

struct Follower<'a> {
    client: &'a Client,
    id: JobId,
    after: Cursor,
    sink: &'a mut Sink,
    patience: Patience,
}

impl Follower<'_> {
    /// One connection: its end is the log's end, or an error.
    async fn stream(&mut self) -> Result<LogEnd> {
        let mut response = self.client.follow(self.id, self.after).await?;
        let mut parser = Parser::default();
        loop {
            let bytes = response.chunk().await.map_err(|error| self.client.lost(&error))?;
            let Some(bytes) = bytes else {
                return Err(self.client.closed());
            };
            self.patience.renew();
            for event in parser.push(&bytes) {
                if let Some(end) = self.take(&event).await? {
                    return Ok(end);
                }
            }
        }
    }

    async fn take(&mut self, event: &Event) -> Result<Option<LogEnd>> {
        match event.name.as_str() {
            STDOUT_EVENT | STDERR_EVENT => {
                let chunk: LogChunk = self.decode(event)?;
                // Behind what is written, whatever the API thinks of the id that it was given.
                if chunk.cursor > self.after {
                    let cursor = chunk.cursor;
                    self.sink.write(chunk).await?;
                    self.after = cursor;
                }
                Ok(None)
            }
            END_EVENT => self.decode(event).map(Some),
            ERROR_EVENT => Err(Error::Refused(Box::new(self.decode::<ProblemDetails>(event)?))),
            // Later versions may tell more.
            _ => Ok(None),
        }
    }

    fn decode<T: DeserializeOwned>(&self, event: &Event) -> Result<T> {
        serde_json::from_str(&event.data).map_err(|error| self.client.not_gantry(StatusCode::OK, error))
    }
}
