//! The trait that a backend implements. Small, and the same for a container on a socket and a task in a cloud.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::Outcome;
use gantry_core::{ExecutorType, Failure, FleetId, JobId};
use serde::{Deserialize, Serialize};

/// A backend. It knows nothing of Postgres, RabbitMQ, retries or tenants.
///
/// Any future here may be dropped at any await (deadlines, shutdown); the engine then asks [`Executor::find`]
/// what became of a launch.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// The kind of backend.
    fn executor_type(&self) -> ExecutorType;

    /// For how long launching again under one name launches nothing new.
    fn idempotence(&self) -> Idempotence;

    /// Whether the host answers and can take jobs, and which engine it is. `no_capacity` means that it answers and has
    /// no room for more: it gets no jobs, and what runs there is watched on.
    async fn check(&self, host: &Host) -> Result<Health, Failure>;

    /// Which engine answers, whether it can take jobs or not: [`Health::identity`].
    #[expect(clippy::disallowed_methods, reason = "the guard stands around this very call")]
    async fn identity(&self, host: &Host) -> Result<String, Failure> {
        self.check(host).await.map(|health| health.identity)
    }

    /// Refuses what this backend cannot do, before anything is sent (`invalid_spec`).
    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure>;

    /// Pulls the image or registers the definition. Changes nothing that a second owner would mind.
    /// Returns what the backend said, for `docker_log`; often nothing.
    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure>;

    /// Starts the container under its external name. A name that is taken means adopt, not fail: the
    /// container that has it is this attempt's, and is started only if it never was.
    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError>;

    /// The states of many containers, in any order; one that is left out is unknown for now. An error is
    /// about the poll, never about a job.
    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure>;

    /// What became of a launch under this name.
    async fn find(&self, host: &Host, name: &str) -> Found;

    /// The log after `cursor` (from the first byte if none), in the order in which it was written, up to about
    /// `max_bytes`. Reading again from one cursor gives the same bytes again. `lost` means that the backend has no
    /// such container, and no log of it, any more.
    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure>;

    /// Asks the container to end: SIGTERM, `grace`, SIGKILL. Returns once asked; [`Executor::observe`]
    /// confirms. Stopping what has ended or is gone succeeds.
    async fn stop(&self, host: &Host, id: &ExecutionId, grace: Duration) -> Result<(), Failure>;

    /// Removes an ended container and its log, or one that was created and never started. Removing what is
    /// gone succeeds; a running container is refused.
    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure>;

    /// Every container of this fleet on the host, in whatever state, created ones included.
    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure>;

    /// Returns when a container of this host may have ended, or after `at_most`. A hint that saves polling;
    /// wrong in either direction it only costs time.
    async fn changed(&self, host: &Host, at_most: Duration) {
        let _ = host;
        tokio::time::sleep(at_most).await;
    }
}

/// For how long a launch under one name is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotence {
    /// As long as the container exists.
    Forever,
    /// For a time after the first launch.
    For(Duration),
    /// Not at all: a launch whose answer was lost must never be repeated.
    Never,
}

/// The backend's identifier of a container, up to 255 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecutionId(pub String);

impl std::fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The engine's own identity: the same host name on another machine is another engine.
    pub identity: String,
    /// What an operator would like to know: the engine's version and the like.
    pub detail: String,
}

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The external name, unique to (fleet, job, attempt).
    pub name: String,
    /// The fleet, as a label.
    pub fleet: FleetId,
    /// The job, as a label.
    pub job: JobId,
    /// The attempt, as a label.
    pub attempt: i32,
    /// What to run; its environment holds Gantry's own variables too.
    pub spec: ResolvedSpec,
}

/// Why a launch gave no execution id.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LaunchError {
    /// Certainly nothing runs and nothing will.
    #[error("not launched: {0}")]
    NotLaunched(Failure),
    /// The request may have arrived.
    #[error("perhaps launched: {0}")]
    MaybeLaunched(String),
}

/// The state of one container.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// Known, not yet started.
    Starting,
    /// Running.
    Running,
    /// Over.
    Ended(End),
    /// The backend is certain that it has no such container.
    Gone,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Exit code, or the failure where there is none or where it is not the whole story (`oom_killed`).
    pub outcome: Outcome,
    /// How long it ran, by the backend's own pair of times; none only where it has none for this end. A plain run has one, or
    /// nobody knows what it cost.
    pub run: Option<Duration>,
    /// The highest memory use seen, in bytes; a container of a few milliseconds leaves no sample.
    pub max_memory_usage: Option<u64>,
    /// The mean use of CPU, in percent of one CPU.
    pub cpu_usage_percent: Option<f64>,
    /// What the backend itself says about the end; often nothing.
    pub message: String,
    /// Whether the backend may have lost part of its log, by a fault of the backend's own.
    pub log_cut: bool,
}

impl End {
    /// An end of which nothing else is known.
    pub fn bare(outcome: Outcome) -> Self {
        Self {
            outcome,
            run: None,
            max_memory_usage: None,
            cpu_usage_percent: None,
            message: String::new(),
            log_cut: false,
        }
    }
}

/// What became of a launch.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// This is it.
    Found(ExecutionId),
    /// Authoritatively none.
    Absent,
    /// Cannot be said now; ask again.
    Unknown(String),
}

/// A place in a container's log; its shape is the executor's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogCursor(pub String);

/// One of a container's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Part of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    /// The pieces, in order.
    pub chunks: Vec<(Stream, Bytes)>,
    /// Where to go on; the cursor that was given if there was nothing new, none if there is nothing at all.
    pub cursor: Option<LogCursor>,
    /// Whether more can be read at once. False for an ended container means: this was the end.
    pub more: bool,
}

/// A container of this fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// The backend's identifier.
    pub id: ExecutionId,
    /// The external name.
    pub name: String,
    /// The job it belongs to.
    pub job: JobId,
    /// The attempt it belongs to.
    pub attempt: i32,
    /// Whether it runs now.
    pub running: bool,
}
