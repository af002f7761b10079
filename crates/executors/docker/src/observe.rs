//! The states of containers, many at once, and how they ended.

use std::collections::HashMap;
use std::sync::Arc;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, ContainerSummaryStateEnum as Listed,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{End, ExecutionId, Observed};

use crate::engine::Engine;
use crate::{error, labels, restart, time, usage};

/// Up to so many containers are asked for one by one: that is cheaper than a list of all.
const FEW: usize = 4;
/// Requests at a time.
const CONCURRENCY: usize = 8;

pub(crate) async fn observe(
    engine: &Arc<Engine>,
    ids: &[ExecutionId],
) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
    let docker = engine.docker().await?;
    let mut alive = if ids.len() > FEW { list_alive(docker).await? } else { HashMap::new() };
    let mut states = Vec::with_capacity(ids.len());
    let mut rest = Vec::new();
    for id in ids {
        match alive.remove(&id.0) {
            Some(state) => states.push((id.clone(), state)),
            None => rest.push(id.clone()),
        }
    }
    // What is not in the list is asked for by itself, because only that answer is authoritative.
    let mut answers = futures::stream::iter(rest)
        .map(|id| async move { (inspect(engine, docker, &id).await, id) })
        .buffer_unordered(CONCURRENCY);
    while let Some((state, id)) = answers.next().await {
        match state {
            Ok(state) => states.push((id, state)),
            // The engine has trouble with this one container; the others are not to suffer.
            Err(error) if error::answer(&error).is_some() => {
                tracing::warn!(container.id = %id, error = error::text(&error), "cannot inspect a container");
            }
            Err(error) => return Err(error::failure("inspect", &error)),
        }
    }
    let running = states.iter().filter(|(_, state)| *state == Observed::Running);
    usage::sample(engine, docker, &running.map(|(id, _)| id.0.clone()).collect::<Vec<_>>());
    Ok(states)
}

/// Gantry's containers that have not ended, by id.
async fn list_alive(docker: &Docker) -> Result<HashMap<String, Observed>, Failure> {
    let filters = HashMap::from([
        ("label", vec![labels::FLEET]),
        ("status", vec!["created", "running", "paused", "restarting"]),
    ]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = docker.list_containers(Some(options)).await.map_err(|error| error::failure("list", &error))?;
    let state = |listed| match listed {
        Some(Listed::CREATED) => Some(Observed::Starting),
        Some(Listed::RUNNING | Listed::PAUSED | Listed::RESTARTING) => Some(Observed::Running),
        _ => None,
    };
    Ok(listed.into_iter().filter_map(|container| Some((container.id?, state(container.state)?))).collect())
}

async fn inspect(engine: &Engine, docker: &Docker, id: &ExecutionId) -> Result<Observed, Error> {
    let container = match docker.inspect_container(&id.0, None).await {
        Ok(container) => container,
        Err(error) if error::no_such_container(&error) => {
            engine.forget(&id.0);
            return Ok(Observed::Gone);
        }
        Err(error) => return Err(error),
    };
    let state = container.state.as_ref();
    match state.and_then(|state| state.status) {
        Some(Status::CREATED) => Ok(Observed::Starting),
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => end(engine, docker, &id.0, &container).await,
        _ => Ok(Observed::Running),
    }
}

async fn end(engine: &Engine, docker: &Docker, id: &str, container: &ContainerInspectResponse) -> Result<Observed, Error> {
    let state = container.state.clone().unwrap_or_default();
    let started_at = state.started_at.as_deref().and_then(time::parse);
    let finished_at = state.finished_at.as_deref().and_then(time::parse);
    Ok(Observed::Ended(End {
        outcome: outcome(engine, docker, id, container, &state, started_at).await?,
        run: started_at.zip(finished_at).and_then(|(start, finish)| (finish - start).to_std().ok()),
        max_memory_usage: engine.usage.peak_memory(id),
        cpu_usage_percent: started_at.and_then(|start| engine.usage.cpu_percent(id, start)),
        message: state.error.unwrap_or_default(),
    }))
}

async fn outcome(
    engine: &Engine,
    docker: &Docker,
    id: &str,
    container: &ContainerInspectResponse,
    state: &ContainerState,
    started_at: Option<DateTime<Utc>>,
) -> Result<Outcome, Error> {
    let failed = |class, message: String, exit_code| Outcome::Failed(Failure { exit_code, ..Failure::new(class, message) });
    let Some((code, exit_code)) = state.exit_code.and_then(|code| Some((code, i32::try_from(code).ok()?))) else {
        return Ok(failed(FailureClass::BackendError, "the engine names no exit code".into(), None));
    };
    // A container that lost one process to its limit and still ended with 0 has coped.
    if state.oom_killed == Some(true) && code != 0 {
        let limit = container.host_config.as_ref().and_then(|config| config.memory).filter(|limit| *limit > 0);
        let limit = limit.map(|limit| format!(" of {} MiB", limit >> 20)).unwrap_or_default();
        let message = format!("the kernel killed it at its memory limit{limit}");
        return Ok(failed(FailureClass::OomKilled, message, Some(exit_code)));
    }
    if restart::is_possible(code)
        && !engine.stops.has_asked(id)
        && let Some(started_at) = started_at
        && restart::is_younger(docker, id, started_at).await?
    {
        let message = format!("the engine was stopped while the container ran (exit code {code})");
        return Ok(failed(FailureClass::BackendError, message, None));
    }
    Ok(Outcome::Exited(exit_code))
}

/// Whether the container runs, for a reader that wants to know if more is to come.
pub(crate) async fn is_running(docker: &Docker, id: &str) -> Result<bool, Error> {
    let container = docker.inspect_container(id, None).await?;
    Ok(container.state.and_then(|state| state.running).unwrap_or(false))
}

