//! What is done to many jobs at once. The API counts and writes down what is wanted; dispatchers do it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use gantry_core::BulkId;
use gantry_core::bulk::{Action, Deed, Filter};
use gantry_core::problem::Code;
use gantry_store::audit::Actor;
use gantry_store::bulk::{self, Operation};
use gantry_store::templates;

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, Parameters};
use crate::service::App;
use crate::wire::{BulkCount, BulkList, BulkOperation, BulkReply, BulkRequest, ProblemDetails};

/// How long a dry run counts.
const COUNTING: Duration = Duration::from_secs(10);
/// Operations of a page.
const PAGE: i64 = 50;
/// Operations of a page at most.
const MAX_PAGE: i64 = 500;

/// Do something to many jobs.
///
/// Cancels jobs, submits ended ones anew, or gives pending ones another priority or executor type; those that the filter
/// meets, of the tenant, accepted before the request. With `dry_run` it is only counted. Else it is written down and done
/// in batches, whatever becomes of this request; each change is kept with its job.
#[utoipa::path(
    post, path = "/v1/jobs/bulk", tag = "bulk", operation_id = "bulkJobs",
    request_body = BulkRequest,
    responses(
        (status = 200, body = BulkCount, description = "A dry run: what would be done."),
        (status = 202, body = BulkOperation, description = "It is going to be done."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, a field is not valid, or the filter is empty and `all` is missing (`confirmation_required`)."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn start(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<BulkReply>)> {
    let request: BulkRequest = body.json()?;
    let deed = deed(&request)?;
    known(&app, &caller, &request.filter).await?;
    if request.dry_run {
        let count = bulk::count(&app.store, caller.0.tenant, deed, &request.filter, COUNTING).await?;
        let count = BulkCount {
            matched: count.tally.matched,
            changed: count.tally.changed,
            skipped: count.tally.skips,
            complete: count.complete,
        };
        return Ok((StatusCode::OK, Json(BulkReply::Counted(count))));
    }
    if request.filter.is_empty() && !request.all {
        let message = "the filter names nothing, so every job is meant that the action can change; if that is what you \
                       want, say so with `all`";
        return Err(Error::field(Code::ConfirmationRequired, "all", message));
    }
    let id = bulk::put(&app.store, caller.scope(), &actor(&caller), deed, &request.filter).await?;
    let operation = bulk::get(&app.store, caller.scope(), id).await?.ok_or_else(|| missing(id))?;
    Ok((StatusCode::ACCEPTED, Json(BulkReply::Started(Box::new(view(operation))))))
}

/// List what was done to many jobs at once, newest first.
#[utoipa::path(
    get, path = "/v1/bulk", tag = "bulk", operation_id = "listBulk",
    params(
        ("before" = Option<String>, Query, description = "Only operations older than this one: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Operations of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = BulkList, description = "A page of operations."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<BulkList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let before: Option<BulkId> = parameters.one("before")?;
    parameters.finish()?;
    // One more, to know whether there is a next page.
    let mut found = bulk::list(&app.store, caller.scope(), before, limit + 1).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > page;
    found.truncate(page);
    let next = if more { found.last().map(|operation| operation.id) } else { None };
    Ok(Json(BulkList { operations: found.into_iter().map(view).collect(), next }))
}

/// Show how far an operation on many jobs has come.
#[utoipa::path(
    get, path = "/v1/bulk/{id}", tag = "bulk", operation_id = "getBulk",
    params(("id" = String, Path, format = Uuid, description = "The operation's id.")),
    responses(
        (status = 200, body = BulkOperation, description = "The operation."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such operation."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<BulkOperation>> {
    let id: BulkId = id.parse().map_err(|_| missing(&id))?;
    let operation = bulk::get(&app.store, caller.scope(), id).await?.ok_or_else(|| missing(id))?;
    Ok(Json(view(operation)))
}

/// Stop an operation on many jobs. What it has changed stays changed.
#[utoipa::path(
    post, path = "/v1/bulk/{id}/stop", tag = "bulk", operation_id = "stopBulk",
    params(("id" = String, Path, format = Uuid, description = "The operation's id.")),
    responses(
        (status = 200, body = BulkOperation, description = "It is stopped, and changes nothing any more."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such operation."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "It was done or stopped before."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<BulkOperation>> {
    let id: BulkId = id.parse().map_err(|_| missing(&id))?;
    let stopped = bulk::stop(&app.store, caller.scope(), &actor(&caller), id).await?;
    let operation = bulk::get(&app.store, caller.scope(), id).await?.ok_or_else(|| missing(id))?;
    if !stopped {
        return Err(Error::new(
            Code::Conflict,
            format!("operation {id} does not run any more: it is {}", operation.state),
        ));
    }
    Ok(Json(view(operation)))
}

fn actor(caller: &Caller) -> Actor {
    Actor { tenant: caller.0.tenant, name: caller.0.name() }
}

fn missing(id: impl std::fmt::Display) -> Error {
    Error::new(Code::NotFound, format!("there is no bulk operation {id}"))
}

fn deed(request: &BulkRequest) -> Result<Deed> {
    let unwanted = |field: &str, action: &str| {
        Err(Error::field(Code::InvalidField, field, format!("it goes with the action `{action}` alone")))
    };
    let needed = |field: &str| Error::field(Code::InvalidField, field, format!("`{}` needs it", request.action));
    if request.priority.is_some() && request.action != Action::Prioritise {
        return unwanted("priority", "prioritise");
    }
    if request.executor_type.is_some() && request.action != Action::Move {
        return unwanted("executor_type", "move");
    }
    Ok(match request.action {
        Action::Cancel => Deed::Cancel,
        Action::Retry => Deed::Retry,
        Action::Prioritise => {
            let priority = request.priority.ok_or_else(|| needed("priority"))?;
            if !(-100..=100).contains(&priority) {
                let message = format!("must be -100 to 100, not {priority}");
                return Err(Error::field(Code::InvalidField, "priority", message));
            }
            Deed::Prioritise(priority)
        }
        Action::Move => Deed::Move(request.executor_type.ok_or_else(|| needed("executor_type"))?),
    })
}

/// Refuses names that mean nothing here: a misspelt one would match no job, and say so only at the end.
async fn known(app: &App, caller: &Caller, filter: &Filter) -> Result<()> {
    let (scope, tenant) = (caller.scope(), caller.0.tenant);
    let texts = filter.labels.iter().flat_map(|(key, value)| [key, value]);
    // Postgres takes no NUL.
    if texts.chain(&filter.template).chain(&filter.project).chain(&filter.name_prefix).any(|text| text.contains('\0')) {
        return Err(Error::field(Code::InvalidField, "filter", "text cannot contain NUL"));
    }
    if let Some(name) = &filter.template
        && templates::get(&app.store, scope, &[(tenant, name.clone())]).await?.is_empty()
    {
        return Err(Error::field(Code::UnknownTemplate, "filter.template", format!("there is no template `{name}`")));
    }
    if let Some(name) = &filter.project
        && templates::projects(&app.store, scope, &[(tenant, name.clone())]).await?.is_empty()
    {
        return Err(Error::field(Code::UnknownProject, "filter.project", format!("there is no project `{name}`")));
    }
    Ok(())
}

fn view(operation: Operation) -> BulkOperation {
    let (priority, executor_type) = match operation.deed {
        Deed::Prioritise(priority) => (Some(priority), None),
        Deed::Move(executor) => (None, Some(executor)),
        Deed::Cancel | Deed::Retry => (None, None),
    };
    BulkOperation {
        id: operation.id,
        action: operation.deed.action(),
        filter: operation.filter,
        priority,
        executor_type,
        state: operation.state,
        matched: operation.tally.matched,
        changed: operation.tally.changed,
        skipped: operation.tally.skips,
        actor: operation.actor,
        created_at: operation.created_at,
        finished_at: operation.finished_at,
    }
}
