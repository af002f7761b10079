//! The only way to a backend: mutating requests wait for the lease and are bounded by it, reads are bounded too.

#![expect(clippy::disallowed_methods, reason = "the one way to a backend, between its failpoints")]

use std::sync::Arc;
use std::time::Duration;

use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId};
use gantry_failpoint::around;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use crate::lease::Lease;

/// How long a read may take: no lease is at stake, but nothing may hang.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// An executor behind the lease.
#[derive(Clone)]
pub(crate) struct Guarded {
    executor: Arc<dyn Executor>,
    lease: Lease,
}

impl Guarded {
    pub(crate) fn new(executor: Arc<dyn Executor>, lease: Lease) -> Self {
        Self { executor, lease }
    }

    pub(crate) fn executor_type(&self) -> ExecutorType {
        self.executor.executor_type()
    }

    pub(crate) fn idempotence(&self) -> Idempotence {
        self.executor.idempotence()
    }

    pub(crate) fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        self.executor.validate(host, spec)
    }

    /// Not bounded: the launch deadline is, and no lease is needed.
    pub(crate) async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        around("executor", "prepare", self.executor.prepare(host, spec)).await
    }

    /// None if `draining` came before the request could be sent.
    pub(crate) async fn launch(
        &self,
        host: &Host,
        launch: &Launch,
        draining: &CancellationToken,
    ) -> Option<Result<ExecutionId, LaunchError>> {
        let limit = tokio::select! {
            biased;
            () = draining.cancelled() => return None,
            limit = self.lease.permit() => limit,
        };
        let launched = around("executor", "launch", timeout(limit, self.executor.launch(host, launch))).await;
        Some(launched.unwrap_or_else(|_| {
            Err(LaunchError::MaybeLaunched(format!("the backend did not answer the launch within {limit:?}")))
        }))
    }

    pub(crate) async fn stop(&self, host: &Host, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        let limit = self.lease.permit().await;
        bounded("stop", limit, self.executor.stop(host, id, grace)).await
    }

    pub(crate) async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        let limit = self.lease.permit().await;
        bounded("remove", limit, self.executor.remove(host, id)).await
    }

    pub(crate) async fn check(&self, host: &Host) -> Result<Health, Failure> {
        bounded("check", READ_TIMEOUT, self.executor.check(host)).await
    }

    pub(crate) async fn identity(&self, host: &Host) -> Result<String, Failure> {
        // The same question as `check`, and the same point.
        bounded("check", READ_TIMEOUT, self.executor.identity(host)).await
    }

    pub(crate) async fn observe(
        &self,
        host: &Host,
        ids: &[ExecutionId],
    ) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        bounded("observe", READ_TIMEOUT, self.executor.observe(host, ids)).await
    }

    pub(crate) async fn find(&self, host: &Host, name: &str) -> Found {
        around("executor", "find", timeout(READ_TIMEOUT, self.executor.find(host, name)))
            .await
            .unwrap_or_else(|_| Found::Unknown(format!("the backend did not answer within {READ_TIMEOUT:?}")))
    }

    pub(crate) async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        bounded("logs", READ_TIMEOUT, self.executor.logs(host, id, cursor, max_bytes)).await
    }

    pub(crate) async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        bounded("list_owned", READ_TIMEOUT, self.executor.list_owned(host, fleet)).await
    }

    pub(crate) async fn changed(&self, host: &Host, at_most: Duration) {
        around("executor", "changed", self.executor.changed(host, at_most)).await;
    }
}

async fn bounded<T>(
    name: &str,
    limit: Duration,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    around("executor", name, timeout(limit, request)).await.unwrap_or_else(|_| {
        Err(Failure::new(FailureClass::HostUnreachable, format!("the backend did not answer within {limit:?}")))
    })
}
