//! The servers of a run, its own: whatever happens to them happens to nobody else.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use gantry_servers::{DockerEngine, Postgres, RabbitMq};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use tokio::process::Command;

use super::schedule::{Outage, Server};

/// Postgres, RabbitMQ and a Docker Engine.
pub(crate) struct Servers {
    folder: PathBuf,
    postgres: Option<Postgres>,
    rabbitmq: Option<RabbitMq>,
    engine: Option<DockerEngine>,
    /// They stay the same over restarts.
    addresses: Addresses,
    /// From when to when the engine was away, in nanoseconds of CLOCK_BOOTTIME.
    engine_away: Vec<(u64, u64)>,
}

/// Where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Of the database, for its owner.
    pub(crate) database: String,
    pub(crate) amqp: String,
    pub(crate) socket: PathBuf,
}

/// A server that was taken away.
pub(crate) struct Gone {
    server: Server,
    pid: u32,
    began: Instant,
    /// In nanoseconds of CLOCK_BOOTTIME.
    from: u64,
}

const RUNNING: &str = "a server is away only while it is restarted";
/// The database of the fleet.
const DATABASE: &str = "gantry";

impl Servers {
    /// Starts them in a folder.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let (postgres, rabbitmq, engine) =
            tokio::try_join!(Postgres::start(folder), RabbitMq::start(folder), DockerEngine::start(folder))?;
        engine.import_test_image().await?;
        let addresses = addresses(&postgres, &rabbitmq, &engine);
        let folder = folder.to_owned();
        Ok(Self {
            folder,
            postgres: Some(postgres),
            rabbitmq: Some(rabbitmq),
            engine: Some(engine),
            addresses,
            engine_away: Vec::new(),
        })
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The address of a database that is always there, for the superuser.
    pub(crate) fn superuser(&self) -> String {
        self.postgres.as_ref().expect(RUNNING).url("postgres", "postgres")
    }

    /// Takes a server away.
    pub(crate) async fn take_down(&mut self, outage: Outage) -> anyhow::Result<Gone> {
        let (pid, began, from) = (self.process(outage.server())?, Instant::now(), uptime());
        match outage {
            Outage::RabbitMqStopped => self.rabbitmq.take().expect(RUNNING).stop().await?,
            Outage::RabbitMqKilled => self.rabbitmq.take().expect(RUNNING).crash().await?,
            Outage::PostgresImmediate => self.postgres.take().expect(RUNNING).crash().await?,
            Outage::EngineStopped => self.engine.take().expect(RUNNING).terminate().await?,
            Outage::EngineKilled => self.engine.take().expect(RUNNING).crash().await?,
        }
        Ok(Gone { server: outage.server(), pid, began, from })
    }

    /// Brings it back; returns the proof that another process is in its place.
    pub(crate) async fn bring_back(&mut self, gone: Gone) -> anyhow::Result<String> {
        match gone.server {
            Server::Postgres => self.postgres = Some(Postgres::start(&self.folder).await?),
            Server::RabbitMq => self.rabbitmq = Some(RabbitMq::start(&self.folder).await?),
            Server::Engine => {
                self.engine = Some(DockerEngine::start(&self.folder).await?);
                self.engine_away.push((gone.from, uptime()));
            }
        }
        let addresses = addresses(
            self.postgres.as_ref().expect(RUNNING),
            self.rabbitmq.as_ref().expect(RUNNING),
            self.engine.as_ref().expect(RUNNING),
        );
        ensure!(addresses == self.addresses, "a server came back elsewhere: {addresses:?}, not {:?}", self.addresses);
        let (before, after) = (gone.pid, self.process(gone.server)?);
        ensure!(before != after, "process {before} was to end and is still there");
        Ok(format!("pid {before} went, pid {after} came after {:.1} s", gone.began.elapsed().as_secs_f64()))
    }

    /// From when to when the engine was away, in nanoseconds of CLOCK_BOOTTIME.
    pub(crate) fn engine_away(&self) -> &[(u64, u64)] {
        &self.engine_away
    }

    /// Has the engine write down what each of its threads waits for: in `docker/exec/goroutine-stacks-*.log` and
    /// `docker/dockerd.log`.
    pub(crate) fn ask_engine_for_stacks(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.process(Server::Engine)?.cast_signed()).context("no process")?;
        Ok(kill_process(pid, Signal::USR1)?)
    }

    /// The process id that the server itself has written down.
    fn process(&self, server: Server) -> anyhow::Result<u32> {
        let file = self.folder.join(match server {
            Server::Postgres => "postgres/cluster/postmaster.pid",
            Server::RabbitMq => "rabbitmq/pid",
            Server::Engine => "docker/dockerd.pid",
        });
        let text = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        let first = text.lines().next().unwrap_or_default().trim();
        first.parse().with_context(|| format!("{} has no process id", file.display()))
    }

    /// Ends those that are there.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let Self { postgres, rabbitmq, engine, .. } = self;
        tokio::try_join!(
            async { if let Some(server) = postgres { server.stop().await } else { Ok(()) } },
            async { if let Some(server) = rabbitmq { server.stop().await } else { Ok(()) } },
            async { if let Some(server) = engine { server.stop().await } else { Ok(()) } },
        )?;
        Ok(())
    }
}

impl Addresses {
    /// The `docker` command on this engine.
    pub(crate) fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display())).kill_on_drop(true);
        command
    }

    /// The database for a role.
    pub(crate) fn database_for(&self, role: &str) -> String {
        self.database.replacen("postgres://postgres@", &format!("postgres://{role}@"), 1)
    }
}

/// The output of a command that must succeed.
pub(crate) async fn output(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}: {errors}", command.as_std(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// CLOCK_BOOTTIME in nanoseconds: what the containers' ledger counts in.
fn uptime() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

fn addresses(postgres: &Postgres, rabbitmq: &RabbitMq, engine: &DockerEngine) -> Addresses {
    Addresses {
        database: postgres.url("postgres", DATABASE),
        amqp: rabbitmq.amqp_url("/"),
        socket: engine.socket_path().to_owned(),
    }
}
