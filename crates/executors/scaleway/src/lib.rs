//! Runs jobs as runs of Scaleway Serverless Jobs, by its HTTP API v1alpha2.
//!
//! # A host's configuration
//! A host is one region of one project. `connection_config` ([`Connection`]):
//! ```json
//! {
//!   "region": "fr-par",
//!   "project": "11111111-1111-1111-1111-111111111111",
//!   "credentials": "scaleway",
//!   "logs": { "url": "https://DATA-SOURCE.logs.cockpit.fr-par.scw.cloud" }
//! }
//! ```
//! `credentials` is the name of a secret ([`gantry_worker::secrets`]), the secret part of an API key;
//! `logs.credentials` may name another one, a token of Cockpit that may read logs. One that was changed in its file is
//! taken up with the host's next health check. The key needs the right to use Serverless Jobs in the project.
//!
//! `executor_config` ([`Options`]) says what jobs get that ask for nothing. Every key is optional:
//! ```json
//! { "cpu_limit": 1120, "memory_limit": 2048, "local_storage_capacity": 1000 }
//! ```
//! Unknown keys are refused, and a mistake in either object shows in the host's health check.
//!
//! # What a run gets
//! - An image for `linux/amd64`, from Scaleway's own registry or a public one.
//! - The smallest of the sizes that the service offers that has the CPUs and memory which the job names, up to 6 CPUs
//!   and 16 GiB. The job's `entrypoint` replaces the image's entrypoint (`startup_command`), its `command` the image's
//!   command (`args`), word for word: what the service would expand in them is escaped. In the values of environment
//!   variables nothing is escaped, because the service shows them as they are.
//! - No mounts, networks, working directory, user, read-only root or GPUs: a job that names them is refused (`invalid_spec`), as is one with a
//!   timeout beyond 23 h 55 min or with variables that begin with `SCW_SLS`.
//! - Besides the job's own variables `GANTRY_EXTERNAL_NAME`, `GANTRY_FLEET_ID`, `GANTRY_JOB_ID` and `GANTRY_ATTEMPT`.
//!   They are the only thing by which a run is known again: the service has no labels and no names of runs.
//!
//! # Definitions
//! A start cannot override image, size and time limit. These are a *definition*: `prepare` registers one for each
//! content, under a name of the prefix `gantry-` and the content's hash, with `max_retries` 0 and a time limit that is
//! the job's timeout plus five minutes, rounded up to a quarter of an hour. It is kept for all later jobs of all fleets
//! of the project. A registration whose answer was lost is looked up. Two that were made at the same time bear one
//! name, and everybody takes the oldest; one that somebody changed is not used any more.
//!
//! An organization has 1,000 definitions. Gantry deletes none: another fleet may be about to start it. When they are
//! used up (`no_capacity`, "quotas_exceeded"), delete those whose name begins with `gantry-` and that have not run for
//! a while. The service refuses (403) to delete one with active runs, so this is safe at any time: a start that meets
//! the deleted definition is refused, counts as an infrastructure failure, and the next attempt registers it again.
//!
//! # What can be relied on
//! - **One attempt is started once.** There is no idempotency key, so a start request that may have been taken is never
//!   sent again ([`Idempotence::Never`]); each is sent over a connection of its own, without retries and redirects. A
//!   start that the service refused with 429 is no start: nothing was begun, and the worker sends it again after a
//!   pause, unless an earlier one of the attempt may have been taken. What came of one without an answer is looked
//!   up by the external name in the list of runs.
//! - *Not launched* is what was answered with 4xx (but 408), and what never got a connection. Every other error (5xx, a
//!   broken or missing answer) is *perhaps launched*.
//! - A name is *absent*, and a run *gone*, when the service does not show it and this process has been asking for
//!   `visible_within_millis`. A run that surfaces later than that is listed, and reaped as a left-over.
//! - An exit code that the service leaves out is not 0. It is waited for, 5 s; then the state `succeeded` is taken at
//!   its word, and every other end is a failure by its `reason`, without an exit code.
//! - **Stopping** asks the service, which sends SIGTERM and has a grace of its own: the job's is not used.
//! - **Removing** does nothing: runs cannot be deleted, and the service forgets them after 60 days. This process
//!   forgets them at once. A running one is refused. Of runs that are over only the newest hundred of the project are
//!   listed, so that the reaper does not see all of them for 60 days.
//! - States are polled: four runs or fewer one by one, more with one list of all active runs of the project, shared by
//!   whoever asks within half a second. To look up a name that no active run has costs a list of all runs of the project
//!   since its job was submitted (by the time in the job's id), a hundred a request, shared in the same way.
//!
//! # Logs
//! Cockpit keeps them in a Loki. The default query is
//! `{resource_type="serverless_job",job_definition_name="{definition}"} | resource_id="{run}" or
//! resource_instance=~".*{run}.*"`: all runs of a definition share its stream, and the service names the run a
//! *resource* (as it does in the run's variable `SCW_SLS_RESOURCE_ID`). This was checked against a double, not against
//! the service, and so was the header `X-Token` (`logs.header`: `x-token`, `x-auth-token`, `bearer`): if logs stay
//! empty, look at a run's labels in Grafana and set `logs.query` by them. Lines come as they are or in the service's
//! envelope (`resource_instance`, `message`, `stream`), which is taken off; the streams are apart where the service
//! tells them apart. The service cuts lines at 16 KiB. Lines come late, by `settle_millis` at most: younger ones are
//! held back while the job runs, and waited for when it is over.
//!
//! # Trying it out
//! With the feature `double` there is a double of the service that runs containers on a Docker Engine.

