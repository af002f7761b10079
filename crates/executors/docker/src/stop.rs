//! Asking a container to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::StopContainerOptionsBuilder;
use gantry_core::Failure;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::error;

/// How long to wait for a refusal. The engine answers a stop only once the container has ended, but an engine
/// that is away, and a container that is gone, show at once.
const REFUSAL: Duration = Duration::from_millis(300);
/// How much longer than the grace the engine may take to kill.
const KILL: Duration = Duration::from_secs(30);

/// The containers that this process asked to end.
#[derive(Default)]
pub(crate) struct Stops(Mutex<HashMap<String, Progress>>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The engine has the request, with this grace. The same again would be a second SIGTERM, which some
    /// programs take as "at once".
    UnderWay(Duration),
    /// The request is over, whatever became of it.
    Asked,
}

impl Stops {
    /// Whether this process asked the container to end.
    pub(crate) fn has_asked(&self, id: &str) -> bool {
        self.lock().contains_key(id)
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Whether to send a request: not while one is under way that gives no more grace.
    fn begin(&self, id: &str, grace: Duration) -> bool {
        let mut stops = self.lock();
        if matches!(stops.get(id), Some(Progress::UnderWay(before)) if *before <= grace) {
            return false;
        }
        stops.insert(id.to_owned(), Progress::UnderWay(grace));
        true
    }

    fn end(&self, id: &str) {
        // Only if it is still there: a removed container is forgotten for good.
        self.lock().entry(id.to_owned()).and_modify(|progress| *progress = Progress::Asked);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGTERM (or the image's own stop signal), `grace`, SIGKILL: done by the engine, also when this process is
/// gone before.
pub(crate) async fn stop(engine: &Arc<Engine>, id: &str, grace: Duration) -> Result<(), Failure> {
    let docker = engine.docker().await?.with_timeout(grace + KILL);
    if !engine.stops.begin(id, grace) {
        return Ok(());
    }
    let request = send(Arc::clone(engine), docker, id.to_owned(), grace);
    match tokio::time::timeout(REFUSAL, request).await {
        Ok(Ok(Err(error))) if !is_over(&error) => Err(error::failure("stop", &error)),
        // Ended, gone, or asked and not over yet; a task that was cancelled is a process that ends.
        _ => Ok(()),
    }
}

/// A task of its own, because dropping the caller's future must not take back the request.
fn send(engine: Arc<Engine>, docker: Docker, id: String, grace: Duration) -> JoinHandle<Result<(), Error>> {
    // The engine takes whole seconds; a shorter grace is rounded up, so that it is one.
    let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
    let options = StopContainerOptionsBuilder::new().t(seconds).build();
    tokio::spawn(async move {
        let answer = docker.stop_container(&id, Some(options)).await;
        engine.stops.end(&id);
        answer
    })
}

fn is_over(error: &Error) -> bool {
    error::no_such_container(error)
}
