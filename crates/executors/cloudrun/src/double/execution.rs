//! Executions and their tasks: get, list, cancel, delete.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::Value;

use super::answer::{Answer, Query, Refusal, page};
use super::jobs::{allowed, name_of};
use super::store::{Execution, Job, Target};
use super::{Shared, operations, render};

type Executions = Path<(String, String, String)>;
type One = Path<(String, String, String, String)>;

pub(super) async fn list(
    State(shared): State<Shared>,
    Path((project, location, job)): Executions,
    query: Query,
) -> Answer {
    let items =
        each(&shared, (&project, &location, &job), "-", |name, execution| Some(render::execution(name, execution)))?;
    page("executions", items, &query)
}

pub(super) async fn get(State(shared): State<Shared>, Path((project, location, job, id)): One) -> Answer {
    one(&shared, (&project, &location, &job), &id, |name, _, execution| Ok(Json(render::execution(name, execution))))
}

pub(super) async fn tasks(
    State(shared): State<Shared>,
    Path((project, location, job, id)): One,
    query: Query,
) -> Answer {
    let items = each(&shared, (&project, &location, &job), &id, render::task)?;
    page("tasks", items, &query)
}

pub(super) async fn task(
    State(shared): State<Shared>,
    Path((project, location, job, id, task)): Path<(String, String, String, String, String)>,
) -> Answer {
    one(&shared, (&project, &location, &job), &id, |name, _, execution| {
        let found =
            render::task(name, execution).filter(|found| found["name"].as_str().is_some_and(|n| n.ends_with(&task)));
        found.map(Json).ok_or_else(|| Refusal::not_found("TASK", &task))
    })
}

/// `POST …/executions/E:cancel`.
pub(super) async fn act(State(shared): State<Shared>, Path((project, location, job, id)): One) -> Answer {
    let Some(id) = id.strip_suffix(":cancel") else { return Err(Refusal::invalid(format!("no such method: {id}"))) };
    let rendered = one(&shared, (&project, &location, &job), id, |name, _, execution| {
        if execution.end.is_some() {
            return Err(Refusal::over(id));
        }
        execution.cancel.cancel();
        Ok(Json(render::execution(name, execution)))
    })?;
    let name = name_of(&project, &location, &job);
    let target = Target::Execution(name.clone(), id.to_owned());
    Ok(operations::begun(&shared, &name, target, render::EXECUTION, rendered.0))
}

pub(super) async fn delete(State(shared): State<Shared>, Path((project, location, job, id)): One) -> Answer {
    let rendered = one(&shared, (&project, &location, &job), &id, |name, _, execution| {
        execution.cancel.cancel();
        Ok(Json(render::execution(name, execution)))
    })?;
    let name = name_of(&project, &location, &job);
    shared.store.lock().change(&name, |job| job.executions.retain(|execution| execution.id != id));
    Ok(operations::begun(&shared, &name, Target::Done, render::EXECUTION, rendered.0))
}

/// Asks one execution.
fn one<T>(
    shared: &Shared,
    (project, location, job): (&str, &str, &str),
    id: &str,
    ask: impl FnOnce(&str, &Job, &Execution) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    allowed(project, "run.executions.get")?;
    let name = name_of(project, location, job);
    let state = shared.store.lock();
    let found = state.job(&name);
    let execution =
        found.and_then(|found| Some((found, found.executions.iter().find(|execution| execution.id == id)?)));
    let (found, execution) = execution.ok_or_else(|| Refusal::not_found("EXECUTION", id))?;
    ask(&name, found, execution)
}

/// What `ask` has of the executions of a Job, or of all (`-`), the newest first.
fn each(
    shared: &Shared,
    (project, location, job): (&str, &str, &str),
    id: &str,
    ask: impl Fn(&str, &Execution) -> Option<Value>,
) -> Result<Vec<Value>, Refusal> {
    allowed(project, "run.executions.list")?;
    let state = shared.store.lock();
    let jobs = state.in_location(&format!("projects/{project}/locations/{location}"));
    let mut found: Vec<_> = jobs
        .into_iter()
        .filter(|(name, _)| job == "-" || name.ends_with(&format!("/{job}")))
        .flat_map(|(name, job)| job.executions.iter().map(move |execution| (name, execution)))
        .filter(|(_, execution)| id == "-" || execution.id == id)
        .collect();
    found.sort_by_key(|(_, execution)| std::cmp::Reverse((execution.created, execution.number)));
    Ok(found.into_iter().filter_map(|(name, execution)| ask(name, execution)).collect())
}
