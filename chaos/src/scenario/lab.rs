//! A fleet for one scenario: a database, a host, and parts as processes, on servers that the scenario owns.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gantry_broker::Broker;
use gantry_core::{ExecutorType, JobId};
use gantry_servers::{Postgres, TEST_IMAGE};
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, schema, tenants};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::process::Command;

use super::cloud::Place;
use super::engine::Engine;
use crate::fleet::KEY;
use crate::part::Process;

/// Between two looks at a condition.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Where containers run.
#[derive(Clone, Debug)]
pub(crate) enum Backend {
    /// Simulated ones, in a folder.
    Mock(PathBuf),
    /// Real ones.
    Docker(Engine),
    /// Real ones, of a cloud's double.
    Cloud(Place),
}

/// A fleet whose parts the scenario starts, by name.
pub(crate) struct Lab {
    binaries: PathBuf,
    /// Logs of the parts, and what their failpoints write.
    pub(crate) folder: PathBuf,
    database: String,
    /// RabbitMQ's addresses, separated by commas.
    broker: String,
    pub(crate) backend: Backend,
    pub(crate) slots: usize,
    /// As the database's owner.
    pub(crate) sql: PgPool,
    parts: Vec<(String, Process)>,
}

/// What a lab stands on.
pub(crate) struct Ground<'a> {
    pub(crate) binaries: &'a Path,
    pub(crate) postgres: &'a Postgres,
    /// RabbitMQ's addresses, separated by commas.
    pub(crate) broker: String,
    pub(crate) backend: Backend,
    pub(crate) slots: usize,
    /// A folder that outlives the lab.
    pub(crate) folder: PathBuf,
    /// The database's name, one per lab of a server.
    pub(crate) name: &'a str,
}

/// Whose lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Settings as they are without a configuration file.
    Default,
    /// A lease of 6 s, so that what must outlast it does not take long.
    Quick,
}

impl Lab {
    /// Makes the database and the host; no part runs yet.
    pub(crate) async fn create(ground: Ground<'_>) -> anyhow::Result<Self> {
        let Ground { binaries, postgres, broker, backend, slots, folder, name } = ground;
        std::fs::create_dir_all(&folder)?;
        schema::create_database(&postgres.url("postgres", "postgres"), name).await?;
        let owner = postgres.url("postgres", name);
        schema::migrate(&owner).await?;
        let database = postgres.url("gantry_fleet", name);
        let store = store(&database)?;
        let tenant = tenants::put_tenant(&store, "chaos").await?;
        tenants::put_key(&store, tenant, "chaos", KEY, false).await?;
        let (executor_type, connection_config, executor_config) = match &backend {
            Backend::Mock(folder) => (ExecutorType::Mock, json!({ "dir": folder }), json!({})),
            Backend::Docker(engine) => {
                (ExecutorType::Docker, json!({ "endpoint": engine.endpoint() }), json!({ "pull_policy": "never" }))
            }
            Backend::Cloud(place) => {
                (place.cloud.executor_type(), place.connection_config.clone(), place.executor_config.clone())
            }
        };
        let host = NewHost {
            tenant: None,
            name: "chaos",
            executor_type,
            connection_config,
            executor_config,
            max_concurrent_jobs: i32::try_from(slots)?,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        hosts::insert(&store, Scope::Fleet, &host).await?;
        store.close().await;
        // As in production, where the queues are there before producers come.
        let topology = Broker::connect(gantry_broker::Config::new(broker.as_str()), "lab").await?;
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        topology.topology().declare(&topology, &types).await?;
        let sql = PgPoolOptions::new().max_connections(3).connect(&owner).await?;
        Ok(Self { binaries: binaries.to_owned(), folder, database, broker, backend, slots, sql, parts: Vec::new() })
    }

    /// As the fleet's own role.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        store(&self.database)
    }

    /// Starts a dispatcher, a recorder and workers of these names.
    pub(crate) fn start_all(&mut self, workers: &[&str], pace: Pace) -> anyhow::Result<()> {
        self.start("dispatcher", pace, &[])?;
        self.start("recorder", pace, &[])?;
        workers.iter().try_for_each(|worker| self.start(worker, pace, &[]))
    }

    /// Starts a part. What its name begins with says which; `more` is added to its environment. It dies with the lab.
    pub(crate) fn start(&mut self, name: &str, pace: Pace, more: &[(&str, String)]) -> anyhow::Result<()> {
        let binary = match (name.split('-').next(), &self.backend) {
            (Some("dispatcher"), _) => "gantry-dispatcher",
            (Some("recorder"), _) => "gantry-recorder",
            (_, Backend::Mock(_)) => "gantry-worker-mock",
            (_, Backend::Docker(_)) => "gantry-worker-docker",
            (_, Backend::Cloud(place)) => place.cloud.worker(),
        };
        let log = File::options().create(true).append(true).open(self.log(name))?;
        let mut command = Command::new(self.binaries.join(binary));
        command
            .env("GANTRY_DATABASE__URL", &self.database)
            .env("GANTRY_BROKER__URL", &self.broker)
            .env("GANTRY_SERVE__LISTEN", "127.0.0.1:0")
            .env("GANTRY_TELEMETRY__FILTER", "info,lapin=off")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        if pace == Pace::Quick && binary.contains("worker") {
            command
                // A transaction must be over in a third of the lease.
                .env("GANTRY_DATABASE__TRANSACTION_TIMEOUT_MILLIS", "1500")
                .env("GANTRY_WORKER__LEASE_SECONDS", "6")
                .env("GANTRY_WORKER__BEAT_MILLIS", "500")
                .env("GANTRY_WORKER__HOST_CHECK_SECONDS", "1")
                .env("GANTRY_WORKER__STOP_GRACE_SECONDS", "1");
        }
        if let Backend::Cloud(place) = &self.backend {
            command.env("GANTRY_SECRETS_DIR", &place.secrets);
        }
        command.envs(more.iter().map(|(name, value)| (name, value)));
        self.parts.retain(|(other, _)| other != name);
        self.parts.push((name.to_owned(), Process::start(command)?));
        Ok(())
    }

