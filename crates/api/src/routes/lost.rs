//! Giving up what can never be confirmed. For operators' keys only, and written down.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use gantry_core::AuditId;
use gantry_core::lost::Abandon;
use gantry_core::problem::Code;
use gantry_store::audit;
use gantry_store::hosts::HostView;
use gantry_store::lost::{self, Abandoned, Declared};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, JobPath, Parameters, no_job};
use crate::routes::steering::{find, no_host, operator};
use crate::service::App;
use crate::wire::{AbandonReply, AbandonRequest, AuditEntry, AuditList, HostLostRequest, HostReply, ProblemDetails};

/// Entries of a page.
const PAGE: i64 = 50;
/// Entries of a page at most.
const MAX_PAGE: i64 = 500;

/// Give a running job's attempt up.
///
/// For a job whose host does not come back. Nobody makes sure that its container is gone: it may run on beside
/// whatever comes next. The attempt ends as `lost`, and the job as `failed` unless it may be tried again; a job whose
/// cancel was asked for ends as `cancelled`. For operators' keys only.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/abandon", tag = "jobs", operation_id = "abandonJob",
    params(("id" = String, Path, format = Uuid, description = "The job's id.")),
    request_body = AbandonRequest,
    responses(
        (status = 202, body = AbandonReply, description = "The attempt is given up; its end is recorded soon."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, a field is not valid, or `force` is missing (`confirmation_required`)."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such job."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "It is not running."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn abandon(
    State(app): State<Arc<App>>,
    caller: Caller,
    JobPath(id): JobPath,
    body: Body,
) -> Result<(StatusCode, Json<AbandonReply>)> {
    let actor = operator(&caller)?;
    let request: AbandonRequest = body.json()?;
    if !request.force {
        let message = "nobody makes sure that the container is gone, so it may run beside whatever comes next; \
                       if that is what you want, say so with `force`, and else cancel the job";
        return Err(Error::field(Code::ConfirmationRequired, "force", message));
    }
    let how = if request.retry { Abandon::Retry } else { Abandon::Fail };
    let done = lost::abandon(&app.store, caller.scope(), id, how, &actor).await?.ok_or_else(|| no_job(id))?;
    let (attempt, already) = match done {
        Abandoned::Marked(attempt) => (attempt, false),
        Abandoned::Already(attempt) => (attempt, true),
        Abandoned::NotRunning(status) => {
            let message = format!("job {id} is {status}: there is nothing to give up");
            return Err(Error::new(Code::Conflict, message));
        }
    };
    Ok((StatusCode::ACCEPTED, Json(AbandonReply { id, attempt, already })))
}

/// Declare a host lost.
///
/// Nothing is placed there any more, and every open attempt there is given up: it ends as `lost`, and the
/// infrastructure budget tries the job again elsewhere unless the job's `on_lost` says `fail`. For operators' keys
/// only.
#[utoipa::path(
    post, path = "/v1/hosts/{host}/lost", tag = "hosts", operation_id = "hostLost",
    params(("host" = String, Path, description = "The host's name or id.")),
    request_body = HostLostRequest,
    responses(
        (status = 202, body = HostReply, description = "The host is lost; its attempts end soon."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such host."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "A live worker reaches it (`host_reachable`), or the name is not unique."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn host(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(host): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<HostReply>)> {
    let actor = operator(&caller)?;
    let request: HostLostRequest = if body.0.is_empty() { Default::default() } else { body.json()? };
    let HostView { host: found, .. } = find(&app, &caller, &host).await?;
    let done = lost::declare(&app.store, caller.scope(), found.id, request.force, &actor).await?;
    match done.ok_or_else(|| no_host(&host))? {
        Declared::Lost { slots, .. } => {
            Ok((StatusCode::ACCEPTED, Json(HostReply { id: found.id, name: found.name, slots })))
        }
        Declared::Reachable(workers) => {
            let message = format!(
                "{workers} live workers reach host `{host}`: what runs there ends by itself or by a cancel, and a job whose \
                 own worker does not reach it is taken over when that worker is ended; send `force` to give all of it up"
            );
            Err(Error::field(Code::HostReachable, "force", message))
        }
    }
}

/// List what operators of this tenant did, newest first. For operators' keys only.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", operation_id = "listAudit",
    params(
        ("before" = Option<String>, Query, description = "Only entries older than this one: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Entries of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = AuditList, description = "A page of entries."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn audit(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<AuditList>> {
    operator(&caller)?;
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let before: Option<AuditId> = parameters.one("before")?;
    parameters.finish()?;
    // One more, to know whether there is a next page.
    let mut rows = audit::list(&app.store, caller.scope(), before, limit + 1).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > page;
    rows.truncate(page);
    let next = if more { rows.last().map(|entry| entry.id) } else { None };
    let entries = rows.into_iter().map(|entry| AuditEntry {
        id: entry.id,
        at: entry.at,
        actor: entry.actor,
        action: entry.action,
        subject: entry.subject,
        detail: entry.detail,
    });
    Ok(Json(AuditList { entries: entries.collect(), next }))
}
