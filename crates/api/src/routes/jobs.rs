//! Looking at jobs, waiting for them, cancelling them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use gantry_core::problem::Code;
use gantry_core::{JobId, Status};
use gantry_store::jobs::{self, Cancelled, Filter};
use gantry_store::{bulk, history};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{JobPath, Parameters, no_job};
use crate::service::App;
use crate::wire::{CancelReply, CancelResult, Job, JobDetail, JobList, ProblemDetails, RoutingDecision};

/// Jobs of a page.
const PAGE: i64 = 50;
/// Jobs of a page at most.
const MAX_PAGE: i64 = 500;
/// The longest wait.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// List jobs, newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", operation_id = "listJobs",
    params(
        ("status" = Option<String>, Query, description = "Only jobs with one of these statuses, separated by commas.", example = "pending,running"),
        ("executor" = Option<String>, Query, description = "Only jobs routed to this executor type.", example = "docker"),
        ("before" = Option<String>, Query, description = "Only jobs older than this one: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Jobs of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = JobList, description = "A page of jobs."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<JobList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let filter = Filter {
        statuses: parameters.all("status")?,
        executor: parameters.one("executor")?,
        before: parameters.one("before")?,
        // One more, to know whether there is a next page.
        limit: limit + 1,
    };
    parameters.finish()?;
    let mut jobs: Vec<Job> =
        jobs::list(&app.store, caller.scope(), &filter).await?.into_iter().map(Into::into).collect();
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = jobs.len() > page;
    jobs.truncate(page);
    let next = if more { jobs.last().map(|job| job.id) } else { None };
    Ok(Json(JobList { jobs, next }))
}

/// Show a job, or wait for its end first.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "getJob",
    params(
        ("id" = String, Path, format = Uuid, description = "The job's id."),
        ("wait" = Option<String>, Query, description = "Answer when the job has ended, or after this long: a number with a unit, at most `5m`. The status says which it was.", example = "30s"),
    ),
    responses(
        (status = 200, body = JobDetail, description = "The job with its attempts."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such job."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    JobPath(id): JobPath,
    mut parameters: Parameters,
) -> Result<Json<JobDetail>> {
    let wait = parameters.one::<humantime::Duration>("wait")?.map(Duration::from);
    parameters.finish()?;
    if let Some(wait) = wait {
        if wait > MAX_WAIT {
            return Err(Error::field(Code::InvalidField, "wait", "a wait is at most 5m; ask again after it"));
        }
        ended(&app, &caller, id, wait).await?;
    }
    detail(&app, &caller, id).await.map(Json)
}

/// Resolves when the job has ended, is gone, the time is up or the API stops.
async fn ended(app: &App, caller: &Caller, id: JobId, wait: Duration) -> Result<()> {
    let seen = jobs::progress(&app.store, caller.scope(), &[id]).await?.remove(&id).ok_or_else(|| no_job(id))?;
    if seen.status.is_terminal() {
        return Ok(());
    }
    let mut progress = app.watcher.watch(caller.0.tenant, id, seen);
    tokio::select! {
        _ = progress.wait_for(|seen| seen.is_none_or(|seen| seen.status.is_terminal())) => {}
        () = tokio::time::sleep(wait) => {}
        () = app.stopping.cancelled() => {}
    }
    Ok(())
}

async fn detail(app: &App, caller: &Caller, id: JobId) -> Result<JobDetail> {
    let scope = caller.scope();
    let (job, stored, attempts, changes) = tokio::try_join!(
        jobs::get(&app.store, scope, id),
        jobs::spec(&app.store, scope, id),
        history::attempts(&app.store, scope, id),
        bulk::changes(&app.store, scope, id)
    )?;
    let (Some(job), Some(jobs::Stored { spec, routing })) = (job, stored) else { return Err(no_job(id)) };
    Ok(JobDetail {
        job: job.into(),
        spec: spec.container,
        labels: spec.labels,
        routing: routing.into_iter().map(RoutingDecision::with_others).collect(),
        attempts: attempts.into_iter().map(Into::into).collect(),
        changes,
    })
}

/// Ask for a job's end.
///
/// A pending job is cancelled at once; of a running one the container is stopped, with SIGTERM first. Asking again
/// changes nothing.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancelJob",
    params(("id" = String, Path, format = Uuid, description = "The job's id.")),
    responses(
        (status = 200, body = CancelReply, description = "It was pending and is cancelled."),
        (status = 202, body = CancelReply, description = "It runs: its end was asked for."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such job."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "It has ended before."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    JobPath(id): JobPath,
) -> Result<(StatusCode, Json<CancelReply>)> {
    let (code, result, status) = match jobs::cancel(&app.store, caller.scope(), id).await?.ok_or_else(|| no_job(id))? {
        Cancelled::Ended => (StatusCode::OK, CancelResult::Cancelled, Status::Cancelled),
        Cancelled::Requested => {
            app.nudges.cancel(id);
            (StatusCode::ACCEPTED, CancelResult::Requested, Status::Running)
        }
        Cancelled::TooLate(status) => {
            return Err(Error::new(Code::Conflict, format!("job {id} has ended before: it is {status}")));
        }
    };
    Ok((code, Json(CancelReply { id, result, status })))
}
