//! Executor hosts.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use gantry_core::problem::Code;
use gantry_store::hosts;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::extract::Body;
use crate::service::App;
use crate::view;
use crate::wire::{HostCreated, HostList, NewHost, ProblemDetails};

/// The highest price, so that no cost is a number that Postgres or Gantry cannot hold.
const MAX_PRICE: u32 = 1_000_000_000;
/// Characters of a name.
const NAME: usize = gantry_core::spec::limits::NAME;
/// The constraint that a taken name violates.
const NAME_CONSTRAINT: &str = "executor_hosts_owner_name";

/// List the hosts that jobs may run on: the shared ones and the tenant's own.
#[utoipa::path(
    get, path = "/v1/hosts", tag = "hosts", operation_id = "listHosts",
    responses(
        (status = 200, body = HostList, description = "The hosts, by name."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn list(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<HostList>> {
    let views = hosts::list(&app.store, caller.scope()).await?;
    let hosts = views.into_iter().map(|host| view::host(host, caller.0.operator)).collect();
    Ok(Json(HostList { hosts }))
}

/// Add a host. For operators' keys only.
#[utoipa::path(
    post, path = "/v1/hosts", tag = "hosts", operation_id = "createHost",
    request_body = NewHost,
    responses(
        (status = 201, body = HostCreated, description = "The host was added; workers find it by themselves."),
        (status = 400, body = ProblemDetails, content_type = "application/problem+json", description = "Not JSON, or a field is not valid."),
        (status = 401, body = ProblemDetails, content_type = "application/problem+json", description = "No valid API key."),
        (status = 403, body = ProblemDetails, content_type = "application/problem+json", description = "The key is no operator's."),
        (status = 409, body = ProblemDetails, content_type = "application/problem+json", description = "The name is taken."),
        (status = 503, body = ProblemDetails, content_type = "application/problem+json", description = "Not available now."),
    )
)]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<HostCreated>)> {
    if !caller.0.operator {
        return Err(Error::new(Code::Forbidden, "only an operator's key may add hosts"));
    }
    let new: NewHost = body.json()?;
    validate(&new)?;
    let host = hosts::NewHost {
        tenant: (!new.shared).then_some(caller.0.tenant),
        name: &new.name,
        executor_type: new.executor_type,
        connection_config: Value::Object(new.connection_config),
        executor_config: Value::Object(new.executor_config),
        max_concurrent_jobs: new.max_concurrent_jobs,
        cost_per_job: new.cost_per_job,
        cost_per_hour: new.cost_per_hour,
    };
    let id = hosts::insert(&app.store, caller.scope(), &host).await.map_err(|error| {
        if error.constraint() == Some(NAME_CONSTRAINT) {
            return Error::field(Code::Conflict, "name", format!("there is a host `{}` already", new.name));
        }
        error.into()
    })?;
    app.nudges.dispatch(vec![new.executor_type]);
    Ok((StatusCode::CREATED, Json(HostCreated { id, name: new.name })))
}

fn validate(host: &NewHost) -> Result<()> {
    let invalid = |field: &str, message: String| Err(Error::field(Code::InvalidField, field, message));
    let characters = host.name.chars().count();
    if !(1..=NAME).contains(&characters) || host.name.contains('\0') {
        return invalid("name", format!("a name has 1 to {NAME} characters and no NUL"));
    }
    if host.max_concurrent_jobs < 0 {
        return invalid("max_concurrent_jobs", format!("must be 0 or more, not {}", host.max_concurrent_jobs));
    }
    for (field, cost) in [("cost_per_job", host.cost_per_job), ("cost_per_hour", host.cost_per_hour)] {
        if !(Decimal::ZERO..=Decimal::from(MAX_PRICE)).contains(&cost) {
            return invalid(field, format!("a price is 0 to {MAX_PRICE}, unlike {cost}"));
        }
    }
    for (field, config) in [("connection_config", &host.connection_config), ("executor_config", &host.executor_config)]
    {
        // Postgres takes no NUL.
        if object_has_nul(config) {
            return invalid(field, "text cannot contain NUL".into());
        }
    }
    Ok(())
}

fn object_has_nul(object: &Map<String, Value>) -> bool {
    object.iter().any(|(key, value)| key.contains('\0') || has_nul(value))
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(object) => object_has_nul(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
