//! Schedules.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, SubsecRound, Utc};
use gantry_admission::{Incoming, Scheduled, prepare_all};
use gantry_core::problem::{Code, Problem};
use gantry_core::schedule::Calendar;
use gantry_core::spec::{Submission, limits};
use gantry_core::{ScheduleId, Status};
use gantry_store::admission::NewJob;
use gantry_store::schedule_runs::{self, RunView};
use gantry_store::schedules::{self, ScheduleView};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, Parameters};
use crate::service::App;
use crate::wire::{Accepted, NewSchedule, ProblemDetails, Schedule, ScheduleList, ScheduleRun, ScheduleRunList};

/// Items of a page.
const PAGE: i64 = 50;
/// Items of a page at most.
const MAX_PAGE: i64 = 500;

/// Make a schedule, or replace the one of this name.
///
/// The submission is checked as one to `POST /v1/jobs` is. A schedule whose calendar stays the same keeps the due time
/// that it waits for; one that is paused stays paused.
#[utoipa::path(
    put, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "putSchedule",
    params(("name" = String, Path, description = "The schedule's name, 1 to 255 characters.")),
    request_body = NewSchedule,
    responses(
        (status = 201, body = Schedule, description = "A new schedule."),
        (status = 200, body = Schedule, description = "The schedule of this name was replaced."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 413, body = ProblemDetails, content_type = "application/problem+json", description = "Too large."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Schedule>)> {
    if body.0.len() > limits::SUBMISSION_BYTES {
        let message = format!("a schedule has at most {} bytes, this one {}", limits::SUBMISSION_BYTES, body.0.len());
        return Err(Error::new(Code::TooLarge, message));
    }
    let new: NewSchedule = body.json()?;
    let (calendar, submission) = read(&name, &new)?;
    // Any id and time will do: whether it would be admitted does not depend on them.
    let scheduled = Scheduled { schedule: ScheduleId::new(), name: name.clone(), due: DateTime::UNIX_EPOCH };
    prepare(&app, &caller, submission, scheduled).await?.map_err(|problem| at("submission", problem))?;
    let stored = schedules::NewSchedule {
        tenant: caller.0.tenant,
        name: &name,
        cron: &new.cron,
        time_zone: &new.time_zone,
        calendar: &calendar,
        submission: &new.submission,
        missed: new.missed,
        overlap: new.overlap,
        created_by: &caller.0.name(),
    };
    let created = schedules::put(&app.store, caller.scope(), &stored).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(find(&app, &caller, &name).await?.into())))
}

/// Checks what the database need not be asked about.
fn read(name: &str, new: &NewSchedule) -> Result<(Calendar, Submission), Problem> {
    let characters = name.chars().count();
    if !(1..=limits::NAME).contains(&characters) || name.contains('\0') {
        let message = format!("a name has 1 to {} characters and no NUL", limits::NAME);
        return Err(Problem::field(Code::InvalidField, "name", message));
    }
    let calendar = Calendar::parse(&new.cron, &new.time_zone)?;
    if calendar.next_after(DateTime::UNIX_EPOCH).is_none() {
        let message = format!("`{}` never comes due: there is no such date", new.cron);
        return Err(Problem::field(Code::InvalidField, "cron", message));
    }
    let submission = Submission::from_value(new.submission.clone()).map_err(|problem| at("submission", problem))?;
    let fixed =
        [("idempotency_key", submission.idempotency_key.is_some()), ("not_before", submission.not_before.is_some())];
    if let Some((field, _)) = fixed.into_iter().find(|(_, given)| *given) {
        let message = "a schedule's submission has none: every due time makes a job of its own, and makes it then";
        return Err(Problem::field(Code::InvalidField, format!("submission.{field}"), message));
    }
    Ok((calendar, submission))
}

/// The same problem, of a field inside `field`.
fn at(field: &str, problem: Problem) -> Problem {
    let inner = problem.field.as_ref().map_or_else(|| field.to_owned(), |inner| format!("{field}.{inner}"));
    Problem { field: Some(inner), ..problem }
}

async fn prepare(
    app: &App,
    caller: &Caller,
    submission: Submission,
    scheduled: Scheduled,
) -> Result<Result<NewJob, Problem>> {
    let incoming = Incoming::scheduled(caller.0.tenant, submission, scheduled);
    let prepared = prepare_all(&app.store, caller.scope(), &[incoming]).await?.pop();
    prepared.ok_or_else(|| Error::new(Code::Internal, "admission gave no verdict"))
}

async fn find(app: &App, caller: &Caller, name: &str) -> Result<ScheduleView> {
    schedules::get(&app.store, caller.scope(), name).await?.ok_or_else(|| none(name))
}

fn none(name: &str) -> Error {
    Error::new(Code::NotFound, format!("there is no schedule `{name}`"))
}

