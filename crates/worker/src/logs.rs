//! Reading a page of log and storing it.

use std::sync::Arc;

use bytes::Bytes;
use gantry_core::FailureClass;
use gantry_store::logs::Append;

use crate::batch::Trouble;
use crate::engine::{Engine, LARGE_LOG, LOG_PAGE};
use crate::executor::{ExecutionId, Stream};
use crate::log::{Addition, LogTail};
use crate::registry::Run;

/// What a page was.
pub(crate) struct Page {
    /// The pieces that were read.
    pub(crate) pieces: Vec<(Stream, Bytes)>,
    /// Whether more can be read at once.
    pub(crate) more: bool,
}

/// Reads one page and waits until it is durable. On an error the log stands where it stood.
pub(crate) async fn read_page(
    engine: &Engine,
    run: &Arc<Run>,
    id: &ExecutionId,
    log: &mut LogTail,
) -> Result<Page, Trouble> {
    // The place bounds what is in memory, from the read to the commit.
    let _place = engine.log_pages.acquire().await.map_err(|_| Trouble::Refused("the worker is ending".into()))?;
    let page =
        engine.executor.logs(&run.host, id, log.cursor(), LOG_PAGE).await.map_err(|failure| match failure.class {
            // The backend has no such container any more: there is nothing to wait for.
            FailureClass::Lost => Trouble::Refused(failure.to_string()),
            _ => Trouble::Transient(failure.to_string()),
        })?;
    let (pieces, more) = (page.chunks.clone(), page.more);
    if let Some(addition) = log.take(page) {
        store(engine, run, log, addition).await?;
    }
    Ok(Page { pieces, more })
}

/// Stores what the log gave.
pub(crate) async fn store(
    engine: &Engine,
    run: &Arc<Run>,
    log: &mut LogTail,
    addition: Addition,
) -> Result<(), Trouble> {
    let position = addition.position.clone();
    let append = Append { token: run.token, tenant: run.tenant, chunks: addition.chunks, position: addition.position };
    let append = Arc::new(append);
    // A log has one write under way at a time, so that either batcher keeps its order.
    let is_large = Append::weight(&append) >= LARGE_LOG;
    let batcher = if is_large { &engine.writes.large_log } else { &engine.writes.log };
    match batcher.submit(append).await {
        Ok(()) => {
            log.stored(position);
            Ok(())
        }
        Err(trouble) => {
            log.rewind();
            Err(trouble)
        }
    }
}
