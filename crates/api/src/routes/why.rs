//! Why a job is where it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use gantry_core::why;
use gantry_store::why::facts;

use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{JobPath, no_job};
use crate::service::App;
use crate::wire::{ProblemDetails, Why, schema};

/// Say why a job is where it is.
///
/// What a pending job waits for, since when, what would let it run, its place in line and an estimated start; where a
/// running job is; and why one ended that has. Always with its attempts, and what became of each.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/why", tag = "jobs", operation_id = "whyJob",
    params(("id" = String, Path, format = Uuid, description = "The job's id.")),
    responses(
        (status = 200, body = schema::Why, description = "The explanation."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such job."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn why(State(app): State<Arc<App>>, caller: Caller, JobPath(id): JobPath) -> Result<Json<Why>> {
    let facts = facts(&app.store, caller.scope(), id).await?.ok_or_else(|| no_job(id))?;
    Ok(Json(why::explain(&facts)))
}
