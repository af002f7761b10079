//! A job's log, by pages or as it comes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::SecondsFormat;
use gantry_core::JobId;
use gantry_core::problem::Code;
use gantry_store::{jobs, logs as chunks, retention};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{JobPath, Parameters, no_job, parse};
use crate::follow::Follower;
use crate::service::App;
use crate::wire::{Cursor, LogChunk, LogPage, ProblemDetails};

/// Chunks of a page.
const PAGE: i64 = 100;
/// Chunks of a page at most.
const MAX_PAGE: i64 = 1_000;
/// Bytes of a page at most, but for a single larger chunk: what a request may hold in memory.
const PAGE_BYTES: i64 = 4 << 20;
/// Between two signs of life on a silent stream: less than the minute after which proxies usually give up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Read a job's log, or follow it.
///
/// By default a page of JSON. With `follow=true` or `Accept: text/event-stream` a stream of server-sent events:
/// `stdout` and `stderr` with a chunk each, whose id is the cursor to resume from; `end` with the job's outcome when
/// it has ended and everything was sent; `error` with a problem before the API breaks off.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/logs", tag = "jobs", operation_id = "getJobLogs",
    params(
        ("id" = String, Path, format = Uuid, description = "The job's id."),
        ("after" = Option<String>, Query, description = "Only what comes after this cursor. Default: from the beginning.", example = "1.42"),
        ("limit" = Option<i64>, Query, description = "Chunks of the page, 1 to 1,000. Default 100. Fewer come where they are more than 4 MiB together. Not when following."),
        ("follow" = Option<bool>, Query, description = "Whether to follow. Default: whether `Accept` asks for events."),
        ("Last-Event-ID" = Option<String>, Header, description = "As `after`, and before it; what a client that reconnects sends by itself."),
    ),
    responses(
        (status = 200, description = "A page of the log, or the events.", content(
            (LogPage = "application/json"),
            (LogChunk = "text/event-stream"),
        )),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such job."),
        (status = 410, body = ProblemDetails, content_type = "application/problem+json", description = "What comes next is not kept any more (`logs_expired`)."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn logs(
    State(app): State<Arc<App>>,
    caller: Caller,
    JobPath(id): JobPath,
    headers: HeaderMap,
    mut parameters: Parameters,
) -> Result<Response> {
    let after: Option<Cursor> = parameters.one("after")?;
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let follow = parameters.one("follow")?.unwrap_or_else(|| accepts_events(&headers));
    parameters.finish()?;
    // The status first, then the chunks: whoever sees the end has every chunk in reach.
    let seen = jobs::progress(&app.store, caller.scope(), &[id]).await?.remove(&id).ok_or_else(|| no_job(id))?;
    if follow {
        let after = last_event_id(&headers)?.or(after).unwrap_or_default();
        let progress = app.watcher.watch(caller.0.tenant, id, seen);
        let events = Follower::new(app, caller, id, after, progress).events();
        let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
        // Proxies that collect a response before they pass it on would collect this one for ever.
        response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return Ok(response);
    }
    let after = after.unwrap_or_default();
    let place = (after.attempt, after.sequence);
    let chunks::Page { chunks, more } = chunks::read(&app.store, caller.scope(), id, place, limit, PAGE_BYTES).await?;
    // After the chunks: what began to leave before they were read is known to leave now.
    if seen.status.is_terminal() {
        whole(&app, &caller, id, after).await?;
    }
    let chunks: Vec<LogChunk> = chunks.into_iter().map(Into::into).collect();
    let next = chunks.last().map_or(after, |chunk| chunk.cursor);
    Ok(Json(LogPage { chunks, next, complete: seen.status.is_terminal() && !more }).into_response())
}

/// Refuses where chunks behind `after` have left because their time was over: an empty log would be a lie.
pub(crate) async fn whole(app: &App, caller: &Caller, id: JobId, after: Cursor) -> Result<()> {
    let after = (after.attempt, after.sequence);
    let Some(gone) = retention::logs_gone(&app.store, caller.scope(), id, after).await? else { return Ok(()) };
    let at = gone.at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let message = format!(
        "what attempt {} of job {id} printed is not kept any more since {at}; the job itself tells how it ended",
        gone.attempt
    );
    Err(Error::field(Code::LogsExpired, "after", message))
}

fn accepts_events(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/event-stream"))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>> {
    const NAME: &str = "Last-Event-ID";
    let Some(value) = headers.get(NAME) else { return Ok(None) };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) => parse(NAME, text).map(Some),
        Err(_) => Err(Error::field(Code::InvalidField, NAME, "the header is not plain ASCII text")),
    }
}
