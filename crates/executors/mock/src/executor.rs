//! The `Executor`: from a host to the engine of its directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use serde::Deserialize;

use crate::behaviour::Behaviour;
use crate::engine::{Engine, simulated, unreachable};

/// Runs simulated containers, see the crate's own words.
#[derive(Debug, Default)]
pub struct MockExecutor {
    engines: Mutex<HashMap<PathBuf, Arc<Engine>>>,
}

/// The `connection_config` of a host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Connection<'a> {
    /// The directory. Made by the first worker that looks, if only itself is missing.
    #[serde(borrow)]
    dir: &'a Path,
}

impl MockExecutor {
    /// An executor that has looked at nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn engine(&self, host: &Host) -> Result<Arc<Engine>, Failure> {
        let Connection { dir } = Connection::deserialize(&host.connection_config).map_err(|error| {
            let message =
                format!("connection_config of mock host {}: {error}; it is {{\"dir\": \"/path\"}}", host.name);
            Failure::new(FailureClass::HostUnreachable, message)
        })?;
        let mut engines = self.engines.lock().expect("nothing panics while it holds the engines");
        if let Some(engine) = engines.get(dir) {
            return Ok(Arc::clone(engine));
        }
        let engine = Arc::new(Engine::open(dir).map_err(|error| unreachable(&error))?);
        engines.insert(dir.to_owned(), Arc::clone(&engine));
        Ok(engine)
    }

    /// Drops an engine whose directory is gone or another, with all that is remembered of it.
    fn forget(&self, engine: &Arc<Engine>) {
        let mut engines = self.engines.lock().expect("nothing panics while it holds the engines");
        engines.retain(|_, known| !Arc::ptr_eq(known, engine));
    }
}

#[async_trait]
impl Executor for MockExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Mock
    }

    fn idempotence(&self) -> Idempotence {
        Idempotence::Forever
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        let mut engine = self.engine(host)?;
        if !engine.is_there() {
            self.forget(&engine);
            engine = self.engine(host)?;
        }
        let detail = format!("gantry mock {}", env!("CARGO_PKG_VERSION"));
        Ok(Health { identity: engine.identity().to_owned(), detail })
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        Behaviour::of(&host.executor_config, &spec.labels).map(drop)
    }

    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        let behaviour = Behaviour::of(&host.executor_config, &spec.labels)?;
        // Even a sleep of no time costs a tick of the timer.
        if !behaviour.prepare_delay.is_zero() {
            tokio::time::sleep(behaviour.prepare_delay).await;
        }
        match behaviour.fail.at_prepare() {
            Some(class) => Err(simulated(class)),
            None => Ok(String::new()),
        }
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let behaviour = Behaviour::of(&host.executor_config, &launch.spec.labels).map_err(LaunchError::NotLaunched)?;
        self.engine(host).map_err(LaunchError::NotLaunched)?.launch(launch, behaviour)
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        self.engine(host)?.observe(ids)
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        match self.engine(host) {
            Ok(engine) => engine.find(name),
            Err(failure) => Found::Unknown(failure.message),
        }
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        self.engine(host)?.logs(id, cursor, max_bytes)
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        self.engine(host)?.stop(id, grace)
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        self.engine(host)?.remove(id)
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        let engine = self.engine(host)?;
        tokio::task::spawn_blocking(move || engine.list_owned(fleet)).await.unwrap_or_else(|error| {
            Err(Failure::new(FailureClass::BackendError, format!("listing the containers was aborted: {error}")))
        })
    }

    async fn changed(&self, host: &Host, at_most: Duration) {
        match self.engine(host) {
            Ok(engine) => engine.changed(at_most).await,
            Err(_) => tokio::time::sleep(at_most).await,
        }
    }
}
