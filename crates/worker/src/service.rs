//! A worker from its registration to its hand-over.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use gantry_broker::{Broker, Peers};
use gantry_core::{ExecutorType, WorkerId};
use gantry_runtime::Shutdown;
use gantry_runtime::clock::{Boottime, Monotonic};
use gantry_store::workers::{self, NewWorker};
use gantry_store::{Error, Store, tenants};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Settings;
use crate::engine::{self, Engine, Writes};
use crate::executor::{Executor, Idempotence};
use crate::guard::Guarded;
use crate::hosts::{self, Hosts};
use crate::lease::Lease;
use crate::registry::Registry;
use crate::{beat, reap, receive};

/// The highest version of fleet messages that this worker reads.
const READS_VERSION: i32 = 1;
/// How long ended attempts may take to get their reports confirmed before the worker hands over without.
const FINISH: Duration = Duration::from_millis(1_500);
/// How long the first checks of the hosts hold up the first claim.
const FIRST_CHECKS: Duration = Duration::from_secs(3);
/// How long requests may take to be answered before a hand-over whose successor would find their effect anyway.
const REQUESTS: Duration = Duration::from_secs(2);
/// How long to wait before what is away is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// A worker, ready to run.
pub struct Service {
    store: Store,
    broker: Broker,
    executor: Arc<dyn Executor>,
    settings: Settings,
}

/// Why a worker ended without being asked to.
#[derive(Debug, thiserror::Error)]
#[error("this worker was declared dead: others take its attempts, and it must not touch them any more")]
pub struct DeclaredDead(#[source] Error);

impl Service {
    /// A worker for one executor, over connections that the caller has made.
    pub fn new(store: Store, broker: Broker, executor: Arc<dyn Executor>, settings: Settings) -> Self {
        Self { store, broker, executor, settings }
    }

    /// Registers, serves, and on `shutdown` hands its attempts over: containers are never touched by that.
    ///
    /// # Errors
    /// [`DeclaredDead`], or what kept it from starting.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        self.settings.check(self.store.transaction_timeout())?;
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        self.broker.topology().declare(&self.broker, &types).await?;
        let dead = CancellationToken::new();
        let Some(engine) = self.register(&shutdown, &dead).await? else { return Ok(()) };
        tracing::info!(worker.id = %engine.id, executor.type = %engine.executor.executor_type(), "registered");
        let result = tokio::select! {
            error = beat::run(&engine) => Err(DeclaredDead(error)),
            error = serve(&engine) => Err(DeclaredDead(error)),
            () = dead.cancelled() => Err(DeclaredDead(Error::NotAlive(engine.id))),
            () = drain_on(&engine, &shutdown) => Ok(()),
        };
        // Even when declared dead: no task may start anything new.
        engine.draining.cancel();
        engine.hosts.close();
        engine.ended.cancel();
        result?;
        workers::hand_over(&engine.store, engine.id).await?;
        tracing::info!(worker.id = %engine.id, "handed over");
        Ok(())
    }

    /// The engine of a registered worker; none if it is to stop before Postgres could be reached.
    async fn register(self, shutdown: &Shutdown, dead: &CancellationToken) -> anyhow::Result<Option<Arc<Engine>>> {
        let id = WorkerId::new();
        let clock = Arc::new(Boottime);
        let (fleet, began) = loop {
            let began = clock.now();
            match self.try_register(id).await {
                Ok(fleet) => break (fleet, began),
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "cannot register now, trying again");
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = shutdown.requested() => return Ok(None),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        let lease = Lease::new(clock, began, self.settings.lease(), self.settings.request_timeout());
        let jobs = self.broker.topology().jobs_queue(self.executor.executor_type().as_str());
        Ok(Some(Arc::new(Engine {
            id,
            fleet,
            writes: Writes::new(&self.store, id, &self.broker, dead),
            peers: Peers::of(&self.broker, &jobs),
            store: self.store,
            broker: self.broker,
            executor: Guarded::new(self.executor, lease.clone()),
            lease,
            registry: Registry::default(),
            hosts: Hosts::default(),
            log_pages: engine::log_pages(),
            look: Notify::new(),
            dead: dead.clone(),
            draining: CancellationToken::new(),
            ended: CancellationToken::new(),
            requests: TaskTracker::new(),
            finishing: TaskTracker::new(),
            settings: self.settings,
        })))
    }

    async fn try_register(&self, id: WorkerId) -> Result<gantry_core::FleetId, Error> {
        let fleet = tenants::fleet(&self.store).await?;
        let name = format!("{}:{}", host_name(), std::process::id());
        let worker = NewWorker {
            id,
            executor_type: self.executor.executor_type(),
            name: &name,
            version: env!("CARGO_PKG_VERSION"),
            reads_version: READS_VERSION,
            lease_seconds: i32::try_from(self.settings.lease_seconds).unwrap_or(i32::MAX),
        };
        workers::register(&self.store, &worker).await?;
        Ok(fleet)
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Everything but the beat; its result is that the worker is not alive any more.
async fn serve(engine: &Arc<Engine>) -> Error {
    tokio::select! {
        error = keep_hosts(engine) => error,
        error = async {
            // The first look at the hosts, so that the first claim finds places; not for ever, though.
            if let Ok(checks) = hosts::refresh(engine).await {
                let _ = tokio::time::timeout(FIRST_CHECKS, join_all(checks)).await;
            }
            match receive::run(engine).await {
                Err(error) => error,
                Ok(()) => std::future::pending().await,
            }
        } => error,
        () = receive::listen(engine) => Error::NotAlive(engine.id),
        () = reap::run(engine) => Error::NotAlive(engine.id),
    }
}

async fn keep_hosts(engine: &Arc<Engine>) -> Error {
    loop {
        tokio::time::sleep(hosts::REFRESH).await;
        match hosts::refresh(engine).await {
            // They end and store themselves.
            Ok(_) => {}
            Err(error @ Error::NotAlive(_)) => return error,
            Err(error) => tracing::warn!(%error, "the hosts could not be read or checked, trying again"),
        }
    }
}

/// Waits for the wish to stop, then until nothing that must be answered is in flight.
async fn drain_on(engine: &Engine, shutdown: &Shutdown) {
    shutdown.requested().await;
    tracing::info!(attempts = engine.registry.len(), "draining");
    engine.draining.cancel();
    engine.requests.close();
    // Under a name that is idempotent for ever, a launch that is still in flight is found or repeated harmlessly.
    let patience = match engine.executor.idempotence() {
        Idempotence::Forever => REQUESTS,
        _ => engine.settings.request_timeout(),
    };
    let _ = tokio::time::timeout(patience, engine.requests.wait()).await;
    engine.finishing.close();
    if tokio::time::timeout(FINISH, engine.finishing.wait()).await.is_err() {
        tracing::info!(attempts = engine.finishing.len(), "handing over attempts whose end is not reported yet");
    }
}
