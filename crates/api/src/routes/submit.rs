//! `POST /v1/jobs`: the HTTP door to admission.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use gantry_admission::metrics::{self, Door};
use gantry_admission::{Admitted, Incoming, admit};
use gantry_core::problem::{Code, Problem};
use gantry_core::spec::limits;
use gantry_core::{JobId, Status};
use gantry_store::jobs;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, not_json};
use crate::openapi::SubmitBody;
use crate::service::App;
use crate::trace;
use crate::wire::{Accepted, ProblemDetails, SubmitReply, SubmitResult};

/// The producer's own key for a single submission.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Submit one job, or up to 1,000.
///
/// An accepted job is durable. An array is answered item by item and in order: a bad item hurts only itself. The
/// same idempotency key with the same submission is the same job, however often and over whatever connection it
/// comes; with another submission it is refused.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs", operation_id = "submitJobs",
    request_body(content = SubmitBody, description = "A submission of at most 256 KiB, or an array of 1 to 1,000, together at most 32 MiB."),
    params(("Idempotency-Key" = Option<String>, Header, description = "The same as `idempotency_key` in the body, for a single submission that has none.")),
    responses(
        (status = 201, body = Accepted, description = "A new job.", headers(("Location" = String, description = "The path of the job."))),
        (status = 200, body = SubmitReply, description = "The job that this submission had made before; or, for an array, an answer for each item."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The idempotency key was used for another submission."),
        (status = 413, body = ProblemDetails, content_type = "application/problem+json", description = "Too large."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now; nothing was accepted."),
    )
)]
pub(crate) async fn submit(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response> {
    let key = idempotency_key(&headers)?;
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        if key.is_some() {
            let message = "a header cannot be the key of many; give each item its own `idempotency_key`";
            return Err(Error::field(Code::InvalidField, "Idempotency-Key", message));
        }
        let results = many(&app, &caller, &body).await?;
        return Ok(Json(SubmitReply::Many(results)).into_response());
    }
    let verdict = match read(&caller, &body, key, trace::parent().as_deref()) {
        Ok(incoming) => admit_all(&app, &caller, &[incoming])
            .await?
            .pop()
            .ok_or_else(|| Error::new(Code::Internal, "admission gave no verdict"))?,
        Err(problem) => Err(problem),
    };
    count(&verdict);
    let admitted = verdict?;
    Ok(if admitted.existing {
        Json(SubmitReply::One(admitted)).into_response()
    } else {
        let location = [(LOCATION, format!("/v1/jobs/{}", admitted.id))];
        (StatusCode::CREATED, location, Json(SubmitReply::One(admitted))).into_response()
    })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) => Ok(Some(key.to_owned())),
        Err(_) => Err(Error::field(Code::InvalidField, "Idempotency-Key", "the header is not plain ASCII text")),
    }
}

/// One submission; `key` counts as if it stood in a body that has none.
pub(crate) fn read(
    caller: &Caller,
    body: &[u8],
    key: Option<String>,
    traceparent: Option<&str>,
) -> Result<Incoming, Problem> {
    if body.len() > limits::SUBMISSION_BYTES {
        let message = format!("a submission has at most {} bytes, this one {}", limits::SUBMISSION_BYTES, body.len());
        return Err(Problem::new(Code::TooLarge, message));
    }
    let mut value: Value = serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}")))?;
    if let (Some(key), Some(object)) = (key, value.as_object_mut()) {
        let own = object.entry("idempotency_key").or_insert(Value::Null);
        if own.is_null() {
            *own = Value::String(key);
        }
    }
    Ok(Incoming::over_http(caller.0, value)?.traced(traceparent))
}

async fn many(app: &App, caller: &Caller, body: &[u8]) -> Result<Vec<SubmitResult>> {
    // Raw, so that the size of each is known and what is wrong inside one stays its own.
    let items: Vec<&RawValue> = serde_json::from_slice(body).map_err(not_json)?;
    if items.is_empty() || items.len() > limits::JOBS_PER_REQUEST {
        let message = format!("an array holds 1 to {} submissions, not {}", limits::JOBS_PER_REQUEST, items.len());
        let code = if items.is_empty() { Code::InvalidField } else { Code::TooLarge };
        return Err(Error::new(code, message));
    }
    let traceparent = trace::parent();
    let mut readable = Vec::with_capacity(items.len());
    let read: Vec<Result<(), Problem>> = items
        .into_iter()
        .map(|item| {
            read(caller, item.get().as_bytes(), None, traceparent.as_deref()).map(|incoming| readable.push(incoming))
        })
        .collect();
    let mut admitted = admit_all(app, caller, &readable).await?.into_iter();
    let results = read.into_iter().map(|read| {
        let verdict = read.and_then(|()| {
            // One verdict for each readable item, in their order.
            admitted.next().unwrap_or_else(|| Err(Problem::new(Code::Internal, "admission gave no verdict")))
        });
        count(&verdict);
        match verdict {
            Ok(accepted) => SubmitResult::Accepted(accepted),
            Err(problem) => SubmitResult::Rejected(Error::from(problem).details()),
        }
    });
    Ok(results.collect())
}

fn count(verdict: &Result<Accepted, Problem>) {
    metrics::count(Door::Http, verdict.as_ref().map(|accepted| accepted.existing));
}

/// Admits, nudges the dispatchers, and finds out where the jobs stand that existed before.
async fn admit_all(app: &App, caller: &Caller, batch: &[Incoming]) -> Result<Vec<Result<Accepted, Problem>>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let verdicts = admit(&app.store, caller.scope(), batch).await?;
    let admitted = || verdicts.iter().filter_map(|verdict| verdict.as_ref().ok());
    let new = || admitted().filter(|admitted| !admitted.existing);
    let executors: BTreeSet<_> = new().map(|admitted| admitted.executor).collect();
    // All of them, or none: a dispatcher that is told who came looks for nobody else.
    let newcomers: Option<Vec<_>> = new().map(|admitted| admitted.newcomer).collect();
    app.nudges.lined_up(executors.into_iter().collect(), newcomers.unwrap_or_default());
    let existing: Vec<JobId> = admitted().filter(|admitted| admitted.existing).map(|admitted| admitted.job).collect();
    let known = if existing.is_empty() {
        Default::default()
    } else {
        jobs::statuses(&app.store, caller.scope(), &existing).await?
    };
    let accepted = |Admitted { job, existing, .. }| Accepted {
        id: job,
        existing,
        status: if existing { known.get(&job).copied() } else { Some(Status::Pending) },
    };
    Ok(verdicts.into_iter().map(|verdict| verdict.map(accepted)).collect())
}
