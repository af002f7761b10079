//! The states of containers, many at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerStateStatusEnum as Status, ContainerSummaryStateEnum as Listed};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures::StreamExt;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, Observed};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;
use crate::{end, error, labels, usage};

/// Up to so many containers are asked for one by one: that is cheaper than a list of all.
const FEW: usize = 4;
/// Requests at a time.
const CONCURRENCY: usize = 8;
/// How long a look waits for the engine to tell of one container. An answer that comes later is there for the next look.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn observe(
    engine: &Arc<Engine>,
    ids: &[ExecutionId],
) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
    let docker = &engine.docker().await?;
    let mut alive = if ids.len() > FEW { list_alive(engine, docker).await? } else { HashMap::new() };
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
        .map(|id| async move { (engine.asks.state(engine, docker, &id).await, id) })
        .buffer_unordered(CONCURRENCY);
    let mut silent = None;
    while let Some((state, id)) = answers.next().await {
        match state {
            Some(Ok(state)) => states.push((id, state)),
            // The engine has trouble with this one container; the others are not to suffer.
            Some(Err(error)) if error::answer(&error).is_some() => {
                tracing::warn!(container.id = %id, error = error::text(&error), "cannot inspect a container");
            }
            Some(Err(error)) => silent = Some(error::failure("inspect", &error)),
            None => {
                let message = format!("inspect: no answer for {id} yet");
                silent = Some(Failure::new(FailureClass::HostUnreachable, message));
            }
        }
    }
    if let Some(failure) = silent {
        if states.is_empty() {
            return Err(failure);
        }
        tracing::warn!(%failure, "the engine does not tell of a container, but of others");
    }
    let running = states.iter().filter(|(_, state)| *state == Observed::Running);
    usage::sample(engine, docker, &running.map(|(id, _)| id.0.clone()).collect::<Vec<_>>());
    Ok(states)
}

/// Questions about single containers that the engine has not answered yet: it keeps a container locked while it works on
/// it and asks containerd meanwhile, which may hang. One that is asked about is not asked about again.
#[derive(Default)]
pub(crate) struct Asks(Mutex<HashMap<ExecutionId, Ask>>);

type Ask = AbortOnDropHandle<Result<Observed, Error>>;

impl Asks {
    /// None while there is no answer. The client itself gives up after a while.
    async fn state(&self, engine: &Arc<Engine>, docker: &Docker, id: &ExecutionId) -> Option<Result<Observed, Error>> {
        let (mut ask, patience) = match self.lock().remove(id) {
            // It was waited for when it was asked.
            Some(ask) => (ask, Duration::ZERO),
            None => {
                let (engine, docker, id) = (Arc::clone(engine), docker.clone(), id.clone());
                let asked = tokio::spawn(async move { inspect(&engine, &docker, &id).await });
                (AbortOnDropHandle::new(asked), PATIENCE)
            }
        };
        match timeout(patience, &mut ask).await {
            // Nothing in it panics; if it did, it is asked again.
            Ok(answer) => answer.ok(),
            Err(_) => {
                self.lock().insert(id.clone(), ask);
                None
            }
        }
    }

    /// Nobody wants to know any more.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(&ExecutionId(id.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecutionId, Ask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gantry's containers that have not ended, by id.
async fn list_alive(engine: &Engine, docker: &Docker) -> Result<HashMap<String, Observed>, Failure> {
    let filters =
        HashMap::from([("label", vec![labels::FLEET]), ("status", vec!["created", "running", "paused", "restarting"])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = docker.list_containers(Some(options)).await.map_err(|error| error::failure("list", &error))?;
    let state = |id: &str, listed| match listed {
        Some(Listed::CREATED) => Some(engine.doubts.created(id)),
        Some(Listed::RUNNING | Listed::PAUSED | Listed::RESTARTING) => Some(Observed::Running),
        _ => None,
    };
    let states = listed.into_iter().filter_map(|container| {
        let id = container.id?;
        let state = state(&id, container.state)?;
        Some((id, state))
    });
    Ok(states.collect())
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
        Some(Status::CREATED) => Ok(engine.doubts.created(&id.0)),
        Some(Status::EXITED | Status::DEAD | Status::REMOVING) => {
            Ok(Observed::Ended(end::of(engine, docker, &id.0, &container).await?))
        }
        _ => Ok(Observed::Running),
    }
}

/// Whether the container runs, for a reader that wants to know if more is to come.
pub(crate) async fn is_running(docker: &Docker, id: &str) -> Result<bool, Error> {
    let container = docker.inspect_container(id, None).await?;
    Ok(container.state.and_then(|state| state.running).unwrap_or(false))
}
