//! Serverless Jobs, v1alpha2.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use gantry_double::HiddenFor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::state::{Book, Definition, Run, Wish, now};
use super::{SECRET_KEY, Shared, life};

/// The sizes on offer: thousandths of a vCPU, and MiB.
const SIZES: [(u32, u64); 8] =
    [(70, 128), (140, 256), (280, 512), (560, 1_024), (1_120, 2_048), (1_680, 3_072), (2_240, 4_096), (6_000, 16_384)];
/// Runs at a time, definitions, and the entries of a page: the service's own bounds.
const MOST_RUNS: usize = 400;
const MOST_DEFINITIONS: usize = 1_000;
const PAGE: usize = 50;
const MOST_PAGE: usize = 100;

/// The parameters of a query, some of which may come several times.
type Parameters = Query<Vec<(String, String)>>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .route("/job-definitions", get(definitions).post(create))
        .route("/job-definitions/{id}", get(definition).patch(update).delete(delete))
        .route("/job-definitions/{id}/start", post(start))
        .route("/job-runs", get(runs))
        .route("/job-runs/{id}", get(run))
        .route("/job-runs/{id}/stop", post(stop))
        .route("/job-resources", get(resources))
        .with_state(shared)
        .layer(from_fn(authenticated));
    Router::new().nest("/serverless-jobs/v1alpha2/regions/{region}", routes)
}

async fn authenticated(request: Request, next: Next) -> Response {
    match request.headers().get("x-auth-token") {
        Some(token) if token == SECRET_KEY => next.run(request).await,
        _ => refused(StatusCode::UNAUTHORIZED, "denied_authentication", "authentication is denied"),
    }
}

fn refused(status: StatusCode, kind: &str, message: &str) -> Response {
    (status, Json(json!({ "type": kind, "message": message }))).into_response()
}

