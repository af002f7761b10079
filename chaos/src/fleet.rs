//! A fleet of its own for every trial: a database, a vhost, a folder of simulated containers, three processes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use gantry_broker::Broker;
use gantry_core::ExecutorType;
use gantry_executor_mock::ledger::{self, Ledger};
use gantry_store::hosts::{self, NewHost};
use gantry_store::templates::{self, NewTemplate};
use gantry_store::{Scope, Store, tenants};
use gantry_testkit::{TestDb, TestVhost};
use rustix::process::Signal;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;

use crate::part::{Part, Points, Process, Surroundings};
use crate::verdict::Engine;

pub(crate) const KEY: &str = "gantry-chaos-key";
/// A container template that jobs may name.
pub(crate) const TEMPLATE: &str = "simulated";
/// The hosts of simulated containers, each a folder, and their slots: of one that everybody shares, and of one of the
/// tenant's own, because its slots are given out in another way. Fewer than the jobs, so that some wait.
const HOSTS: [(&str, u16); 2] = [(SHARED, 3), ("own", 1)];
const SHARED: &str = "shared";
/// Between two looks at a condition.
pub(crate) const POLL: Duration = Duration::from_millis(100);

/// A fleet. [`Fleet::remove`] it; what is dropped on an error leaves its cleaning to `Drop`.
pub(crate) struct Fleet {
    pub(crate) surroundings: Surroundings,
    /// As the database's owner.
    pub(crate) sql: PgPool,
    pub(crate) store: Store,
    pub(crate) amqp: String,
    /// For how long its workers have a launch under one name be idempotent; for ever, if none.
    pub(crate) idempotence: Option<&'static str>,
    processes: Vec<(Part, Process)>,
    /// How often a part that nobody killed had to be started again.
    pub(crate) restarts: usize,
    folder: TempDir,
    vhost: TestVhost,
    db: TestDb,
}

impl Fleet {
    /// One whose parts are not started yet.
    pub(crate) async fn create(binaries: &Path) -> anyhow::Result<Self> {
        let (db, vhost) = tokio::join!(TestDb::create(), TestVhost::create());
        // In memory, as a backend elsewhere would cost this machine's disk nothing either.
        let folder = tempfile::Builder::new().prefix("gantry-chaos").tempdir_in("/dev/shm")?;
        let (database, amqp) = (db.fleet_url(), vhost.amqp_url().to_owned());
        let store = Store::new(&few_connections(&database), "gantry-chaos")?;
        populate(&store, &folder.path().join("mock")).await?;
        // As in production, where the queues are there long before a part dies at its start.
        declare(&amqp).await?;
        let sql = PgPoolOptions::new().max_connections(3).connect(&db.owner_url()).await?;
        let surroundings = Surroundings {
            binaries: binaries.to_owned(),
            database,
            broker: amqp.clone(),
            folder: folder.path().to_owned(),
        };
        let (idempotence, processes) = (None, Vec::new());
        Ok(Self { surroundings, sql, store, amqp, idempotence, processes, restarts: 0, folder, vhost, db })
    }

    /// Starts a part, in the place of one that ended.
    pub(crate) fn start(&mut self, part: Part, points: Points<'_>) -> anyhow::Result<()> {
        self.processes.retain(|(other, _)| *other != part);
        let mut command = self.surroundings.command(part, points)?;
        if let Some(time) = self.idempotence {
            command.env("GANTRY_MOCK_IDEMPOTENCE", time);
        }
        self.processes.push((part, Process::start(command)?));
        Ok(())
    }

    fn process(&mut self, part: Part) -> anyhow::Result<&mut Process> {
        let found = self.processes.iter_mut().find(|(other, _)| *other == part);
        Ok(&mut found.context("the part was not started")?.1)
    }

    /// Whether a part has ended.
    pub(crate) fn has_ended(&mut self, part: Part) -> anyhow::Result<bool> {
        self.process(part)?.has_ended()
    }

    /// Sends a part a signal and waits for its end.
    pub(crate) async fn end(&mut self, part: Part, signal: Signal) -> anyhow::Result<()> {
        let process = self.process(part)?;
        process.signal(signal)?;
        process.wait().await?;
        Ok(())
    }

    /// Starts every part again that ended by itself, but for `spared`: as any supervisor would.
    pub(crate) fn supervise(&mut self, spared: Option<Part>) -> anyhow::Result<()> {
        for part in Part::ALL {
            if Some(part) != spared && self.has_ended(part)? {
                self.restarts += 1;
                self.start(part, Points::Ignored)?;
            }
        }
        Ok(())
    }

