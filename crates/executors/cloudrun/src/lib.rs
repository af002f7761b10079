//! Runs jobs as Cloud Run Jobs, by Google's own clients (Cloud Run Admin API v2, Cloud Logging API v2).
//!
//! # A host's configuration
//! A host is one region of one project. `connection_config` ([`Connection`]):
//! ```json
//! { "project": "my-project", "region": "europe-west1", "credentials": "team-a" }
//! ```
//! `credentials` names a key, and never is one: the worker's secret of that name is a service account's key, in JSON
//! (`gantry_worker::secrets`). Without it the application default credentials are used. The identity needs
//! `roles/run.developer` and `roles/logging.viewer` in the project and `roles/iam.serviceAccountUser` on the account
//! that containers run as.
//!
//! `executor_config` ([`Options`]) says what containers get there. Every key is optional:
//! ```json
//! {
//!   "service_account": "jobs@my-project.iam.gserviceaccount.com",
//!   "execution_environment": "gen2",
//!   "vpc": { "network": "jobs", "subnetwork": "jobs", "egress": "private_ranges_only" },
//!   "image_registry": "europe-docker.pkg.dev/my-project/images",
//!   "jobs_quota": 1000,
//!   "log_delay_seconds": 5,
//!   "log_reads_per_minute": 50
//! }
//! ```
//! Unknown keys are refused, and a mistake in either object shows in the host's health check.
//!
//! **The region's quotas are the host's limit.** Each check counts the region's Jobs, those of others included. With
//! `jobs_quota` of them the host has no room (`no_capacity`): it gets no jobs until some are gone, however many of its
//! `max_concurrent_jobs` are free, and what runs there is looked after. An ended Job counts until Gantry removes it.
//! What the quotas really are, Google tells only by another API, for which the identity would need further rights: set
//! `jobs_quota` if yours was raised. A launch beyond it, or beyond the region's CPUs and bytes, is `no_capacity` and goes
//! elsewhere; too many requests in a minute are `throttled`.
//!
//! # What a container gets
//! - One Cloud Run Job with one task that is never retried (`maxRetries: 0`): retries are Gantry's own.
//! - At least the CPUs and memory that the job names, rounded up to what Cloud Run sells: 1, 2, 4, 6 or 8 CPUs, 512
//!   MiB to 32 GiB; more memory brings more CPUs and the other way round. More than there is is `invalid_spec`. A job
//!   that names neither gets Cloud Run's 1 CPU and 512 MiB.
//! - The job's timeout and ten minutes as Cloud Run's own, at most the 168 hours that it has. Gantry's deadline is the
//!   law; this one is for the day on which no worker is left.
//! - The image's own user and a root file system in memory, which counts towards the memory limit. Mounts, networks
//!   but the host's `vpc`, another user, a read-only root, GPUs, and the variables that Cloud Run keeps for itself are
//!   `invalid_spec`.
//! - `SIGTERM`, ten seconds and `SIGKILL` when it is stopped: Cloud Run has no other grace.
//!
//! The Job has the labels `gantry-fleet`, `gantry-job` and `gantry-attempt`; the job's own labels stay in Gantry,
//! because Google's have rules that they need not obey.
//!
//! # What can be relied on
//! - **One name is one Job, and one Job is one execution**, for as long as the Job exists ([`Idempotence::Forever`]).
//!   The Job's id is the attempt's external name, and it is created together with a `startExecutionToken`, which names
//!   its execution: there is no moment between "created" and "started" at which a worker could die, and a second
//!   creation is refused (`ALREADY_EXISTS`) and adopted. The name is taken until [`Executor::remove`] deletes the Job.
//! - A Job without an execution is *starting*. Launching again adopts it; if it is complete, at rest and has never
//!   started anything (somebody created it without the token), it is given the token then, under the etag of the Job
//!   as it was seen, so that of two workers one starts it. A Job that failed to start is an end.
//! - The residue: a creation that was sent before a removal and arrives after it makes the Job anew. Leases and
//!   request timeouts keep the two far apart. And an operator who deletes a Job by hand frees its name.
//! - No request is repeated by the client: every retry is the engine's own.
//! - "No such Job" is believed only ten seconds after this worker first asked for, or launched, that name.
//! - **An exit code is the task's own.** One that is missing is 0 only if the task's condition says that it succeeded.
//!   A signal is 128 and its number. "Memory limit … exceeded" is `oom_killed`, also where only the system's own log
//!   says so (it is read where a container was killed and nobody stopped it); Cloud Run's own timeout is `timeout`. If
//!   the execution has ended and its task is not to be seen for a minute, the end is a `backend_error`.
//! - Many Jobs are observed by listing them, 500 at a time; each end costs two requests more, once.
//!
//! # Logs
//! - Lines, the streams apart, in the order of their times. Whether the last line had an end is not known.
//! - A line that is an object of JSON comes back as one with the same content; spaces, the order of its keys, and the
//!   fields that Cloud Logging takes out (`severity`, `timestamp`, …) are its own.
//! - Cloud Logging shows lines late and out of order. A running container's are read up to `log_delay_seconds` ago (by
//!   this worker's clock), and the end of an ended one's so long after its end was first seen. What comes later than
//!   that is lost to Gantry, and is still in Cloud Logging.
//! - A project may read its logs 60 times a minute. Half of `log_reads_per_minute` is for containers that run, whose
//!   logs come later when it is spent; the rest is for those that ended. Ask Google for more if there are many.
//! - What the system itself says ("Container called exit(0).") is not the container's, and is left out.

