//! The `Executor`: from a host to the engine of its directory.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId, HostId, JobId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use serde::Deserialize;
use serde_json::Value;

use crate::behaviour::Behaviour;
use crate::engine::{Engine, simulated, unreachable};
use crate::faults::Fault;

/// Runs simulated containers, see the crate's own words.
#[derive(Debug)]
pub struct MockExecutor {
    idempotence: Idempotence,
    engines: Mutex<Engines>,
}

/// The engines that are open.
#[derive(Debug, Default)]
struct Engines {
    by_dir: HashMap<PathBuf, Arc<Engine>>,
    /// With the `connection_config` that led there: each container asks for its host's half a dozen times.
    by_host: HashMap<HostId, (Value, Arc<Engine>)>,
}

/// The environment variable of [`MockExecutor::from_env`].
const IDEMPOTENCE: &str = "GANTRY_MOCK_IDEMPOTENCE";

/// A setting of the process that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{IDEMPOTENCE} must be forever, never, or a time such as 24h, not {text:?}")]
pub struct Misconfigured {
    text: String,
}

fn idempotence(text: &str) -> Result<Idempotence, Misconfigured> {
    match text {
        "forever" => Ok(Idempotence::Forever),
        "never" => Ok(Idempotence::Never),
        time => {
            humantime::parse_duration(time).map(Idempotence::For).map_err(|_| Misconfigured { text: text.to_owned() })
        }
    }
}

/// The fault that an attempt meets on a host with this `executor_config`, with these labels; for producers' tests that
/// want to know beforehand. A job whose label `mock.key` is set meets the same whatever its id. `invalid_spec` if a key
/// or a value makes no sense.
pub fn fault(
    executor_config: &Value,
    labels: &BTreeMap<String, String>,
    job: JobId,
    attempt: i32,
) -> Result<Option<Fault>, Failure> {
    Ok(Behaviour::of(executor_config, labels)?.settle(job, attempt))
}

/// The `connection_config` of a host.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Connection<'a> {
    /// The directory. Made by the first worker that looks, if only itself is missing.
    #[serde(borrow)]
    dir: &'a Path,
}

impl Default for MockExecutor {
    fn default() -> Self {
        Self::new()
    }
}

impl MockExecutor {
    /// An executor that has looked at nothing yet. A launch under one name is idempotent for ever.
    pub fn new() -> Self {
        Self { idempotence: Idempotence::Forever, engines: Mutex::default() }
    }

    /// The same, with launches that are idempotent for another time, as they are in a cloud.
    #[must_use]
    pub fn with_idempotence(self, idempotence: Idempotence) -> Self {
        Self { idempotence, ..self }
    }

    /// The executor of a process: `GANTRY_MOCK_IDEMPOTENCE` is `forever` (if it is not set), `never`, or a time such
    /// as `24h`. A setting of the process, because it is a trait of the backend and not of a host.
    pub fn from_env() -> Result<Self, Misconfigured> {
        let Some(text) = std::env::var_os(IDEMPOTENCE) else { return Ok(Self::new()) };
        Ok(Self::new().with_idempotence(idempotence(&text.to_string_lossy())?))
    }

    fn engine(&self, host: &Host) -> Result<Arc<Engine>, Failure> {
        let mut engines = self.engines();
        if let Some((config, engine)) = engines.by_host.get(&host.id)
            && *config == host.connection_config
        {
            return Ok(Arc::clone(engine));
        }
        let Connection { dir } = Connection::deserialize(&host.connection_config).map_err(|error| {
            let message =
                format!("connection_config of mock host {}: {error}; it is {{\"dir\": \"/path\"}}", host.name);
            Failure::new(FailureClass::HostUnreachable, message)
        })?;
        let known = engines.by_dir.get(dir).cloned();
        let engine = match known {
            Some(engine) => engine,
            None => {
                let engine = Arc::new(Engine::open(dir, self.idempotence).map_err(|error| unreachable(&error))?);
                engines.by_dir.insert(dir.to_owned(), Arc::clone(&engine));
                engine
            }
        };
        engines.by_host.insert(host.id, (host.connection_config.clone(), Arc::clone(&engine)));
        Ok(engine)
    }

    /// Drops an engine whose directory is gone or another, with all that is remembered of it.
    fn forget(&self, engine: &Arc<Engine>) {
        let mut engines = self.engines();
        engines.by_dir.retain(|_, known| !Arc::ptr_eq(known, engine));
        engines.by_host.retain(|_, (_, known)| !Arc::ptr_eq(known, engine));
    }

    fn engines(&self) -> MutexGuard<'_, Engines> {
        self.engines.lock().expect("nothing panics while it holds the engines")
    }
}

#[async_trait]
impl Executor for MockExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Mock
    }

    fn idempotence(&self) -> Idempotence {
        self.idempotence
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        let mut engine = self.engine(host)?;
        if !engine.is_there() {
            self.forget(&engine);
            engine = self.engine(host)?;
        }
        let behaviour = Behaviour::of(&host.executor_config, &BTreeMap::new())?;
        if let Some(class) = behaviour.sick {
            return Err(simulated(class));
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
        match behaviour.fail.certain().and_then(Fault::at_prepare) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotence_is_read_or_refused() {
        assert_eq!(idempotence("forever"), Ok(Idempotence::Forever));
        assert_eq!(idempotence("never"), Ok(Idempotence::Never));
        assert_eq!(idempotence("24h"), Ok(Idempotence::For(Duration::from_secs(24 * 3600))));
        let message = idempotence("sometimes").expect_err("no time").to_string();
        assert!(message.starts_with("GANTRY_MOCK_IDEMPOTENCE must be forever, never,"), "{message}");
    }
}
