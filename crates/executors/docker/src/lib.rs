//! Runs jobs as containers of a Docker Engine, by its HTTP API (1.41, Docker 20.10, or later).
//!
//! # A host's configuration
//! `connection_config` ([`Connection`]) says where the engine listens, and how it is reached:
//! ```json
//! { "endpoint": "unix:///var/run/docker.sock" }
//! { "endpoint": "tcp://10.0.0.5:2376", "tls": { "ca": "build-ca", "certificate": "build-cert", "key": "build-key" } }
//! { "endpoint": "ssh://gantry@10.0.0.6:22", "ssh": { "key": "ssh-key", "known_hosts": "ssh-known-hosts" } }
//! ```
//! The words in `tls` and `ssh` are names of secrets ([`gantry_worker::secrets`]), which the worker looks up when it
//! connects. With `tls` both sides show a certificate, as with `dockerd --tlsverify`; `tcp` without it is for loopback
//! and tunnels: who reaches the port is root on that machine. With `ssh` the machine's own `ssh` (openssh-client) holds
//! one connection to the host and forwards the engine's socket, which needs `AllowStreamLocalForwarding` (the default)
//! and a user who may open it; a path in the endpoint names another socket than `/var/run/docker.sock`. Without `ssh`
//! keys and known hosts are those of the worker's own user.
//!
//! `executor_config` ([`Options`]) says what containers may have there. Every key is optional:
//! ```json
//! {
//!   "capabilities": ["CHOWN"],
//!   "pids_limit": 512,
//!   "allowed_mounts": ["/srv/datasets"],
//!   "writable_mounts": ["/srv/results"],
//!   "network": "jobs",
//!   "allowed_networks": ["database"],
//!   "user": "1000:1000",
//!   "allow_root": false,
//!   "ulimits": { "nofile": 65536, "core": { "soft": 0, "hard": 0 } },
//!   "labels": { "site": "north" },
//!   "gpus": "all",
//!   "pull_policy": "missing",
//!   "registries": [
//!     { "server": "ghcr.io", "credentials": "ghcr" },
//!     { "server": "registry.example.com:5000", "credentials": "shared", "tenant_credentials": "registry" }
//!   ],
//!   "min_free_disk_mb": 1024
//! }
//! ```
//! Unknown keys are refused, and a mistake in either object shows in the host's health check, as do a `network` that the
//! engine does not have and a secret that the worker does not have.
//!
//! # Images
//! - `pull_policy` is `missing`, `always` or `never`. Jobs that need one image at once share one pull; what came, layer by
//!   layer, is in the attempt's `docker_log`.
//! - Credentials belong to a registry of the host's configuration; a job cannot send them anywhere else. The value of
//!   each is `user:password`. `credentials` is the host's, for all tenants; `tenant_credentials` is looked up among the
//!   secrets of the job's own tenant, and a tenant that has none is served with the host's.
//! - Where a registry has `tenant_credentials`, that an image is on the host already gives it to nobody: with `missing` the
//!   registry is asked on each tenant's behalf, at most every ten seconds, and sends only what the host does not have.
//!   With `never` whatever is there is everybody's. An image cannot be named by its id on such a host.
//! - A registry that refuses is `image_pull_denied` and says which credentials it was shown; one that does not have the
//!   image is `image_not_found`; one that asks to slow down is `throttled`.
//!
//! # Room
//! A host has no room (`no_capacity`) while less than `min_free_disk_mb` is free where its engine keeps its data, and gets
//! no jobs until there is more; what runs there runs on. That can be seen where the engine is reached by a socket and its
//! folder (`/var/lib/docker`) is on the same machine, mounted into the worker's container if it runs in one. No engine
//! tells it over its API. So of every other engine only this is known: one that says itself that its disk is full gets no
//! jobs for the next two minutes.
//!
//! # What a container gets
//! - Never privileged, `no-new-privileges`, no capability that the host does not grant, a limit of processes.
//!   Without capabilities root in a container may not change a file's owner or read what only others may:
//!   images that begin as root and give up their rights need `SETUID`, `SETGID` and `CHOWN` granted.
//! - Exactly the CPUs and memory that the job names. Swap does not come on top of the memory.
//! - The user that the job names, else the host's, else the image's own; nothing as root where `allow_root` is false.
//! - With `read_only_root` a root file system that it cannot change, and `/tmp` in memory.
//! - GPUs only as the host allows them. The engine hands out the first so many and counts nothing: jobs that must not share
//!   a GPU belong on hosts with one slot.
//! - The job's labels, the host's, and Gantry's own; of one name the later wins.
//! - Its words as they are, without an init process: a program that runs as the first process of a container
//!   ends on SIGTERM only if it handles it, as everywhere in Docker.
//! - Bind mounts and networks only as the host allows them. The `host` network and other containers' are not
//!   among them, unless an operator names them.
//! - The `local` log driver without rotation, whatever the engine's default: a job's log takes its full size on
//!   the host's disk until the container is removed. `docker logs` reads it like any other.
//!
//! # What can be relied on
//! - **One name is one container**, for as long as it exists: launching again adopts it, and starts it only if it
//!   never ran. A worker that died between create and start leaves a container that is *found* and observed as
//!   *starting*; it begins to run when somebody launches it again under its name.
//! - An engine that is killed while it starts a container may come back with it as *created*, though it ran. So one that
//!   is adopted is started only if the engine still knows the event of its creation; else it is seen as `lost`.
//! - The engine has no "start if never started". Between this process's look at the state and its request another
//!   one could start the container and see it end, and the engine would run it again. Leases keep two workers
//!   from launching one attempt; a request that was sent in time and arrives late is the residue.
//! - An exit by a signal is 128 and its number. An end that came with the engine's own going down is a
//!   `backend_error` without an exit code, as far as the engine can tell: it remembers 256 events, and a
//!   container that handles SIGTERM and ends with another code than 143 cannot be told from one that was done.
//! - The engine starts to watch the memory limit a moment after the container's start. A SIGKILL that came
//!   sooner, to a container that has a limit, is taken for the limit's, and the message says so.
//! - A log's bytes are exact, but for one: the newline of a last line longer than 16 KiB is left out.
//! - Removing takes the container's anonymous volumes along. Images are never removed.