    /// Sends a part a signal and waits for its end; returns how long that took.
    pub(crate) async fn end(&mut self, name: &str, signal: Signal) -> anyhow::Result<Duration> {
        let began = Instant::now();
        if let Some(index) = self.parts.iter().position(|(other, _)| other == name) {
            let (_, mut process) = self.parts.remove(index);
            process.signal(signal)?;
            process.wait().await?;
        }
        Ok(began.elapsed())
    }

    /// Whether a part has ended by itself.
    pub(crate) fn has_ended(&mut self, name: &str) -> anyhow::Result<bool> {
        let part = self.parts.iter_mut().find(|(other, _)| other == name);
        part.map_or(Ok(true), |(_, process)| process.has_ended())
    }

    /// The parts that have ended by themselves.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Vec<String>> {
        let mut ended = Vec::new();
        for (name, process) in &mut self.parts {
            if process.has_ended()? {
                ended.push(name.clone());
            }
        }
        Ok(ended)
    }

    /// The process id of a part that runs.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.parts.iter().find(|(other, _)| other == name)?.1.id()
    }

    /// The file with what a part has said, its predecessors of the same name included.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// How many lines of all parts' logs contain a text.
    pub(crate) fn said(&self, text: &str) -> anyhow::Result<usize> {
        let mut count = 0;
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                count += std::fs::read_to_string(path)?.lines().filter(|line| line.contains(text)).count();
            }
        }
        Ok(count)
    }

    /// A submission of this lab's kind of job: simulated ones take `labels`, real ones run `script`.
    pub(crate) fn job(&self, work: Work<'_>) -> Value {
        match (work, &self.backend) {
            (Work::Labels(labels), _) => {
                let labels: serde_json::Map<String, Value> =
                    labels.iter().map(|(name, value)| (format!("mock.{name}"), json!(value))).collect();
                json!({ "preferred_executor": "mock", "spec": { "image": "simulated" }, "labels": labels })
            }
            (Work::Script(script), backend) => {
                let executor = match backend {
                    Backend::Cloud(place) => place.cloud.executor_type(),
                    Backend::Mock(_) | Backend::Docker(_) => ExecutorType::Docker,
                };
                json!({
                    "preferred_executor": executor.as_str(),
                    "spec": { "image": TEST_IMAGE, "command": ["sh", "-c", script] },
                })
            }
        }
    }

    /// Looks at a condition until it holds; when it first did, or None after `limit`.
    pub(crate) async fn until(
        &mut self,
        limit: Duration,
        mut condition: impl AsyncFnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Option<Duration>> {
        let began = Instant::now();
        loop {
            let last = began.elapsed() > limit;
            if condition(self).await? {
                return Ok(Some(began.elapsed()));
            }
            if last {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The attempts that run now: job, epoch, and the process id of their worker.
    pub(crate) async fn running(&self) -> anyhow::Result<Vec<Running>> {
        let rows: Vec<(uuid::Uuid, i32, uuid::Uuid, String)> = sqlx::query_as(
            "select e.job_id, e.epoch, w.id, w.name from container_executions e join workers w on w.id = e.worker_id
             where e.started_at is not null and e.ended_at is null order by e.job_id",
        )
        .fetch_all(&self.sql)
        .await?;
        rows.into_iter()
            .map(|(job, epoch, worker, name)| {
                let pid = name.rsplit(':').next().and_then(|pid| pid.parse().ok());
                Ok(Running { job: job.into(), epoch, worker, pid })
            })
            .collect()
    }

    /// Ends every part; what is over is over.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        for (_, process) in &mut self.parts {
            process.signal(Signal::KILL)?;
            process.wait().await?;
        }
        self.sql.close().await;
        Ok(())
    }
}

fn store(url: &str) -> anyhow::Result<Store> {
    Ok(Store::new(&gantry_store::Config { max_connections: 2, ..gantry_store::Config::new(url) }, "lab")?)
}

/// What a job does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work<'a> {
    /// Of a simulated container, the labels without their `mock.`.
    Labels(&'a [(&'a str, &'a str)]),
    /// Of a real one.
    Script(&'a str),
}

/// An attempt whose container runs.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) job: JobId,
    pub(crate) epoch: i32,
    pub(crate) worker: uuid::Uuid,
    /// Of its worker, as the worker registered.
    pub(crate) pid: Option<u32>,
}
