//! Limits on running jobs: a tenant sees its own, and sets those of its templates and concurrency keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use gantry_core::ExecutorType;
use gantry_core::limits::{Kind, Subject};
use gantry_core::problem::Code;
use gantry_store::audit::Actor;
use gantry_store::{limits, templates};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, Parameters};
use crate::service::App;
use crate::wire::{Limit, LimitList, LimitRequest, ProblemDetails};

/// List the limits of the tenant, by kind and name.
#[utoipa::path(
    get, path = "/v1/limits", tag = "jobs", operation_id = "listLimits",
    responses(
        (status = 200, body = LimitList, description = "The limits."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<LimitList>> {
    parameters.finish()?;
    let limits = limits::list(&app.store, caller.scope(), caller.0.tenant).await?;
    let limits = limits.into_iter().map(|limit| Limit {
        kind: limit.kind,
        name: limit.name,
        max_running: limit.max_running,
        running: limit.running,
        waiting: limit.waiting,
    });
    Ok(Json(LimitList { limits: limits.collect() }))
}

/// Set how many jobs of a template, or of a concurrency key, run at once.
///
/// What runs already counts. A concurrency key has a limit of 1 from its first job on, until another is set.
#[utoipa::path(
    put, path = "/v1/limits", tag = "jobs", operation_id = "setLimit",
    request_body = LimitRequest,
    responses(
        (status = 204, description = "It holds from now on."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, a field is not valid, or there is no such template."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The limit of the tenant itself."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn set(State(app): State<Arc<App>>, caller: Caller, body: Body) -> Result<StatusCode> {
    let request: LimitRequest = body.json()?;
    if request.max_running.is_some_and(|most| most < 0) {
        return Err(Error::field(Code::InvalidField, "max_running", "must be 0 or more; leave it out for no limit"));
    }
    let tenant = caller.0.tenant;
    let name = match request.kind {
        Kind::Tenant => {
            let message =
                "the limit of a tenant is set by whoever runs Gantry: `gantry tenant set NAME --max-running N`";
            return Err(Error::field(Code::Forbidden, "kind", message));
        }
        Kind::Template => {
            let wanted = (tenant, request.name);
            let mut found = templates::get(&app.store, caller.scope(), std::slice::from_ref(&wanted)).await?;
            let Some(template) = found.remove(&wanted) else {
                let message = format!("there is no template `{}`", wanted.1);
                return Err(Error::field(Code::UnknownTemplate, "name", message));
            };
            template.id.to_string()
        }
        Kind::Key if (1..=255).contains(&request.name.chars().count()) => request.name,
        Kind::Key => {
            return Err(Error::field(Code::InvalidField, "name", "a concurrency key has 1 to 255 characters"));
        }
    };
    let subject = Subject { tenant, kind: request.kind, name };
    let actor = Actor { tenant, name: caller.0.name() };
    limits::set(&app.store, caller.scope(), &actor, &subject, request.max_running).await?;
    // There may be room for some.
    app.nudges.dispatch(ExecutorType::ALL.to_vec());
    Ok(StatusCode::NO_CONTENT)
}
