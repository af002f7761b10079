//! Where a job's log goes.

use gantry_api::wire::{Cursor, LogChunk, LogPage, Stream};
use gantry_core::JobId;
use tokio::io::{self, AsyncWrite, AsyncWriteExt as _, Stderr, Stdout};

use super::follow;
use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, note};

/// `gantry job logs`.
pub(super) async fn print(client: &Client, id: JobId, follow: bool, format: Format) -> Result<()> {
    match (follow, format) {
        (false, Format::Json) => {
            let mut all = LogPage { chunks: Vec::new(), next: Cursor::default(), complete: false };
            pages(client, id, async |page| {
                all.chunks.extend(page.chunks);
                (all.next, all.complete) = (page.next, page.complete);
                Ok(())
            })
            .await?;
            format.print(&all, |_| String::new())
        }
        (false, Format::Table) => {
            let mut sink = Sink::streams();
            pages(client, id, async |page| {
                for chunk in page.chunks {
                    sink.write(chunk).await?;
                }
                Ok(())
            })
            .await
        }
        (true, format) => {
            // An answer at once says whether there is such a job, and an API at all.
            client.job(id, None).await?;
            let mut sink = if format == Format::Json { Sink::lines() } else { Sink::streams() };
            follow::to_end(client, id, &mut sink).await.map(drop)
        }
    }
}

/// Everything that is stored now, page by page.
async fn pages(client: &Client, id: JobId, mut take: impl AsyncFnMut(LogPage) -> Result<()>) -> Result<()> {
    let mut after = Cursor::default();
    loop {
        let page = client.logs(id, after).await?;
        let last = page.complete || page.next == after;
        after = page.next;
        take(page).await?;
        if last {
            return Ok(());
        }
    }
}

/// Takes the chunks of a log. What is written is flushed: somebody is looking.
pub(super) enum Sink {
    /// Each stream to this process's own, byte by byte.
    Streams {
        /// Standard output.
        stdout: Stdout,
        /// Standard error.
        stderr: Stderr,
    },
    /// Each chunk as a line of JSON.
    Lines {
        /// Standard output.
        stdout: Stdout,
    },
}

impl Sink {
    pub(super) fn streams() -> Self {
        Self::Streams { stdout: io::stdout(), stderr: io::stderr() }
    }

    fn lines() -> Self {
        Self::Lines { stdout: io::stdout() }
    }

    pub(super) async fn write(&mut self, chunk: LogChunk) -> Result<()> {
        match self {
            Self::Lines { stdout } => {
                let mut line = serde_json::to_vec(&chunk).map_err(io::Error::from)?;
                line.push(b'\n');
                put(stdout, &line).await
            }
            Self::Streams { stdout, stderr } => {
                let LogChunk { stream, omitted_bytes, data, .. } = chunk;
                if omitted_bytes > 0 {
                    let name = match stream {
                        Stream::Stdout => "stdout",
                        Stream::Stderr => "stderr",
                    };
                    note(&format!("gantry: {omitted_bytes} bytes of {name} were left out here, the log is too long"));
                }
                let bytes = data.into_bytes().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                match stream {
                    Stream::Stdout => put(stdout, &bytes).await,
                    Stream::Stderr => put(stderr, &bytes).await,
                }
            }
        }
    }
}

async fn put(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).await?;
    to.flush().await?;
    Ok(())
}