    /// Looks at a condition until it holds, while the parts are supervised; false after `limit`.
    pub(crate) async fn until(
        &mut self,
        limit: Duration,
        spared: Option<Part>,
        mut condition: impl AsyncFnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            // Asked once more after the limit, so that a slow machine's last look counts.
            let last = Instant::now() > end;
            if condition(self).await? {
                return Ok(true);
            }
            if last {
                return Ok(false);
            }
            self.supervise(spared)?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether any job runs.
    pub(crate) async fn runs_something(&self) -> anyhow::Result<bool> {
        let sql = "select exists (select from container_executions where started_at is not null and ended_at is null)";
        Ok(sqlx::query_scalar(sql).fetch_one(&self.sql).await?)
    }

    fn mock(&self) -> PathBuf {
        self.folder.path().join("mock")
    }

    /// What the containers themselves wrote down, host by host.
    pub(crate) fn engines(&self) -> anyhow::Result<Vec<Engine>> {
        engines(&self.mock())
    }

    /// Containers that were not removed, by name.
    pub(crate) fn left(&self) -> anyhow::Result<Vec<String>> {
        left(&self.mock())
    }

    /// Ends the parts and removes everything; with `keep`, the folder with the parts' logs stays, and is returned.
    pub(crate) async fn remove(self, keep: bool) -> anyhow::Result<Option<PathBuf>> {
        let Self { mut processes, sql, store, folder, vhost, db, .. } = self;
        for (_, process) in &mut processes {
            process.signal(Signal::KILL)?;
            process.wait().await?;
        }
        sql.close().await;
        store.close().await;
        // Both block until the server has done it.
        tokio::task::spawn_blocking(move || drop((vhost, db))).await?;
        Ok(keep.then(|| folder.keep()))
    }
}

/// The simulated containers of the hosts in the folder `mock` that were not removed.
pub(crate) fn left(mock: &Path) -> anyhow::Result<Vec<String>> {
    Ok(engines(mock)?.into_iter().flat_map(|engine| engine.left).collect())
}

/// What ran on each host in the folder `mock`, by what its containers wrote down, and what is left of it.
pub(crate) fn engines(mock: &Path) -> anyhow::Result<Vec<Engine>> {
    let mut engines = Vec::new();
    for (name, slots) in HOSTS {
        let folder = mock.join(name);
        let ledger = match ledger::read(&folder) {
            // Until a worker looks there, which at the smaller one may be never.
            Err(error) if name != SHARED && error.kind() == io::ErrorKind::NotFound => continue,
            ledger => ledger.context("the containers left no ledger")?,
        };
        let left = ledger.left().map(str::to_owned).collect();
        engines.push(Engine {
            ledger,
            forgotten: Ledger::default(),
            limit: slots.into(),
            printed: BTreeMap::new(),
            left,
        });
    }
    Ok(engines)
}

/// A tenant with a key, a template, and the hosts of simulated containers in the folder `mock`.
pub(crate) async fn populate(store: &Store, mock: &Path) -> anyhow::Result<()> {
    let tenant = tenants::put_tenant(store, "chaos").await?;
    tenants::put_key(store, tenant, "chaos", KEY, false).await?;
    let template = NewTemplate {
        supported_executors: &[ExecutorType::Mock],
        ..NewTemplate::new(tenant, TEMPLATE, "simulated", "chaos")
    };
    templates::put(store, Scope::Fleet, &template).await?;
    std::fs::create_dir_all(mock)?;
    for (name, slots) in HOSTS {
        let host = NewHost {
            tenant: (name != SHARED).then_some(tenant),
            name: "chaos",
            executor_type: ExecutorType::Mock,
            connection_config: json!({ "dir": mock.join(name) }),
            executor_config: json!({}),
            max_concurrent_jobs: i32::from(slots),
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        hosts::insert(store, Scope::Fleet, &host).await?;
    }
    Ok(())
}

/// Declares every queue.
pub(crate) async fn declare(amqp: &str) -> anyhow::Result<()> {
    let broker = Broker::connect(gantry_broker::Config::new(amqp), "gantry-chaos").await?;
    let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
    broker.topology().declare(&broker, &types).await?;
    Ok(())
}

pub(crate) fn few_connections(url: &str) -> gantry_store::Config {
    gantry_store::Config { max_connections: 2, ..gantry_store::Config::new(url) }
}
