//! What `gantry dev` puts into its database: the schema, a tenant with a key, and the hosts of this machine.

use std::time::Duration;

use anyhow::Context;
use gantry_core::host::Host;
use gantry_core::{ExecutorType, HostId, TenantId};
use gantry_executor_docker::DockerExecutor;
use gantry_servers::Postgres;
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, schema, tenants};
use gantry_worker::executor::Executor;
use serde_json::{Value, json};

use super::Dev;
use super::clouds::Clouds;
use super::folder::Folder;

pub(super) const DATABASE: &str = "gantry";
const TENANT: &str = "dev";
const DOCKER_HOST: &str = "local-docker";
const MOCK_HOST: &str = "local-mock";
/// How long workers may take to serve the hosts of this machine.
const SERVED_WITHIN: Duration = Duration::from_secs(30);

/// A database that is ready for the parts.
pub(super) struct Fleet {
    store: Store,
    /// The tenant's key.
    pub(super) key: String,
    /// The kinds of backend that have a host here.
    pub(super) executors: Vec<ExecutorType>,
    /// The names of those hosts.
    hosts: Vec<String>,
}

/// Makes what is not there yet.
pub(super) async fn prepare(dev: &Dev, folder: &Folder, postgres: &Postgres, clouds: &Clouds) -> anyhow::Result<Fleet> {
    schema::create_database(&postgres.url("postgres", "postgres"), DATABASE).await?;
    schema::migrate(&postgres.url("postgres", DATABASE)).await.context(
        "the data folder was made by another version of Gantry; choose another --data-dir, or remove this one with its jobs",
    )?;
    let store = Store::new(&gantry_store::Config::new(postgres.url("gantry_fleet", DATABASE)), "gantry dev")?;
    let key = folder.api_key()?;
    let tenant = tenants::put_tenant(&store, TENANT).await?;
    tenants::put_key(&store, tenant, "gantry dev", &key, true).await?;

    let mut fleet = Fleet { store: store.clone(), key, executors: Vec::new(), hosts: Vec::new() };
    let known = hosts::list(&store, Scope::Fleet).await?;
    let is_known = |name: &str| known.iter().any(|host| host.host.name == name);
    if reach_docker(&dev.docker_host).await {
        if !is_known(DOCKER_HOST) {
            let endpoint = json!({"endpoint": dev.docker_host});
            let options = json!({"allowed_mounts": dev.allow_mount});
            add(&store, DOCKER_HOST, ExecutorType::Docker, endpoint, options, dev.docker_slots).await?;
        }
        fleet.has(ExecutorType::Docker, DOCKER_HOST);
    }
    if !is_known(MOCK_HOST) {
        let directory = folder.path().join("mock");
        add(&store, MOCK_HOST, ExecutorType::Mock, json!({"dir": directory}), json!({}), dev.mock_slots).await?;
    }
    fleet.has(ExecutorType::Mock, MOCK_HOST);
    for host in clouds.hosts() {
        if !is_known(&host.name) {
            add(&store, &host.name, host.executor_type, host.connection, host.options, dev.docker_slots).await?;
        }
        fleet.has(host.executor_type, &host.name);
    }
    Ok(fleet)
}

async fn add(
    store: &Store,
    name: &str,
    executor: ExecutorType,
    connection: Value,
    options: Value,
    slots: u16,
) -> anyhow::Result<()> {
    let host = NewHost {
        tenant: None::<TenantId>,
        name,
        executor_type: executor,
        connection_config: connection,
        executor_config: options,
        max_concurrent_jobs: slots.into(),
        cost_per_job: Default::default(),
        cost_per_hour: Default::default(),
    };
    hosts::insert(store, Scope::Fleet, &host).await?;
    Ok(())
}

/// Whether a Docker Engine answers there.
#[expect(clippy::disallowed_methods, reason = "asks before there is a worker, and changes nothing")]
async fn reach_docker(endpoint: &str) -> bool {
    let host = Host {
        id: HostId::new(),
        name: DOCKER_HOST.to_owned(),
        executor_type: ExecutorType::Docker,
        connection_config: json!({"endpoint": endpoint}),
        executor_config: json!({}),
    };
    match DockerExecutor::new().check(&host).await {
        Ok(health) => {
            tracing::info!(docker.endpoint = endpoint, docker.engine = health.detail, "a Docker Engine answers");
            true
        }
        Err(failure) => {
            tracing::warn!(docker.endpoint = endpoint, %failure, "no Docker Engine answers: only mock jobs can run");
            false
        }
    }
}

impl Fleet {
    fn has(&mut self, executor: ExecutorType, host: &str) {
        self.executors.push(executor);
        self.hosts.push(host.to_owned());
    }

    /// Waits until workers serve this machine's hosts, so that the first job finds its place.
    pub(super) async fn served(&self) -> anyhow::Result<()> {
        let all = async {
            loop {
                let hosts = hosts::list(&self.store, Scope::Fleet).await?;
                if hosts.iter().filter(|host| self.hosts.contains(&host.host.name)).all(|host| host.workers > 0) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(SERVED_WITHIN, all)
            .await
            .context("the workers do not serve this machine's hosts; the log above says why")?
    }
}
