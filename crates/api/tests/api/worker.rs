//! A worker and a recorder by the store's functions alone: what they write is what the API shows.

use std::sync::Arc;

use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome, Token, WorkItem};
use gantry_core::{ExecutorType, HostId, JobId, TenantId, WorkerId};
use gantry_store::claims::{self, Request};
use gantry_store::hosts::{self, NewHost};
use gantry_store::lines::{self, Ask};
use gantry_store::logs::{self, Append, NewChunk, Position, Stream};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Scope, Store, reports, tenants};
use rust_decimal::Decimal;
use serde_json::json;

/// A live worker with one mock host.
pub(crate) struct Worker {
    store: Store,
    id: WorkerId,
    host: HostId,
}

/// A job that it runs.
pub(crate) struct Running {
    pub(crate) token: Token,
    tenant: TenantId,
    position: Position,
}

impl Worker {
    pub(crate) async fn start(store: &Store) -> Self {
        Self::start_at(store, "0", "0").await
    }

    /// One whose host has prices: for a start, and for an hour.
    pub(crate) async fn start_at(store: &Store, per_job: &str, per_hour: &str) -> Self {
        let price = |text: &str| text.parse::<Decimal>().expect("a number");
        let host = NewHost {
            tenant: None,
            name: "mock",
            executor_type: ExecutorType::Mock,
            connection_config: json!({}),
            executor_config: json!({}),
            max_concurrent_jobs: 10,
            cost_per_job: price(per_job),
            cost_per_hour: price(per_hour),
        };
        let host = hosts::insert(store, Scope::Fleet, &host).await.expect("stored");
        let worker = NewWorker {
            id: WorkerId::new(),
            executor_type: ExecutorType::Mock,
            name: "test",
            version: "0",
            reads_version: 1,
            lease_seconds: 3_600,
        };
        workers::register(store, &worker).await.expect("stored");
        let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
        workers::put_checks(store, worker.id, &[check]).await.expect("stored");
        Self { store: store.clone(), id: worker.id, host }
    }

    /// Dispatches and claims the one job that is pending.
    pub(crate) async fn claim(&self) -> Running {
        let standing = lines::standing(&self.store, ExecutorType::Mock).await.expect("lines");
        let asks: Vec<Ask> = standing.iter().map(|line| Ask { at: line.entrance(), jobs: 10, look: 10 }).collect();
        let served = lines::dispatch(&self.store, ExecutorType::Mock, &asks).await.expect("dispatched");
        let items: Vec<WorkItem> = served.into_iter().flat_map(|served| served.items).collect();
        let request = Request {
            worker: self.id,
            fleet: tenants::fleet(&self.store).await.expect("a fleet"),
            executor: ExecutorType::Mock,
            hosts: &[self.host],
            items: &items,
            alone: false,
            launch_follows: true,
        };
        let claimed = claims::claim(&self.store, &request).await.expect("claimed").claimed.pop().expect("a job");
        Running { token: claimed.token, tenant: claimed.tenant, position: Position::default() }
    }

    /// Stores chunks of a job's log, in one transaction.
    pub(crate) async fn log(&self, job: &mut Running, chunks: &[(Stream, &[u8])]) {
        let position = &mut job.position;
        let chunks = chunks.iter().map(|(stream, data)| {
            let bytes = match stream {
                Stream::Stdout => &mut position.stdout_bytes,
                Stream::Stderr => &mut position.stderr_bytes,
            };
            let byte_offset = *bytes;
            *bytes += i64::try_from(data.len()).expect("small");
            position.sequence += 1;
            NewChunk {
                stream: *stream,
                byte_offset,
                sequence: position.sequence,
                omitted_bytes: 0,
                data: data.to_vec().into(),
            }
        });
        let chunks = chunks.collect();
        let append = Append { token: job.token, tenant: job.tenant, chunks, position: job.position.clone() };
        logs::append(&self.store, self.id, &[Arc::new(append)]).await.expect("stored");
    }

    /// Records a job's end.
    pub(crate) async fn end(&self, job: &Running, exit_code: i32) {
        let ended = Ended {
            execution_id: Some("container".into()),
            run_millis: Some(1_500),
            startup_millis: Some(20),
            max_memory_usage: Some(4_096),
            cpu_usage_percent: Some(50.0),
            ..Ended::bare(ReportedOutcome::Exited { exit_code })
        };
        let report = Report { token: job.token, kind: ReportKind::Ended(ended), traceparent: None };
        let applied = reports::apply(&self.store, &[report], &|| 0.5).await.expect("applied");
        assert_eq!(applied.superseded, 0);
    }
}

impl Running {
    pub(crate) fn id(&self) -> JobId {
        self.token.job
    }
}
