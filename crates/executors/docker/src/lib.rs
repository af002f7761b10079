//! Runs jobs as containers of a Docker Engine.

mod changes;
mod config;
mod create;
mod engine;
mod error;
mod image;
mod labels;
mod launch;
mod lines;
mod logs;
mod observe;
mod restart;
mod stop;
mod time;
mod usage;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::SystemInfo;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
pub use config::{Connection, Options, PullPolicy};
use engine::Engines;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};

/// The executor of type `docker`. One serves any number of hosts, and keeps one client for each.
#[derive(Default)]
pub struct DockerExecutor {
    engines: Engines,
}

impl DockerExecutor {
    /// An executor that has not connected to anything yet.
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Executor for DockerExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Docker
    }

    fn idempotence(&self) -> Idempotence {
        Idempotence::Forever
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        Options::of(host)?;
        let engine = self.engines.of(host)?;
        let info = engine.docker().await?.info().await.map_err(|error| error::failure("info", &error))?;
        health(&info)
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        Options::of(host)?.validate(&spec.container)
    }

    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        let policy = Options::of(host)?.pull_policy;
        image::ensure(&self.engines.of(host)?, policy, &spec.container.image).await
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let options = Options::of(host).map_err(LaunchError::NotLaunched)?;
        let engine = self.engines.of(host).map_err(LaunchError::NotLaunched)?;
        launch::launch(&engine, &options, launch).await
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        observe::observe(&self.engines.of(host)?, ids).await
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        let found = async {
            let engine = self.engines.of(host)?;
            match engine.docker().await?.inspect_container(name, None).await {
                Ok(container) => Ok(Some(container)),
                Err(error) if error::no_such_container(&error) => Ok(None),
                Err(error) => Err(error::failure("inspect", &error)),
            }
        };
        let container = match found.await {
            Ok(Some(container)) => container,
            Ok(None) => return Found::Absent,
            Err(failure) => return Found::Unknown(failure.to_string()),
        };
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        match (container.id, labels::attempt(&labels)) {
            (Some(id), Some(_)) => Found::Found(ExecutionId(id)),
            _ => Found::Unknown(format!("a container that is not Gantry's has the name {name}")),
        }
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        logs::page(self.engines.of(host)?.as_ref(), id, cursor, max_bytes).await
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        stop::stop(&self.engines.of(host)?, &id.0, grace).await
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        let engine = self.engines.of(host)?;
        let volumes_too = RemoveContainerOptionsBuilder::new().v(true).build();
        let removed = engine.docker().await?.remove_container(&id.0, Some(volumes_too)).await;
        match removed {
            Ok(()) => {}
            Err(error) if error::no_such_container(&error) => {}
            Err(error) if matches!(error::answer(&error), Some((409, text)) if text.contains("already in progress")) => {}
            Err(error) => return Err(error::failure("remove", &error)),
        }
        engine.forget(&id.0);
        Ok(())
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        let engine = self.engines.of(host)?;
        let filters = HashMap::from([("label", vec![format!("{}={fleet}", labels::FLEET)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = engine.docker().await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| error::failure("list", &error))?;
        Ok(listed.into_iter().filter_map(owned).collect())
    }

    async fn changed(&self, host: &Host, at_most: Duration) {
        match self.engines.of(host) {
            Ok(engine) => changes::wait(&engine, at_most).await,
            Err(_) => tokio::time::sleep(at_most).await,
        }
    }
}

/// The engine's id alone would not do: it lies in a file that is copied along with a machine's image, and that
/// two engines on one machine share.
fn health(info: &SystemInfo) -> Result<Health, Failure> {
    let (Some(id), Some(name), Some(root)) = (&info.id, &info.name, &info.docker_root_dir) else {
        return Err(Failure::new(FailureClass::BackendError, "info: the engine does not say which one it is"));
    };
    let version = info.server_version.as_deref().unwrap_or("of unknown version");
    let cpus = info.ncpu.unwrap_or_default();
    let memory = info.mem_total.unwrap_or_default() >> 20;
    Ok(Health {
        identity: format!("{id}/{name}{root}"),
        detail: format!("Docker {version} on {name}: {cpus} CPUs, {memory} MiB of memory"),
    })
}

fn owned(container: bollard::models::ContainerSummary) -> Option<Owned> {
    use bollard::models::ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
    let (job, attempt) = labels::attempt(container.labels.as_ref()?)?;
    let name = container.names?.into_iter().next()?;
    Some(Owned {
        id: ExecutionId(container.id?),
        name: name.trim_start_matches('/').to_owned(),
        job,
        attempt,
        running: matches!(container.state, Some(RUNNING | PAUSED | RESTARTING)),
    })
}
