//! What operators do to hosts, and who holds their slots. The deeds are for operators' keys only, and written down.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use gantry_core::problem::Code;
use gantry_store::audit::Actor;
use gantry_store::hosts::{self, HostView};
use gantry_store::steering::{self, Deed};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::{Body, Parameters};
use crate::service::App;
use crate::wire::{DrainRequest, HostPatch, HostReply, ProblemDetails, Slot, SlotList};

/// Slots that one answer lists at most.
const SLOTS: i64 = 1_000;

/// Let a host take jobs again, whatever it was before. For operators' keys only.
#[utoipa::path(
    post, path = "/v1/hosts/{host}/activate", tag = "hosts", operation_id = "activateHost",
    params(("host" = String, Path, description = "The host's name or id.")),
    responses(
        (status = 200, body = HostReply, description = "The host takes jobs."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such host."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The name is not unique."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn activate(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<HostReply>> {
    steer(&app, &caller, &host, Deed::Activate).await
}

/// Let a host take no new jobs; what runs there runs to its end. For operators' keys only.
#[utoipa::path(
    post, path = "/v1/hosts/{host}/cordon", tag = "hosts", operation_id = "cordonHost",
    params(("host" = String, Path, description = "The host's name or id.")),
    responses(
        (status = 200, body = HostReply, description = "The host takes no new jobs."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such host."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The name is not unique."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn cordon(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<HostReply>> {
    steer(&app, &caller, &host, Deed::Cordon).await
}

/// Empty a host: no new jobs, and what runs there runs to its end or is moved. For operators' keys only.
///
/// Moved means: stopped with SIGTERM first, seen to have ended, and tried again elsewhere, at nobody's cost. `slots` of
/// the host in the list of hosts is 0 when it is empty.
#[utoipa::path(
    post, path = "/v1/hosts/{host}/drain", tag = "hosts", operation_id = "drainHost",
    params(("host" = String, Path, description = "The host's name or id.")),
    request_body = DrainRequest,
    responses(
        (status = 200, body = HostReply, description = "The host takes no new jobs."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such host."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The name is not unique."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn drain(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(host): Path<String>,
    body: Body,
) -> Result<Json<HostReply>> {
    let request: DrainRequest = if body.0.is_empty() { Default::default() } else { body.json()? };
    steer(&app, &caller, &host, Deed::Drain { moves: request.moves }).await
}

/// Change how many jobs a host runs at once. For operators' keys only.
///
/// Fewer than run now is allowed: nothing new is placed until enough have ended.
#[utoipa::path(
    patch, path = "/v1/hosts/{host}", tag = "hosts", operation_id = "changeHost",
    params(("host" = String, Path, description = "The host's name or id.")),
    request_body = HostPatch,
    responses(
        (status = 200, body = HostReply, description = "The host has so many slots."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such host."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The name is not unique."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(host): Path<String>,
    body: Body,
) -> Result<Json<HostReply>> {
    let patch: HostPatch = body.json()?;
    if patch.max_concurrent_jobs < 0 {
        let message = format!("must be 0 or more, not {}", patch.max_concurrent_jobs);
        return Err(Error::field(Code::InvalidField, "max_concurrent_jobs", message));
    }
    steer(&app, &caller, &host, Deed::Limit(patch.max_concurrent_jobs)).await
}

/// List who holds slots, by host and by age: of your own jobs, up to 1,000.
#[utoipa::path(
    get, path = "/v1/slots", tag = "hosts", operation_id = "listSlots",
    params(("host" = Option<String>, Query, description = "Only of this host, by its name or id.")),
    responses(
        (status = 200, body = SlotList, description = "The slots."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "A parameter is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 404, body = ProblemDetails, content_type = "application/problem+json", description = "There is no such host."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The name is not unique."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn slots(
    State(app): State<Arc<App>>,
    caller: Caller,
    mut parameters: Parameters,
) -> Result<Json<SlotList>> {
    let host: Option<String> = parameters.one("host")?;
    parameters.finish()?;
    let host = match host {
        Some(host) => Some(find(&app, &caller, &host).await?.host.id),
        None => None,
    };
    let held = steering::slots(&app.store, caller.scope(), host, SLOTS).await?;
    let slots = held.into_iter().map(|slot| Slot {
        host: slot.host,
        job: slot.job,
        name: slot.name,
        attempt: slot.attempt,
        since: slot.since,
        started_at: slot.started_at,
        stopping: slot.stopping,
        condition: slot.condition,
    });
    Ok(Json(SlotList { slots: slots.collect() }))
}

async fn steer(app: &App, caller: &Caller, wanted: &str, deed: Deed) -> Result<Json<HostReply>> {
    let actor = operator(caller)?;
    let view = find(app, caller, wanted).await?;
    if !steering::steer(&app.store, caller.scope(), view.host.id, deed, &actor).await? {
        return Err(no_host(wanted));
    }
    // Slots may have come up.
    app.nudges.dispatch(vec![view.host.executor_type]);
    Ok(Json(HostReply { id: view.host.id, name: view.host.name, slots: view.current_job_count }))
}

pub(super) fn operator(caller: &Caller) -> Result<Actor> {
    if !caller.0.operator {
        return Err(Error::new(Code::Forbidden, "only an operator's key may do this"));
    }
    Ok(Actor { tenant: caller.0.tenant, name: caller.0.name() })
}

/// A host by its id or its name.
pub(super) async fn find(app: &App, caller: &Caller, wanted: &str) -> Result<HostView> {
    let id = wanted.parse().ok();
    let mut found = hosts::list(&app.store, caller.scope()).await?;
    found.retain(|view| Some(view.host.id) == id || view.host.name == wanted);
    if found.len() > 1 {
        let message = format!("there is a shared host `{wanted}` and one of your own: name it by its id");
        return Err(Error::new(Code::Conflict, message));
    }
    found.pop().ok_or_else(|| no_host(wanted))
}

pub(super) fn no_host(wanted: &str) -> Error {
    Error::new(Code::NotFound, format!("there is no host `{wanted}`"))
}
