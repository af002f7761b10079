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

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use futures::FutureExt;
    use gantry_core::spec::Submission;
    use gantry_core::{HostId, JobId};
    use gantry_runtime::clock::{Manual, Monotonic};
    use tokio::time::Instant;

    const TTL: Duration = Duration::from_secs(18);
    const REQUEST: Duration = Duration::from_secs(6);

    /// A backend that notes what reaches it, and answers at once or never.
    #[derive(Default)]
    struct Backend {
        asked: Mutex<Vec<&'static str>>,
        hangs: bool,
    }

    impl Backend {
        async fn is_asked(&self, request: &'static str) {
            self.asked.lock().expect("not poisoned").push(request);
            if self.hangs {
                std::future::pending::<()>().await;
            }
        }

        fn asked(&self) -> Vec<&'static str> {
            self.asked.lock().expect("not poisoned").clone()
        }
    }

    fn id() -> ExecutionId {
        ExecutionId("c".into())
    }

    #[async_trait]
    impl Executor for Backend {
        fn executor_type(&self) -> ExecutorType {
            ExecutorType::Mock
        }

        fn idempotence(&self) -> Idempotence {
            Idempotence::Forever
        }

        fn validate(&self, _host: &Host, _spec: &ResolvedSpec) -> Result<(), Failure> {
            Ok(())
        }

        async fn check(&self, _host: &Host) -> Result<Health, Failure> {
            self.is_asked("check").await;
            Ok(Health { identity: String::new(), detail: String::new() })
        }

        async fn prepare(&self, _host: &Host, _spec: &ResolvedSpec) -> Result<String, Failure> {
            self.is_asked("prepare").await;
            Ok(String::new())
        }

        async fn launch(&self, _host: &Host, _launch: &Launch) -> Result<ExecutionId, LaunchError> {
            self.is_asked("launch").await;
            Ok(id())
        }

        async fn observe(&self, _host: &Host, _ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
            self.is_asked("observe").await;
            Ok(Vec::new())
        }

        async fn find(&self, _host: &Host, _name: &str) -> Found {
            self.is_asked("find").await;
            Found::Absent
        }

        async fn logs(
            &self,
            _host: &Host,
            _id: &ExecutionId,
            _cursor: Option<&LogCursor>,
            _max_bytes: usize,
        ) -> Result<LogPage, Failure> {
            self.is_asked("logs").await;
            Ok(LogPage { chunks: Vec::new(), cursor: None, more: false })
        }

        async fn stop(&self, _host: &Host, _id: &ExecutionId, _grace: Duration) -> Result<(), Failure> {
            self.is_asked("stop").await;
            Ok(())
        }

        async fn remove(&self, _host: &Host, _id: &ExecutionId) -> Result<(), Failure> {
            self.is_asked("remove").await;
            Ok(())
        }

        async fn list_owned(&self, _host: &Host, _fleet: FleetId) -> Result<Vec<Owned>, Failure> {
            self.is_asked("list_owned").await;
            Ok(Vec::new())
        }
    }

    /// A backend behind a lease that was renewed just now, and the lease with its clock.
    fn guarded(hangs: bool) -> (Arc<Backend>, Guarded, Manual, Lease) {
        let clock = Manual::default();
        let lease = Lease::new(Arc::new(clock.clone()), clock.now(), TTL, REQUEST);
        let backend = Arc::new(Backend { hangs, ..Backend::default() });
        (backend.clone(), Guarded::new(backend, lease.clone()), clock, lease)
    }

    fn host() -> Host {
        Host {
            id: HostId::new(),
            name: "h".into(),
            executor_type: ExecutorType::Mock,
            connection_config: serde_json::json!({}),
            executor_config: serde_json::json!({}),
        }
    }

    fn a_launch() -> Launch {
        let container = Submission::decode(br#"{"spec": {"image": "i"}}"#).expect("valid").spec.expect("inline");
        let spec = ResolvedSpec { container, labels: Default::default(), traceparent: None, tenant: None };
        Launch { name: "g-1".into(), fleet: FleetId::new(), job: JobId::new(), attempt: 1, spec }
    }

    #[tokio::test]
    async fn nothing_is_changed_without_a_lease_and_each_request_is_sent_once_with_it() {
        let (backend, guarded, clock, lease) = guarded(false);
        let (host, launch, id, draining) = (host(), a_launch(), id(), CancellationToken::new());
        clock.advance(TTL - REQUEST);
        let mut launched = pin!(guarded.launch(&host, &launch, &draining));
        let mut stopped = pin!(guarded.stop(&host, &id, Duration::ZERO));
        let mut removed = pin!(guarded.remove(&host, &id));
        assert_eq!(launched.as_mut().now_or_never(), None);
        assert_eq!(stopped.as_mut().now_or_never(), None);
        assert_eq!(removed.as_mut().now_or_never(), None);
        assert!(backend.asked().is_empty(), "{:?}", backend.asked());

        // What only asks, and what a second owner would not mind.
        assert_eq!(guarded.find(&host, &launch.name).await, Found::Absent);
        assert_eq!(guarded.observe(&host, std::slice::from_ref(&id)).await, Ok(Vec::new()));
        assert_eq!(guarded.prepare(&host, &launch.spec).await, Ok(String::new()));
        assert_eq!(backend.asked(), ["find", "observe", "prepare"]);

        lease.renew(clock.now());
        assert_eq!(launched.now_or_never(), Some(Some(Ok(id.clone()))));
        assert_eq!(stopped.now_or_never(), Some(Ok(())));
        assert_eq!(removed.now_or_never(), Some(Ok(())));
        assert_eq!(backend.asked()[3..], ["launch", "stop", "remove"]);
    }

    #[tokio::test]
    async fn a_launch_that_waits_for_the_lease_is_not_sent_once_the_worker_drains() {
        let (backend, guarded, clock, lease) = guarded(false);
        let (host, launch, draining) = (host(), a_launch(), CancellationToken::new());
        clock.advance(TTL - REQUEST);
        let mut launched = pin!(guarded.launch(&host, &launch, &draining));
        assert_eq!(launched.as_mut().now_or_never(), None);
        draining.cancel();
        lease.renew(clock.now());
        assert_eq!(launched.now_or_never(), Some(None));
        assert!(backend.asked().is_empty(), "{:?}", backend.asked());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_answered_ends_before_the_lease_does() {
        let (backend, guarded, _clock, _lease) = guarded(true);
        let (host, launch, id, draining) = (host(), a_launch(), id(), CancellationToken::new());
        // Timers are exact to a millisecond.
        let took = |began: Instant| (REQUEST..REQUEST + Duration::from_millis(10)).contains(&began.elapsed());
        let began = Instant::now();
        let launched = guarded.launch(&host, &launch, &draining).await;
        assert!(matches!(launched, Some(Err(LaunchError::MaybeLaunched(_)))), "{launched:?}");
        assert!(took(began), "{:?}", began.elapsed());
        let began = Instant::now();
        let stopped = guarded.stop(&host, &id, Duration::ZERO).await.map_err(|failure| failure.class);
        assert_eq!(stopped, Err(FailureClass::HostUnreachable));
        assert!(took(began), "{:?}", began.elapsed());
        let began = Instant::now();
        let removed = guarded.remove(&host, &id).await.map_err(|failure| failure.class);
        assert_eq!(removed, Err(FailureClass::HostUnreachable));
        assert!(took(began), "{:?}", began.elapsed());
        assert_eq!(backend.asked(), ["launch", "stop", "remove"]);
    }
}
