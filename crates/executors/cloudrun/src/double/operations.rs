//! Long-running operations: what was begun, and whether it is done.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::answer::{Answer, Query, Refusal, page};
use super::store::{self, Target};
use super::{Shared, render};

/// How many operations are remembered.
const KEPT: usize = 10_000;

/// A new operation on a Job, or on what belongs to one, as the answer to the request that began it.
pub(super) fn begun(shared: &Shared, job: &str, target: Target, kind: &str, last: Value) -> Json<Value> {
    let location = job.split("/jobs/").next().unwrap_or_default();
    let name = format!("{location}/operations/{}", shared.store.uid());
    let operation = store::Operation { target, last: typed(kind, last) };
    let mut state = shared.store.lock();
    let rendered = render_operation(&state, &name, &operation);
    while state.operations.len() >= KEPT {
        state.operations.pop_first();
    }
    state.operations.insert(name, operation);
    Json(rendered)
}

pub(super) async fn get(
    State(shared): State<Shared>,
    Path((project, location, id)): Path<(String, String, String)>,
) -> Answer {
    let name = format!("projects/{project}/locations/{location}/operations/{id}");
    let state = shared.store.lock();
    let operation = state.operations.get(&name).ok_or_else(|| Refusal::not_found("OPERATION", &id))?;
    Ok(Json(render_operation(&state, &name, operation)))
}

pub(super) async fn list(
    State(shared): State<Shared>,
    Path((project, location)): Path<(String, String)>,
    query: Query,
) -> Answer {
    let prefix = format!("projects/{project}/locations/{location}/operations/");
    let state = shared.store.lock();
    let of_location = state.operations.iter().filter(|(name, _)| name.starts_with(&prefix));
    page("operations", of_location.map(|(name, operation)| render_operation(&state, name, operation)).collect(), &query)
}

fn typed(kind: &str, mut resource: Value) -> Value {
    resource["@type"] = kind.into();
    resource
}

fn render_operation(state: &store::State, name: &str, operation: &store::Operation) -> Value {
    let (done, now, error) = match &operation.target {
        Target::Done => (true, None, None),
        Target::Job(job) => match state.jobs.get(job) {
            Some(found) => {
                let error = found.failed.as_ref().map(|(_, message)| json!({ "code": 9, "message": message }));
                (!found.reconciling, Some(typed(render::JOB, render::job(job, found))), error)
            }
            None => (true, None, None),
        },
        Target::Execution(job, id) => {
            let found = state.jobs.get(job).and_then(|job| job.executions.iter().find(|one| one.id == *id));
            match found {
                Some(found) => {
                    let failed = found.end.as_ref().filter(|end| !end.succeeded);
                    let error = failed.map(|end| json!({ "code": 10, "message": end.message }));
                    (found.end.is_some(), Some(typed(render::EXECUTION, render::execution(job, found))), error)
                }
                None => (true, None, None),
            }
        }
    };
    let resource = now.unwrap_or_else(|| operation.last.clone());
    let mut rendered = json!({ "name": name, "metadata": resource });
    if done {
        rendered["done"] = true.into();
        match error {
            Some(error) => rendered["error"] = error,
            None => rendered["response"] = rendered["metadata"].clone(),
        }
    }
    rendered
}