mod allow;
mod changes;
mod check;
mod config;
mod connection;
mod create;
mod credentials;
mod disk;
mod doubts;
mod end;
mod engine;
mod error;
mod history;
mod image;
mod labels;
mod launch;
mod lines;
mod logs;
mod observe;
mod progress;
mod ssh;
mod stop;
mod time;
mod tls;
mod usage;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
pub use config::{Options, PullPolicy, Ulimit};
pub use connection::{Connection, Ssh, Tls};
pub use credentials::Registry;
use engine::Engines;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, FleetId};
use gantry_worker::executor::{
    ExecutionId, Executor, Found, Health, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use gantry_worker::secrets::Secrets;

/// The executor of type `docker`. One serves any number of hosts, and keeps one client for each.
pub struct DockerExecutor {
    engines: Engines,
}

impl Default for DockerExecutor {
    fn default() -> Self {
        Self::new()
    }
}

impl DockerExecutor {
    /// An executor that has not connected to anything yet, and finds its secrets where its environment says.
    pub fn new() -> Self {
        Self::with_secrets(Secrets::from_environment())
    }

    /// The same with secrets from elsewhere.
    pub fn with_secrets(secrets: Secrets) -> Self {
        Self { engines: Engines::new(secrets) }
    }
}

#[async_trait]
impl Executor for DockerExecutor {
    fn executor_type(&self) -> ExecutorType {
        ExecutorType::Docker
    }

    fn idempotence(&self) -> Idempotence {
        Idempotence::Forever
    }

    async fn check(&self, host: &Host) -> Result<Health, Failure> {
        let options = Options::of(host)?;
        check::check(self.engines.of(host)?.as_ref(), &options).await
    }

    async fn identity(&self, host: &Host) -> Result<String, Failure> {
        check::identity(self.engines.of(host)?.as_ref()).await
    }

    fn validate(&self, host: &Host, spec: &ResolvedSpec) -> Result<(), Failure> {
        Options::of(host)?.validate(&spec.container)
    }

    async fn prepare(&self, host: &Host, spec: &ResolvedSpec) -> Result<String, Failure> {
        let wanted = image::Wanted::of(&Options::of(host)?, spec);
        image::ensure(&self.engines.of(host)?, wanted).await
    }

    async fn launch(&self, host: &Host, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let options = Options::of(host).map_err(LaunchError::NotLaunched)?;
        let engine = self.engines.of(host).map_err(LaunchError::NotLaunched)?;
        launch::launch(&engine, &options, launch).await
    }

    async fn observe(&self, host: &Host, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        observe::observe(&self.engines.of(host)?, ids).await
    }

    async fn find(&self, host: &Host, name: &str) -> Found {
        let found = async {
            let engine = self.engines.of(host)?;
            match engine.docker().await?.inspect_container(name, None).await {
                Ok(container) => Ok(Some(container)),
                Err(error) if error::no_such_container(&error) => Ok(None),
                Err(error) => Err(error::failure("inspect", &error)),
            }
        };
        let container = match found.await {
            Ok(Some(container)) => container,
            Ok(None) => return Found::Absent,
            Err(failure) => return Found::Unknown(failure.to_string()),
        };
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        match (container.id, labels::attempt(&labels)) {
            (Some(id), Some(_)) => Found::Found(ExecutionId(id)),
            _ => Found::Unknown(format!("a container that is not Gantry's has the name {name}")),
        }
    }

    async fn logs(
        &self,
        host: &Host,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        logs::page(self.engines.of(host)?.as_ref(), id, cursor, max_bytes).await
    }

    async fn stop(&self, host: &Host, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        stop::stop(&self.engines.of(host)?, &id.0, grace).await
    }

    async fn remove(&self, host: &Host, id: &ExecutionId) -> Result<(), Failure> {
        let engine = self.engines.of(host)?;
        let volumes_too = RemoveContainerOptionsBuilder::new().v(true).build();
        let removed = engine.docker().await?.remove_container(&id.0, Some(volumes_too)).await;
        match removed {
            Ok(()) => {}
            Err(error) if error::no_such_container(&error) => {}
            Err(error) if matches!(error::answer(&error), Some((409, text)) if text.contains("already in progress")) => {
            }
            Err(error) => return Err(error::failure("remove", &error)),
        }
        engine.forget(&id.0);
        Ok(())
    }

    async fn list_owned(&self, host: &Host, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        let engine = self.engines.of(host)?;
        let filters = HashMap::from([("label", vec![format!("{}={fleet}", labels::FLEET)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = engine.docker().await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| error::failure("list", &error))?;
        Ok(listed.into_iter().filter_map(owned).collect())
    }

    async fn changed(&self, host: &Host, at_most: Duration) {
        match self.engines.of(host) {
            Ok(engine) => changes::wait(&engine, at_most).await,
            Err(_) => tokio::time::sleep(at_most).await,
        }
    }
}

fn owned(container: bollard::models::ContainerSummary) -> Option<Owned> {
    use bollard::models::ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
    let (job, attempt) = labels::attempt(container.labels.as_ref()?)?;
    let name = container.names?.into_iter().next()?;
    Some(Owned {
        id: ExecutionId(container.id?),
        name: name.trim_start_matches('/').to_owned(),
        job,
        attempt,
        running: matches!(container.state, Some(RUNNING | PAUSED | RESTARTING)),
    })
}
