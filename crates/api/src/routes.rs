//! What is where.

pub(crate) mod bulk;
pub(crate) mod costs;
pub(crate) mod dead_letters;
pub(crate) mod hosts;
pub(crate) mod jobs;
pub(crate) mod limits;
pub(crate) mod logs;
pub(crate) mod lost;
pub(crate) mod overview;
pub(crate) mod route;
pub(crate) mod schedules;
pub(crate) mod steering;
pub(crate) mod submit;
pub(crate) mod templates;
pub(crate) mod why;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use gantry_core::problem::Code;
use gantry_runtime::serve::{self, Readiness};

use crate::error::Error;
use crate::extract::BODY_BYTES;
use crate::service::App;
use crate::{openapi, trace};

pub(crate) fn router(app: Arc<App>, readiness: Readiness) -> Router {
    let document = Arc::new(openapi());
    Router::new()
        .route("/v1/jobs", get(jobs::list).post(submit::submit))
        .route("/v1/jobs/bulk", post(bulk::start))
        .route("/v1/bulk", get(bulk::list))
        .route("/v1/bulk/{id}", get(bulk::show))
        .route("/v1/bulk/{id}/stop", post(bulk::stop))
        .route("/v1/jobs/{id}", get(jobs::show))
        .route("/v1/jobs/{id}/logs", get(logs::logs))
        .route("/v1/jobs/{id}/why", get(why::why))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/abandon", post(lost::abandon))
        .route("/v1/hosts", get(hosts::list).post(hosts::create))
        .route("/v1/hosts/{host}/lost", post(lost::host))
        .route("/v1/hosts/{host}", patch(steering::change))
        .route("/v1/hosts/{host}/activate", post(steering::activate))
        .route("/v1/hosts/{host}/cordon", post(steering::cordon))
        .route("/v1/hosts/{host}/drain", post(steering::drain))
        .route("/v1/slots", get(steering::slots))
        .route("/v1/overview", get(overview::overview))
        .route("/v1/route/explain", post(route::explain_route))
        .route("/v1/limits", get(limits::list).put(limits::set))
        .route("/v1/costs", get(costs::costs))
        .route("/v1/audit", get(lost::audit))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/replay", post(dead_letters::replay))
        .route("/v1/dead-letters/drop", post(dead_letters::discard))
        .route("/v1/dead-letters/{id}", get(dead_letters::show))
        .route("/v1/schedules", get(schedules::list))
        .route("/v1/schedules/{name}", get(schedules::show).put(schedules::put).delete(schedules::delete))
        .route("/v1/schedules/{name}/runs", get(schedules::runs))
        .route("/v1/schedules/{name}/pause", post(schedules::pause))
        .route("/v1/schedules/{name}/resume", post(schedules::resume))
        .route("/v1/schedules/{name}/trigger", post(schedules::trigger))
        .route("/v1/templates", get(templates::list))
        .route("/v1/templates/{name}", get(templates::show).put(templates::put))
        .route("/v1/environments", get(templates::environments))
        .route("/v1/environments/{name}", put(templates::put_environment))
        .with_state(app)
        .route("/openapi.json", get(move || async move { Json(document.as_ref().clone()) }))
        .merge(serve::router(readiness))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::from_fn(trace::request))
}

async fn no_route(uri: Uri) -> Error {
    Error::new(Code::NotFound, format!("there is nothing at `{}`; /openapi.json says what there is", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Error {
    Error::method_not_allowed(format!("`{}` does not take {method}; /openapi.json says what it takes", uri.path()))
}
