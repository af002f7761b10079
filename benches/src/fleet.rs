//! Private servers, fresh databases on them, and the parts as processes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use gantry_broker::Broker;
use gantry_core::ExecutorType;
use gantry_servers::{DockerEngine, Postgres, RabbitMq, TEST_IMAGE};
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, schema, tenants};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor as _, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::cpu;
use crate::proxy::Proxy;

const DATABASE: &str = "gantry";
/// Bytes of the WAL for each job of a case: some 4.5 kB is what it writes, and the longest run has three times the jobs.
const WAL_OF_A_JOB: usize = 20_000;
const WAL_FILE: usize = 16 << 20;

/// Where the jobs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Executor {
    /// Simulated containers.
    Mock,
    /// Containers of a private Docker Engine.
    Docker,
}

impl Executor {
    pub(crate) fn executor_type(self) -> ExecutorType {
        match self {
            Self::Mock => ExecutorType::Mock,
            Self::Docker => ExecutorType::Docker,
        }
    }
}

/// What a fleet consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) executor: Executor,
    /// Of all hosts together.
    pub(crate) slots: u32,
    /// With mock; docker has one.
    pub(crate) hosts: u32,
    pub(crate) tenants: u32,
    /// Processes of each part.
    pub(crate) replicas: u32,
    /// Whether the way to the engine leads through a proxy that notes create requests.
    pub(crate) sees_requests: bool,
}

impl Layout {
    /// One of each part, one host, one tenant.
    pub(crate) fn plain(executor: Executor, slots: u32) -> Self {
        Self { executor, slots, hosts: 1, tenants: 1, replicas: 1, sees_requests: false }
    }
}

/// The servers of a run; they are the same for everything that is compared.
pub(crate) struct Servers {
    pub(crate) postgres: Postgres,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) data: TempDir,
}

impl Servers {
    /// Postgres with these settings of its own.
    pub(crate) async fn start(settings: &[&str]) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("gantry-bench-").tempdir()?;
        let (postgres, rabbitmq) =
            tokio::try_join!(Postgres::start_with(data.path(), settings), RabbitMq::start(data.path()))?;
        Ok(Self { postgres, rabbitmq, data })
    }

    /// The address of a database, for the superuser.
    pub(crate) fn database(&self, name: &str) -> String {
        self.postgres.url("postgres", name)
    }

    /// Makes a database, empty whatever there was of that name.
    pub(crate) async fn fresh_database(&self, name: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.database("postgres")).await?;
        for statement in ["drop database if exists", "create database"] {
            connection.execute(AssertSqlSafe(format!("{statement} {name}"))).await?;
        }
        Ok(connection.close().await?)
    }

    /// Lets Postgres write out what the last case left, so that the next does not pay for it.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.database("postgres")).await?;
        connection.execute("checkpoint").await?;
        Ok(connection.close().await?)
    }

    /// Gives Postgres the files that the WAL of so many jobs needs, as a server has them that has been in use for a while: it keeps
    /// what it has used once (`min_wal_size`). One that makes a new file holds up all commits for some 60 ms.
    pub(crate) async fn has_been_used(&self, jobs: usize) -> anyhow::Result<()> {
        let files = jobs * WAL_OF_A_JOB / WAL_FILE + 8;
        let mut connection = PgConnection::connect(&self.database("postgres")).await?;
        let fill = format!(
            "do $$ begin for file in 1..{files} loop
                 perform pg_logical_emit_message(false, 'bench', ''), pg_switch_wal();
             end loop; end $$"
        );
        connection.execute(AssertSqlSafe(fill)).await?;
        connection.close().await?;
        self.settle().await
    }

    /// The process ids of Postgres and RabbitMQ, as they have written them down.
    pub(crate) fn processes(&self) -> anyhow::Result<[(&'static str, u32); 2]> {
        let pid = |file: &str| -> anyhow::Result<u32> {
            let path = self.data.path().join(file);
            let text = std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
            Ok(text.lines().next().unwrap_or_default().trim().parse()?)
        };
        Ok([("postgres", pid("postgres/cluster/postmaster.pid")?), ("rabbitmq", pid("rabbitmq/pid")?)])
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let (postgres, rabbitmq) = tokio::join!(self.postgres.stop(), self.rabbitmq.stop());
        postgres?;
        Ok(rabbitmq?)
    }
}