mod config;
mod credentials;
mod cursor;
#[cfg(feature = "double")]
pub mod double;
mod end;
mod error;
mod job;
mod labels;
mod launch;
mod logs;
mod observe;
mod owned;
mod pace;
mod region;
mod resources;
mod sightings;
mod state;
mod stop;

use std::time::Duration;

use async_trait::async_trait;
pub use config::{Connection, Egress, ExecutionEnvironment, Options, Vpc};
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use gantry_worker::secrets::Secrets;
use region::Regions;

/// The executor of type `cloudrun`. One serves any number of hosts, and keeps one set of clients for each.
pub struct CloudRunExecutor {
    regions: Regions,
}

impl CloudRunExecutor {
    /// An executor that has not connected to anything yet.
    pub fn new() -> Self {
        Self::with_secrets(Secrets::from_environment())
    }

    /// The same with these secrets.
    pub fn with_secrets(secrets: Secrets) -> Self {
        // Google's clients take the process's own; it is there already in Gantry's programs.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { regions: Regions::with(secrets) }
    }
}

impl Default for CloudRunExecutor {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Executor for CloudRunExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Cloudrun
    }

    fn idempotence(&self) -> Idempotence {
        Idempotence::Forever
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        let (options, region) = (Options::of(host)?, self.regions.of(host)?);
        let Connection { project, region: name, .. } = &region.connection;
        let (jobs, quota) = (owned::count(&region, options.jobs_quota).await?, options.jobs_quota);
        if jobs >= quota {
            let full = format!(
                "Cloud Run in {name}, project {project}, has {jobs} Jobs and a quota of {quota}: remove some, or have it \
                 raised and set the host's `jobs_quota`"
            );
            return Err(Failure::new(FailureClass::NoCapacity, full));
        }
        let detail = format!("Cloud Run in {name}, project {project}: {jobs} Jobs of a quota of {quota}");
        Ok(Health { identity: region.identity(), detail })
    }

    async fn identity(&self, host: &Host) -> Result<String, Failure> {
        let region = self.regions.of(host)?;
        owned::count(&region, 1).await?;
        Ok(region.identity())
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        Options::of(host)?;
        job::validate(spec)
    }

    async fn prepare(&self, host: &Host, _spec: &ResolvedSpec) -> Result<String, Failure> {
        // Cloud Run pulls by itself, and registers nothing ahead.
        Options::of(host).map(|_| String::new())
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let options = Options::of(host).map_err(LaunchError::NotLaunched)?;
        let region = self.regions.of(host).map_err(LaunchError::NotLaunched)?;
        launch::launch(&region, &options, launch).await
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        let (options, region) = (Options::of(host)?, self.regions.of(host)?);
        observe::observe(&region, &options, ids).await
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        let found = async {
            let region = self.regions.of(host)?;
            let found = observe::get(&region, region.clients().await?, name).await;
            let found = found.map_err(|error| error::failure("get the Job", &error))?;
            Ok::<_, Failure>(match found {
                None if region.names.is_absent(name) => Found::Absent,
                None => Found::Unknown("there is no such Job, or it is not to be seen yet".into()),
                Some(job) if job.delete_time.is_some() => Found::Unknown("the Job is being deleted".into()),
                Some(job) if labels::attempt(&job.labels).is_some() => Found::Found(ExecutionId(name.to_owned())),
                Some(_) => Found::Unknown(format!("a Job that is not Gantry's has the name {name}")),
            })
        };
        found.await.unwrap_or_else(|failure| Found::Unknown(failure.to_string()))
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        let (options, region) = (Options::of(host)?, self.regions.of(host)?);
        logs::page(&region, &options, &id.0, cursor, max_bytes).await
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, _grace: Duration) -> Result<(), Failure> {
        // Cloud Run's grace is its own.
        let region = self.regions.of(host)?;
        stop::stop(&region, &id.0).await
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        let region = self.regions.of(host)?;
        stop::remove(&region, &id.0).await
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        let region = self.regions.of(host)?;
        owned::list(&region, fleet).await
    }
}
