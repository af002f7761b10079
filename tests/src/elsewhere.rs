//! Simulated containers under the name of another executor type: a second place for tests of what goes from one to
//! another.

#![expect(clippy::disallowed_methods, reason = "hands each request on as it came, from the engine's own guard")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId, HostId};
use gantry_executor_mock::MockExecutor;
use gantry_worker::Settings;
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{Fleet, Part};

/// A mock that goes by another name.
struct Elsewhere {
    name: ExecutorType,
    mock: MockExecutor,
    /// So many launches are throttled before the first is not.
    throttled: AtomicU32,
    /// States and logs are asked for over one line, one at a time.
    line: Mutex<()>,
    /// How long a page of a log occupies it.
    page_takes: Duration,
}

impl Fleet {
    /// A host of another executor type, on the fleet's own engine of simulated containers; `config` is the mock's.
    pub async fn host_elsewhere(&self, name: ExecutorType, config: Value) -> HostId {
        self.host(None, name, json!({ "dir": self.folder() }), config, 100).await
    }

    /// Starts a worker of another executor type, which throttles its first launches.
    pub fn worker_elsewhere(&self, name: ExecutorType, settings: Settings, throttled: u32) -> Part {
        self.elsewhere(name, settings, throttled, Duration::ZERO)
    }

    /// Starts a worker of another executor type, which reads each page of a log for so long.
    pub fn slow_reader_elsewhere(&self, name: ExecutorType, settings: Settings, page_takes: Duration) -> Part {
        self.elsewhere(name, settings, 0, page_takes)
    }

    fn elsewhere(&self, name: ExecutorType, settings: Settings, throttled: u32, page_takes: Duration) -> Part {
        let (mock, throttled) = (MockExecutor::new(), AtomicU32::new(throttled));
        let executor = Elsewhere { name, mock, throttled, line: Mutex::default(), page_takes };
        self.worker(name.as_str(), settings, move || Arc::new(executor))
    }
}

#[async_trait]
impl Executor for Elsewhere {
    fn executor_type(&self) -> ExecutorType {
        self.name
    }

    fn idempotence(&self) -> Idempotence {
        self.mock.idempotence()
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        self.mock.check(host).await
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        self.mock.validate(host, spec)
    }

    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        self.mock.prepare(host, spec).await
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let less = |left: u32| left.checked_sub(1);
        if self.throttled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return Err(LaunchError::NotLaunched(Failure::new(FailureClass::Throttled, "too many requests")));
        }
        self.mock.launch(host, launch).await
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        let _line = self.line.lock().await;
        self.mock.observe(host, ids).await
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        self.mock.find(host, name).await
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        let _line = self.line.lock().await;
        tokio::time::sleep(self.page_takes).await;
        self.mock.logs(host, id, cursor, max_bytes).await
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        self.mock.stop(host, id, grace).await
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        self.mock.remove(host, id).await
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        self.mock.list_owned(host, fleet).await
    }

    async fn changed(&self, host: &Host, at_most: Duration) {
        self.mock.changed(host, at_most).await;
    }
}
