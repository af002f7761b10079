//! Private servers, a fresh database, and the parts as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use clap::ValueEnum;
use gantry_broker::Broker;
use gantry_core::ExecutorType;
use gantry_servers::{DockerEngine, Postgres, RabbitMq, TEST_IMAGE};
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, schema, tenants};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::proxy::Proxy;

const DATABASE: &str = "gantry";
pub(crate) const KEY: &str = "gantry-bench-key";

/// Where the jobs run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Executor {
    /// Simulated containers
    Mock,
    /// Containers of a private Docker Engine
    Docker,
}

impl Executor {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mock => "mock",
            Self::Docker => "docker",
        }
    }

    fn executor_type(self) -> ExecutorType {
        match self {
            Self::Mock => ExecutorType::Mock,
            Self::Docker => ExecutorType::Docker,
        }
    }
}

/// A running fleet.
pub(crate) struct Fleet {
    pub(crate) executor: Executor,
    pub(crate) broker: Broker,
    pub(crate) sql: PgPool,
    /// Sees every create request, where that is measured.
    pub(crate) proxy: Option<Proxy>,
    store: Store,
    engine: Option<DockerEngine>,
    children: Vec<Child>,
    postgres: Postgres,
    rabbitmq: RabbitMq,
    _data: TempDir,
    _mock: TempDir,
}

impl Fleet {
    /// `sees_requests`: whether the way to the engine leads through a proxy that notes create requests.
    pub(crate) async fn start(
        binaries: &Path,
        executor: Executor,
        slots: u32,
        sees_requests: bool,
    ) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let (postgres, rabbitmq) = tokio::try_join!(Postgres::start(data.path()), RabbitMq::start(data.path()))?;
        schema::create_database(&postgres.url("postgres", "postgres"), DATABASE).await?;
        schema::migrate(&postgres.url("postgres", DATABASE)).await?;
        let url = postgres.url("gantry_fleet", DATABASE);
        let store = Store::new(&gantry_store::Config::new(url.as_str()), "gantry-bench")?;
        let tenant = tenants::put_tenant(&store, "bench").await?;
        tenants::put_key(&store, tenant, "bench", KEY, false).await?;

        // In memory, as a backend elsewhere would cost this machine's disk nothing either.
        let mock = tempfile::Builder::new().prefix("gantry-mock").tempdir_in("/dev/shm")?;
        let (connection, engine, proxy) = match executor {
            Executor::Mock => (json!({"dir": mock.path()}), None, None),
            Executor::Docker => {
                let engine = DockerEngine::start(data.path()).await?;
                engine.import_test_image().await?;
                let proxy = match sees_requests {
                    true => Some(Proxy::start(engine.socket_path(), &data.path().join("engine.sock")).await?),
                    false => None,
                };
                let socket = proxy.as_ref().map_or(engine.socket_path(), Proxy::path);
                (json!({"endpoint": format!("unix://{}", socket.display())}), Some(engine), proxy)
            }
        };
        add_host(&store, executor, connection, slots).await?;
        let amqp = rabbitmq.amqp_url("/");
        let mut children = Vec::new();
        for part in ["gantry-dispatcher", "gantry-recorder", &format!("gantry-worker-{}", executor.name())] {
            children.push(spawn(&binaries.join(part), &url, &amqp)?);
        }
        let broker = Broker::connect(gantry_broker::Config::new(amqp.as_str()), "bench").await?;
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        broker.topology().declare(&broker, &types).await?;
        let sql = PgPool::connect(&postgres.url("postgres", DATABASE)).await?;
        let fleet = Self {
            executor,
            broker,
            sql,
            proxy,
            store,
            engine,
            children,
            postgres,
            rabbitmq,
            _data: data,
            _mock: mock,
        };
        fleet.served().await?;
        Ok(fleet)
    }

    /// Waits until a worker serves the host.
    async fn served(&self) -> anyhow::Result<()> {
        for _ in 0..300 {
            if hosts::list(&self.store, Scope::Fleet).await?.iter().all(|host| host.workers > 0) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("no worker serves the host")
    }

    /// The engine itself, without the proxy.
    pub(crate) fn docker(&self) -> anyhow::Result<Docker> {
        let engine = self.engine.as_ref().context("this fleet has no Docker Engine")?;
        let socket = engine.socket_path().to_str().context("the socket's path is not UTF-8")?.to_owned();
        Ok(Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION)?)
    }

    /// Waits until the engine has no container left.
    pub(crate) async fn containers_removed(&self) -> anyhow::Result<()> {
        let docker = self.docker()?.negotiate_version().await?;
        for _ in 0..600 {
            let all = ListContainersOptionsBuilder::new().all(true).build();
            if docker.list_containers(Some(all)).await?.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("containers were left over")
    }

    /// The spec of a job that does nothing.
    pub(crate) fn no_op(&self) -> Value {
        match self.executor {
            Executor::Mock => json!({"image": "none"}),
            Executor::Docker => json!({"image": TEST_IMAGE, "command": ["true"]}),
        }
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for child in &self.children {
            if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                kill_process(pid, Signal::TERM)?;
            }
        }
        for child in &mut self.children {
            let status = child.wait().await?;
            ensure!(status.success(), "a part ended with {status}");
        }
        drop(self.broker);
        self.sql.close().await;
        if let Some(engine) = self.engine {
            engine.stop().await?;
        }
        let (postgres, rabbitmq) = tokio::join!(self.postgres.stop(), self.rabbitmq.stop());
        postgres?;
        Ok(rabbitmq?)
    }
}

async fn add_host(store: &Store, executor: Executor, connection: Value, slots: u32) -> anyhow::Result<()> {
    let host = NewHost {
        tenant: None,
        name: "bench",
        executor_type: executor.executor_type(),
        connection_config: connection,
        executor_config: json!({}),
        max_concurrent_jobs: i32::try_from(slots)?,
        cost_per_job: Default::default(),
        cost_per_hour: Default::default(),
    };
    hosts::insert(store, Scope::Fleet, &host).await?;
    Ok(())
}

fn spawn(binary: &PathBuf, database: &str, broker: &str) -> anyhow::Result<Child> {
    Command::new(binary)
        .env("GANTRY_DATABASE__URL", database)
        .env("GANTRY_BROKER__URL", broker)
        .env("GANTRY_SERVE__LISTEN", "127.0.0.1:0")
        .env("GANTRY_TELEMETRY__FILTER", "warn,lapin=off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {}; build it with `cargo build --release`", binary.display()))
}