/// List the tenant's schedules, by name.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules", operation_id = "listSchedules",
    params(
        ("after" = Option<String>, Query, description = "Only schedules behind this name: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Schedules of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = ScheduleList, description = "A page of schedules."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<ScheduleList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let after: Option<String> = parameters.one("after")?;
    parameters.finish()?;
    // One more, to know whether there is a next page.
    let mut views = schedules::list(&app.store, caller.scope(), None, after.as_deref(), limit + 1).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = views.len() > page;
    views.truncate(page);
    let next = if more { views.last().map(|view| view.name.clone()) } else { None };
    Ok(Json(ScheduleList { schedules: views.into_iter().map(Into::into).collect(), next }))
}

/// Show a schedule.
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "getSchedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    responses(
        (status = 200, body = Schedule, description = "The schedule."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such schedule."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Schedule>> {
    Ok(Json(find(&app, &caller, &name).await?.into()))
}

/// Delete a schedule, and the due times of it that wait. The jobs that it made stay.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules", operation_id = "deleteSchedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    responses(
        (status = 204, description = "There is no such schedule any more."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such schedule."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode> {
    match schedules::delete(&app.store, caller.scope(), &name).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(none(&name)),
    }
}

/// List what became of a schedule's due times, newest first.
#[utoipa::path(
    get, path = "/v1/schedules/{name}/runs", tag = "schedules", operation_id = "listScheduleRuns",
    params(
        ("name" = String, Path, description = "The schedule's name."),
        ("before" = Option<String>, Query, description = "Only due times before this one: `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Due times of the page, 1 to 500. Default 50."),
    ),
    responses(
        (status = 200, body = ScheduleRunList, description = "A page of due times."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such schedule."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn runs(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    mut parameters: Parameters,
) -> Result<Json<ScheduleRunList>> {
    let limit = parameters.limit(PAGE, MAX_PAGE)?;
    let before: Option<DateTime<Utc>> = parameters.one("before")?;
    parameters.finish()?;
    let schedule = find(&app, &caller, &name).await?;
    let mut runs = schedule_runs::list(&app.store, caller.scope(), schedule.id, before, limit + 1).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = runs.len() > page;
    runs.truncate(page);
    let next = if more { runs.last().map(|run| run.due_at) } else { None };
    Ok(Json(ScheduleRunList { runs: runs.into_iter().map(Into::into).collect(), next }))
}

/// Submit nothing until it is resumed, due times that wait included.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules", operation_id = "pauseSchedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    responses(
        (status = 200, body = Schedule, description = "The schedule is paused."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such schedule."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn pause(state: State<Arc<App>>, caller: Caller, path: Path<String>) -> Result<Json<Schedule>> {
    set_paused(state, caller, path, true).await
}

/// Go on with the first due time from now on. Those of the pause are not made up for.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules", operation_id = "resumeSchedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    responses(
        (status = 200, body = Schedule, description = "The schedule is not paused."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such schedule."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn resume(state: State<Arc<App>>, caller: Caller, path: Path<String>) -> Result<Json<Schedule>> {
    set_paused(state, caller, path, false).await
}

async fn set_paused(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    paused: bool,
) -> Result<Json<Schedule>> {
    if !schedules::set_paused(&app.store, caller.scope(), &name, paused).await? {
        return Err(none(&name));
    }
    Ok(Json(find(&app, &caller, &name).await?.into()))
}

/// Make a job of a schedule now, outside its calendar.
///
/// Also while it is paused, and whatever jobs of it are open; for the next due time the job counts as one of them.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/trigger", tag = "schedules", operation_id = "triggerSchedule",
    params(("name" = String, Path, description = "The schedule's name.")),
    responses(
        (status = 201, body = Accepted, description = "A new job."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "The submission of the schedule is not valid any more."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such schedule."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now; nothing was accepted."),
    )
)]
pub(crate) async fn trigger(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<Accepted>)> {
    let view = find(&app, &caller, &name).await?;
    // What Postgres stores: the job is told the same time as the list of runs.
    let due = view.read_at.trunc_subsecs(6);
    let submission = Submission::from_value(view.submission).map_err(|problem| at("submission", problem))?;
    let scheduled = Scheduled { schedule: view.id, name: name.clone(), due };
    let job = prepare(&app, &caller, submission, scheduled).await?.map_err(|problem| at("submission", problem))?;
    let made = schedules::trigger(&app.store, caller.scope(), view.id, due, &job, &caller.0.name()).await?;
    let id = made.ok_or_else(|| none(&name))??;
    // If the job was there already, another id than this one's stands for it.
    let newcomer = job.newcomer().filter(|newcomer| newcomer.job == id);
    app.nudges.lined_up(vec![job.executor_type], newcomer.into_iter().collect());
    Ok((StatusCode::CREATED, Json(Accepted { id, existing: false, status: Some(Status::Pending) })))
}

impl From<ScheduleView> for Schedule {
    fn from(view: ScheduleView) -> Self {
        Self {
            id: view.id,
            name: view.name,
            cron: view.cron,
            time_zone: view.time_zone,
            missed: view.missed,
            overlap: view.overlap,
            submission: view.submission,
            paused_at: view.paused_at,
            next_due_at: view.next_due_at,
            last_due_at: view.last_due_at,
            last_job_id: view.last_job,
            last_job_status: view.last_job_status,
            last_error: view.last_error,
            last_error_at: view.last_error_at,
            waiting: view.waiting,
            created_by: view.created_by,
            created_at: view.created_at,
            updated_at: view.updated_at,
        }
    }
}

impl From<RunView> for ScheduleRun {
    fn from(view: RunView) -> Self {
        Self {
            due_at: view.due_at,
            outcome: view.outcome,
            job_id: view.job,
            job_status: view.job_status,
            triggered_by: view.triggered_by,
            detail: view.detail,
            created_at: view.created_at,
        }
    }
}