/// A running fleet.
pub(crate) struct Fleet {
    pub(crate) layout: Layout,
    pub(crate) broker: Broker,
    pub(crate) sql: PgPool,
    pub(crate) store: Store,
    /// Sees every create request, where that is measured.
    pub(crate) proxy: Option<Proxy>,
    /// Of the HTTP API.
    pub(crate) api: String,
    servers: [(&'static str, u32); 2],
    engine: Option<DockerEngine>,
    children: Vec<(String, Child)>,
    _mock: TempDir,
}

/// The API key of the tenant with this number.
pub(crate) fn key(tenant: usize) -> String {
    format!("gantry-bench-key-{tenant}")
}

impl Fleet {
    /// Starts a fleet with a fresh database.
    pub(crate) async fn start(servers: &Servers, binaries: &Path, layout: Layout) -> anyhow::Result<Self> {
        servers.fresh_database(DATABASE).await?;
        schema::migrate(&servers.database(DATABASE)).await?;
        let url = servers.postgres.url("gantry_fleet", DATABASE);
        let store = Store::new(&gantry_store::Config::new(url.as_str()), "gantry-bench")?;
        for number in 0..layout.tenants as usize {
            let tenant = tenants::put_tenant(&store, &format!("bench-{number}")).await?;
            tenants::put_key(&store, tenant, "bench", &key(number), false).await?;
        }

        // In memory, as a backend elsewhere would cost this machine's disk nothing either.
        let mock = tempfile::Builder::new().prefix("gantry-mock").tempdir_in("/dev/shm")?;
        let (mut engine, mut proxy) = (None, None);
        match layout.executor {
            Executor::Mock => {
                for host in 0..layout.hosts {
                    let connection = json!({"dir": mock.path().join(host.to_string())});
                    let slots = layout.slots / layout.hosts + u32::from(host < layout.slots % layout.hosts);
                    add_host(&store, layout.executor, &format!("bench-{host}"), connection, slots).await?;
                }
            }
            Executor::Docker => {
                let started = DockerEngine::start(servers.data.path()).await?;
                started.import_test_image().await?;
                if layout.sees_requests {
                    let path = servers.data.path().join("engine.sock");
                    proxy = Some(Proxy::start(started.socket_path(), &path).await?);
                }
                let socket = proxy.as_ref().map_or(started.socket_path(), Proxy::path);
                let connection = json!({"endpoint": format!("unix://{}", socket.display())});
                add_host(&store, layout.executor, "bench-0", connection, layout.slots).await?;
                engine = Some(started);
            }
        }

        let amqp = servers.rabbitmq.amqp_url("/");
        let listen = free_address()?;
        let worker = format!("gantry-worker-{}", layout.executor.executor_type());
        let mut children = Vec::new();
        for part in ["gantry-dispatcher", "gantry-recorder", &worker] {
            for _ in 0..layout.replicas {
                children.push((part.to_owned(), spawn(&binaries.join(part), &url, &amqp, None)?));
            }
        }
        let api_url = servers.postgres.url("gantry_api", DATABASE);
        let api = spawn(&binaries.join("gantry-api"), &api_url, &amqp, Some(&listen))?;
        children.push(("gantry-api".to_owned(), api));
        let broker = Broker::connect(gantry_broker::Config::new(amqp.as_str()), "bench").await?;
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        broker.topology().declare(&broker, &types).await?;
        let sql = PgPool::connect(&servers.database(DATABASE)).await?;
        let api = format!("http://{listen}");
        let servers = servers.processes()?;
        let fleet = Self { layout, broker, sql, store, proxy, api, servers, engine, children, _mock: mock };
        fleet.served().await?;
        Ok(fleet)
    }

    /// Waits until as many workers as there are serve every host.
    async fn served(&self) -> anyhow::Result<()> {
        let wanted = i64::from(self.layout.replicas) * i64::from(self.layout.hosts);
        for _ in 0..600 {
            let served: i64 =
                sqlx::query_scalar("select count(*) from worker_hosts where healthy").fetch_one(&self.sql).await?;
            if served >= wanted {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("no worker serves the hosts")
    }

    /// The engine itself, without the proxy.
    pub(crate) fn docker(&self) -> anyhow::Result<Docker> {
        let engine = self.engine.as_ref().context("this fleet has no Docker Engine")?;
        let socket = engine.socket_path().to_str().context("the socket's path is not UTF-8")?.to_owned();
        Ok(Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION)?)
    }

    /// How many containers the engine has, in whatever state.
    pub(crate) async fn containers(&self) -> anyhow::Result<usize> {
        let docker = self.docker()?.negotiate_version().await?;
        let all = ListContainersOptionsBuilder::new().all(true).build();
        Ok(docker.list_containers(Some(all)).await?.len())
    }

    /// Waits until the engine has no container left.
    pub(crate) async fn containers_removed(&self) -> anyhow::Result<()> {
        for _ in 0..600 {
            if self.containers().await? == 0 {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("containers were left over")
    }

    /// The spec of a job that does nothing.
    pub(crate) fn no_op(&self) -> Value {
        match self.layout.executor {
            Executor::Mock => json!({"image": "none"}),
            Executor::Docker => json!({"image": TEST_IMAGE, "command": ["true"]}),
        }
    }

    /// Seconds of CPU that every server and part, and this process, have used so far.
    pub(crate) fn cpu(&self) -> cpu::Used {
        let parts = self.children.iter().filter_map(|(name, child)| Some((name.as_str(), child.id()?)));
        let own = [("producer", std::process::id())];
        cpu::Used::of(self.servers.into_iter().chain(parts), own)
    }

    /// The process of a worker.
    pub(crate) fn worker(&self) -> anyhow::Result<u32> {
        let worker = self.children.iter().find(|(name, _)| name.starts_with("gantry-worker"));
        worker.and_then(|(_, child)| child.id()).context("there is no worker")
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        for (_, child) in &self.children {
            if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                kill_process(pid, Signal::TERM)?;
            }
        }
        for (name, child) in &mut self.children {
            let status = child.wait().await?;
            ensure!(status.success(), "{name} ended with {status}");
        }
        drop(self.broker);
        self.store.close().await;
        self.sql.close().await;
        if let Some(engine) = self.engine {
            engine.stop().await?;
        }
        Ok(())
    }
}

async fn add_host(store: &Store, executor: Executor, name: &str, connection: Value, slots: u32) -> anyhow::Result<()> {
    let host = NewHost {
        tenant: None,
        name,
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

fn spawn(binary: &PathBuf, database: &str, broker: &str, listen: Option<&str>) -> anyhow::Result<Child> {
    let mut command = Command::new(binary);
    match listen {
        Some(listen) => command.env("GANTRY_HTTP__LISTEN", listen),
        // Connections as docs/OPERATIONS.md has them for few cores.
        None => command.env("GANTRY_SERVE__LISTEN", "127.0.0.1:0").env("GANTRY_DATABASE__MAX_CONNECTIONS", "4"),
    };
    command
        .env("GANTRY_DATABASE__URL", database)
        .env("GANTRY_BROKER__URL", broker)
        .env("GANTRY_TELEMETRY__FILTER", "warn,lapin=off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {}; build it with `cargo build --profile dist`", binary.display()))
}

/// An address that nobody listens at now.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string())
}