mod client;
mod config;
mod credentials;
mod definition;
#[cfg(feature = "double")]
pub mod double;
mod flight;
mod launch;
mod logs;
mod loki;
mod memory;
mod observe;
mod outcome;
mod owned;
mod place;
mod size;
mod stop;
mod wire;
mod words;

use std::time::Duration;

use async_trait::async_trait;
pub use config::{Connection, Logs, Options, TokenHeader};
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FleetId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use gantry_worker::secrets::Secrets;
use place::Places;

/// The executor of type `scaleway`. One serves any number of hosts, and keeps one client for each.
pub struct ScalewayExecutor {
    places: Places,
}

impl ScalewayExecutor {
    /// An executor that finds secrets where its process says.
    pub fn new() -> Self {
        Self::with_secrets(Secrets::from_environment())
    }

    /// One that finds them here.
    pub fn with_secrets(secrets: Secrets) -> Self {
        Self { places: Places::new(secrets) }
    }
}

impl Default for ScalewayExecutor {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Executor for ScalewayExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Scaleway
    }

    fn idempotence(&self) -> Idempotence {
        Idempotence::Never
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        Options::of(host)?;
        self.places.renewed(host)?.check().await
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        launch::validate(&Options::of(host)?, spec)
    }

    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        definition::ensure(&self.places.of(host)?, &Options::of(host)?, spec).await.map(|_| String::new())
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let options = Options::of(host).map_err(LaunchError::NotLaunched)?;
        let place = self.places.of(host).map_err(LaunchError::NotLaunched)?;
        launch::launch(&place, &options, launch).await
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        observe::observe(&self.places.of(host)?, ids).await
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        match self.places.of(host) {
            Ok(place) => owned::find(&place, name).await,
            Err(failure) => Found::Unknown(failure.to_string()),
        }
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        logs::page(&self.places.of(host)?, id, cursor, max_bytes).await
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, _grace: Duration) -> Result<(), Failure> {
        stop::stop(&self.places.of(host)?, &id.0).await
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        stop::remove(&self.places.of(host)?, &id.0).await
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        owned::list(&self.places.of(host)?, fleet).await
    }
}