fn not_found(resource: &str, id: &str) -> Response {
    let body = json!({
        "type": "not_found", "message": "resource is not found", "resource": resource, "resource_id": id,
    });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

fn invalid(message: &str) -> Response {
    refused(StatusCode::BAD_REQUEST, "invalid_arguments", message)
}

fn over_quota(resource: &str, quota: usize) -> Response {
    let details = json!([{ "resource": resource, "quota": quota, "current": quota }]);
    let body =
        json!({ "type": "quotas_exceeded", "message": "quota(s) exceeded for this resource", "details": details });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}

/// One page of a list, oldest first unless asked otherwise.
fn page<T: Serialize + Clone>(key: &str, mut all: Vec<T>, parameters: &[(String, String)]) -> Response {
    let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number = |name: &str, default: usize| value(name).and_then(|text| text.parse().ok()).unwrap_or(default).max(1);
    if value("order_by") == Some("created_at_desc") {
        all.reverse();
    }
    let (page, size) = (number("page", 1), number("page_size", PAGE).min(MOST_PAGE));
    let total = all.len();
    let entries: Vec<T> = all.into_iter().skip((page - 1) * size).take(size).collect();
    Json(json!({ key: entries, "total_count": total })).into_response()
}

fn has(parameters: &[(String, String)], name: &str, value: &str) -> bool {
    let mut given = parameters.iter().filter(|(key, given)| key == name && !given.is_empty()).peekable();
    given.peek().is_none() || given.any(|(_, given)| given == value)
}

async fn definitions(State(shared): State<Arc<Shared>>, Query(parameters): Parameters) -> Response {
    let all = shared.book().definitions.clone();
    let wanted = all.into_iter().filter(|definition| has(&parameters, "project_id", &definition.project_id));
    page("job_definitions", wanted.collect(), &parameters)
}

async fn create(State(shared): State<Arc<Shared>>, Path(region): Path<String>, Json(wish): Json<Value>) -> Response {
    let wish: Wish = match serde_json::from_value(wish) {
        Ok(wish) => wish,
        Err(error) => return invalid(&error.to_string()),
    };
    if wish.image_uri.is_none() || wish.project_id.is_none() || wish.cpu_limit.is_none() || wish.memory_limit.is_none()
    {
        return invalid("image_uri, project_id, cpu_limit and memory_limit are required");
    }
    let mut book = shared.book();
    if book.definitions.len() >= MOST_DEFINITIONS {
        return over_quota("JobDefinitions", MOST_DEFINITIONS);
    }
    let made = Definition::new(wish, region);
    book.definitions.push(made.clone());
    Json(made).into_response()
}

async fn definition(State(shared): State<Arc<Shared>>, Path((_, id)): Path<(String, String)>) -> Response {
    match shared.book().definition(&id) {
        Some(definition) => Json(definition).into_response(),
        None => not_found("job_definition", &id),
    }
}

async fn update(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    Json(wish): Json<Value>,
) -> Response {
    match (shared.book().definition(&id), serde_json::from_value(wish)) {
        (Some(definition), Ok(wish)) => {
            definition.change(wish);
            Json(definition).into_response()
        }
        (Some(_), Err(error)) => invalid(&error.to_string()),
        (None, _) => not_found("job_definition", &id),
    }
}

async fn delete(State(shared): State<Arc<Shared>>, Path((_, id)): Path<(String, String)>) -> Response {
    let mut book = shared.book();
    if book.definition(&id).is_none() {
        return not_found("job_definition", &id);
    }
    if book.runs.iter().any(|run| run.job_definition_id == id && !run.is_over()) {
        return refused(StatusCode::FORBIDDEN, "permissions_denied", "the job definition has active job runs");
    }
    book.definitions.retain(|definition| definition.id != id);
    StatusCode::NO_CONTENT.into_response()
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Start {
    #[serde(rename = "command")]
    _command: Option<String>,
    startup_command: Option<Vec<String>>,
    args: Option<Vec<String>>,
    environment_variables: BTreeMap<String, String>,
    replicas: Option<u32>,
}

async fn start(
    State(shared): State<Arc<Shared>>,
    Path((_, id)): Path<(String, String)>,
    hidden: Option<Extension<HiddenFor>>,
    Json(body): Json<Value>,
) -> Response {
    let body: Start = match serde_json::from_value(body) {
        Ok(body) => body,
        Err(error) => return invalid(&error.to_string()),
    };
    let count = body.replicas.unwrap_or(1).max(1) as usize;
    let hidden = hidden.map_or(Duration::ZERO, |Extension(HiddenFor(time))| time);
    let mut book = shared.book();
    let Some(definition) = book.definition(&id).cloned() else { return not_found("job_definition", &id) };
    if book.runs.iter().filter(|run| !run.is_over()).count() + count > MOST_RUNS {
        return over_quota("JobRuns", MOST_RUNS);
    }
    let made: Vec<Run> = (0..count).map(|_| queued(&definition, &body, hidden)).collect();
    book.runs.extend(made.iter().cloned());
    for run in &made {
        tokio::spawn(life::live(Arc::clone(&shared), run.id.clone()));
    }
    Json(json!({ "job_runs": made })).into_response()
}

fn queued(definition: &Definition, start: &Start, hidden: Duration) -> Run {
    let mut environment_variables = definition.environment_variables.clone();
    environment_variables.extend(start.environment_variables.clone());
    let now = now();
    Run {
        id: Uuid::now_v7().to_string(),
        job_definition_id: definition.id.clone(),
        state: "initialized",
        cpu_limit: definition.cpu_limit,
        memory_limit: definition.memory_limit,
        local_storage_capacity: definition.local_storage_capacity,
        environment_variables,
        startup_command: start.startup_command.clone().unwrap_or_else(|| definition.startup_command.clone()),
        args: start.args.clone().unwrap_or_else(|| definition.args.clone()),
        region: definition.region.clone(),
        created_at: now,
        updated_at: now,
        started_at: None,
        end: None,
        project: definition.project_id.clone(),
        definition_name: definition.name.clone(),
        image: definition.image_uri.clone(),
        timeout: definition.timeout(),
        visible_from: Instant::now() + hidden,
        container: None,
        stop_asked: false,
        lines: Vec::new(),
    }
}

async fn runs(State(shared): State<Arc<Shared>>, Query(parameters): Parameters) -> Response {
    let matches = |run: &&Run| {
        run.is_visible()
            && has(&parameters, "project_id", &run.project)
            && has(&parameters, "job_definition_id", &run.job_definition_id)
            && has(&parameters, "states", run.state)
            && has(&parameters, "state", run.state)
            && has(&parameters, "reasons", run.end.as_ref().and_then(|end| end.reason).unwrap_or_default())
    };
    let wanted = shared.book().runs.iter().filter(matches).cloned().collect();
    page("job_runs", wanted, &parameters)
}

fn visible<'a>(book: &'a mut Book, id: &str) -> Option<&'a mut Run> {
    book.run(id).filter(|run| run.is_visible())
}

async fn run(State(shared): State<Arc<Shared>>, Path((_, id)): Path<(String, String)>) -> Response {
    match visible(&mut shared.book(), &id) {
        Some(run) => Json(run).into_response(),
        None => not_found("job_run", &id),
    }
}

async fn stop(State(shared): State<Arc<Shared>>, Path((_, id)): Path<(String, String)>) -> Response {
    let mut book = shared.book();
    let Some(run) = visible(&mut book, &id) else { return not_found("job_run", &id) };
    if run.is_over() {
        return refused(StatusCode::PRECONDITION_FAILED, "precondition_failed", "the job run is over");
    }
    if !run.stop_asked {
        run.stop_asked = true;
        run.state = "interrupting";
        run.updated_at = now();
        if let Some(container) = run.container.clone() {
            life::stop(&shared, container);
        }
    }
    Json(run).into_response()
}

async fn resources() -> Response {
    let sizes = SIZES.map(|(cpu, mib)| json!({ "compute_limit_mvcpu": cpu, "memory_limit_bytes": mib << 20 }));
    Json(json!({ "resources": sizes })).into_response()
}
