//! Create, then start only what was never started.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum as Status};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, Launch, LaunchError};

use crate::config::Options;
use crate::engine::Engine;
use crate::{create, doubts, error, labels};

/// How often a container is looked for whose name is taken, and how long between.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Creates and starts the container, or adopts the one that has its name.
///
/// One name is one container: the engine refuses a second one, and a container is started only from state
/// `created`, by whoever created it or on an engine that has been up since ([`doubts`]). So launching again is harmless for as long as the container exists, also after a launch that
/// ended between the two requests.
pub(crate) async fn launch(engine: &Engine, options: &Options, launch: &Launch) -> Result<ExecutionId, LaunchError> {
    options.validate(&launch.spec.container).map_err(LaunchError::NotLaunched)?;
    let docker = &engine.docker().await.map_err(LaunchError::NotLaunched)?;
    let named = CreateContainerOptionsBuilder::new().name(&launch.name).build();
    let error = match docker.create_container(Some(named), create::body(options, launch)).await {
        Ok(created) => return start(engine, docker, created.id).await,
        Err(error) => error,
    };
    match error::answer(&error) {
        Some((409, _)) => adopt(engine, docker, launch).await,
        // The engine has failed on the way, and is done with it: what it left is what there is.
        Some((500, _)) => match docker.inspect_container(&launch.name, None).await {
            Err(absent) if error::no_such_container(&absent) => Err(not_created(&error, failed_class(engine, &error))),
            _ => adopt(engine, docker, launch).await,
        },
        Some((400, _)) => Err(not_created(&error, FailureClass::InvalidSpec)),
        Some((404, message)) if message.contains("No such image") => {
            engine.images.forget(&launch.spec.container.image);
            Err(not_created(&error, FailureClass::ImageNotFound))
        }
        Some((429, _)) => Err(not_created(&error, FailureClass::Throttled)),
        Some((401..=407, _)) => Err(not_created(&error, FailureClass::LaunchRejected)),
        None if error::never_sent(&error) => Err(not_created(&error, FailureClass::HostUnreachable)),
        // No answer, or one that is not the engine's own: the request may still arrive.
        _ => Err(maybe("create", &error)),
    }
}

fn not_created(error: &Error, class: FailureClass) -> LaunchError {
    LaunchError::NotLaunched(Failure::new(class, format!("create: {}", error::text(error))))
}

/// The name is taken: by this very attempt, unless somebody else uses our names.
async fn adopt(engine: &Engine, docker: &Docker, launch: &Launch) -> Result<ExecutionId, LaunchError> {
    let found = by_name(docker, &launch.name).await;
    let found = found.map_err(|error| maybe("inspect the container that has the name", &error))?;
    let own = found.config.as_ref().and_then(|config| config.labels.as_ref());
    if !own.is_some_and(|own| labels::belong_to(own, launch)) {
        let message = format!("a container that is not this attempt's has the name {}", launch.name);
        return Err(LaunchError::NotLaunched(Failure::new(FailureClass::LaunchRejected, message)));
    }
    let status = status(&found);
    let id = found.id.ok_or_else(|| LaunchError::MaybeLaunched("a container without an id has the name".into()))?;
    match status {
        Some(Status::CREATED) => match doubts::has_been_up_since_creation(docker, &id).await {
            Ok(true) => start(engine, docker, id).await,
            // An earlier launch may have started it: it is not started again, and is seen as lost.
            Ok(false) => {
                engine.doubts.add(&id);
                Ok(ExecutionId(id))
            }
            Err(error) => Err(maybe("ask for the container's creation", &error)),
        },
        Some(Status::REMOVING) => Err(LaunchError::MaybeLaunched("the container is being removed".into())),
        _ => Ok(ExecutionId(id)),
    }
}

/// A name is taken a moment before its container can be seen. One that never comes to be seen was removed, and
/// is not created again: it may have run.
async fn by_name(docker: &Docker, name: &str) -> Result<ContainerInspectResponse, Error> {
    for _ in 0..LOOKS {
        match docker.inspect_container(name, None).await {
            Err(error) if error::no_such_container(&error) => tokio::time::sleep(BETWEEN_LOOKS).await,
            answer => return answer,
        }
    }
    docker.inspect_container(name, None).await
}

async fn start(engine: &Engine, docker: &Docker, id: String) -> Result<ExecutionId, LaunchError> {
    let Err(refused) = docker.start_container(&id, None).await else {
        return Ok(ExecutionId(id));
    };
    if error::answer(&refused).is_none() {
        return Err(maybe("start", &refused));
    }
    // An answer is no proof that nothing runs; the container's state is.
    match docker.inspect_container(&id, None).await {
        Ok(container) if status(&container) == Some(Status::CREATED) => {
            Err(LaunchError::NotLaunched(reject(engine, docker, &id, &refused).await))
        }
        Ok(_) => Ok(ExecutionId(id)),
        Err(error) => Err(maybe("inspect after a start that failed", &error)),
    }
}

/// The container exists, the engine refuses to start it, and it never ran. It is removed, so that a repeated
/// launch creates it anew. When the removal fails it stays as it is: nobody starts it but a launch of this same
/// attempt, and the reaper finds it by its labels.
async fn reject(engine: &Engine, docker: &Docker, id: &str, refused: &Error) -> Failure {
    let volumes_too = RemoveContainerOptionsBuilder::new().v(true).build();
    let mut failure = Failure::new(failed_class(engine, refused), format!("start: {}", error::text(refused)));
    if let Err(kept) = docker.remove_container(id, Some(volumes_too)).await
        && !error::no_such_container(&kept)
    {
        failure.message = format!("{} (and the created container stays: {})", failure.message, error::text(&kept));
    }
    failure
}

/// Whose fault it is that the engine fails with a container: the job's, if what it names cannot be run.
fn failed_class(engine: &Engine, refused: &Error) -> FailureClass {
    const JOBS_OWN: [&str; 7] = [
        "executable file not found",
        "no such file or directory",
        "permission denied",
        "not a directory",
        "is a directory",
        "exec format error",
        "unable to find user",
    ];
    match error::answer(refused) {
        Some((400 | 403 | 404, _)) => FailureClass::LaunchRejected,
        Some((429, _)) => FailureClass::Throttled,
        Some((_, message)) if let Some(full) = engine.disk.class_of(message) => full,
        Some((_, message)) if JOBS_OWN.iter().any(|own| message.contains(own)) => FailureClass::LaunchRejected,
        _ => FailureClass::BackendError,
    }
}

fn status(container: &ContainerInspectResponse) -> Option<Status> {
    container.state.as_ref()?.status
}

fn maybe(what: &str, error: &Error) -> LaunchError {
    LaunchError::MaybeLaunched(format!("{what}: {}", error::text(error)))
}
