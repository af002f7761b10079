//! Where a job would go, without submitting it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use gantry_admission::{Explained, explain};
use gantry_core::{routing, why};

use crate::auth::Caller;
use crate::error::Result;
use crate::extract::Body;
use crate::routes::submit::read;
use crate::service::App;
use crate::view;
use crate::wire::{BacklogCap, Limit, ProblemDetails, RouteExplanation, schema};

/// Say where a job would go.
///
/// The body is the submission of one job. It is validated, resolved and routed as a submission is, and answered with what
/// would become of it now: the executor, every other one and why not, the hosts, the limits, the place in line and the
/// expected cost. Nothing is stored, and no idempotency key is used up.
#[utoipa::path(
    post, path = "/v1/route/explain", tag = "jobs", operation_id = "explainRoute",
    request_body(content = schema::Submission, description = "A submission of at most 256 KiB."),
    responses(
        (status = 200, body = RouteExplanation, description = "The explanation."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid: the submission would be refused alike."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 413, body = ProblemDetails, content_type = "application/problem+json", description = "Too large."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn explain_route(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body,
) -> Result<Json<RouteExplanation>> {
    let incoming = read(&caller, &body, None, None)?;
    let Explained { job, outlook } = explain(&app.store, caller.scope(), &incoming).await??;
    let told = why::explain(&outlook.facts);
    let considered = job.routing.trace.into_iter().next().map(|first| first.candidates).unwrap_or_default();
    let others = routing::others(&considered);
    let limits = outlook.limits.into_iter().map(|limit| Limit {
        kind: limit.kind,
        name: limit.name,
        max_running: limit.max_running,
        running: limit.running,
        waiting: limit.waiting,
    });
    Ok(Json(RouteExplanation {
        executor_type: job.executor_type,
        reason: job.routing_reason,
        candidates: considered.into_iter().chain(others).collect(),
        failover: routing::failover::after(&job.routing.executors, job.executor_type),
        hosts: outlook.hosts.into_iter().map(|host| view::host(host, caller.0.operator)).collect(),
        limits: limits.collect(),
        backlog: outlook.backlog.map(|cap| BacklogCap { max_pending: cap.max_pending, waiting: cap.waiting }),
        summary: told.summary,
        remedy: told.remedy,
        waiting: told.waiting,
        estimated_cost: outlook.estimated_cost,
    }))
}
