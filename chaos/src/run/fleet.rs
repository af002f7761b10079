//! The fleet of a run: two of each part on servers of its own, supervised, each behind proxies of its own.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use gantry_core::ExecutorType;
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, schema, tenants};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tempfile::TempDir;

use super::links::ENGINE;
use super::process::Supervised;
use super::schedule::{self, Member};
use super::servers::{Addresses, Servers, output};
use super::{jobs, ledger};
use crate::fleet::{declare, engines, few_connections, left, populate};
use crate::part::Part;
use crate::verdict::{Engine, Evidence, doubted, rows, slots};

/// Of the host with real containers. Few, so that some jobs wait.
pub(crate) const DOCKER_SLOTS: u16 = 3;

/// Servers, processes, folders.
pub(crate) struct Fleet {
    pub(crate) servers: Servers,
    pub(crate) processes: Vec<Supervised>,
    /// As the database's owner. Not through a proxy: whoever judges is not cut off.
    pub(crate) sql: PgPool,
    pub(crate) addresses: Addresses,
    /// The label of its containers.
    id: String,
    api: String,
    folders: Folders,
}

struct Folders {
    /// The servers, the parts' logs, the ledgers.
    disk: TempDir,
    /// The simulated containers. In memory, as a backend elsewhere would cost this machine's disk nothing either.
    memory: TempDir,
}

impl Fleet {
    /// Starts servers and parts.
    pub(crate) async fn start(binaries: &Path) -> anyhow::Result<Self> {
        let builder = || {
            let mut builder = tempfile::Builder::new();
            builder.prefix("gantry-chaos-");
            builder
        };
        let folders = Folders { disk: builder().tempdir()?, memory: builder().tempdir_in("/dev/shm")? };
        let servers = Servers::start(folders.disk.path()).await?;
        let addresses = servers.addresses().clone();
        let mut superuser = PgConnection::connect(&servers.superuser()).await?;
        sqlx::query("create database gantry").execute(&mut superuser).await?;
        superuser.close().await?;
        schema::migrate(&addresses.database).await?;

        std::fs::create_dir(folders.ledger())?;
        let store = Store::new(&few_connections(&addresses.database_for("gantry_fleet")), "gantry-chaos")?;
        populate(&store, &folders.mock()).await?;
        let host = NewHost {
            tenant: None,
            name: "engine",
            executor_type: ExecutorType::Docker,
            connection_config: json!({ "endpoint": ENGINE }),
            executor_config: json!({ "pull_policy": "never", "writable_mounts": [folders.ledger()] }),
            max_concurrent_jobs: DOCKER_SLOTS.into(),
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        hosts::insert(&store, Scope::Fleet, &host).await?;
        let id = tenants::fleet(&store).await?.to_string();
        store.close().await;
        declare(&addresses.amqp).await?;

        let api = free_address()?;
        let mut processes = Vec::new();
        for member in schedule::members() {
            let listen = (member.part == Part::Api).then(|| api.clone());
            let folder = folders.logs().join(member.to_string());
            processes.push(Supervised::start(member, binaries, folder, &addresses, listen).await?);
        }
        let sql = PgPoolOptions::new().max_connections(3).connect(&addresses.database).await?;
        Ok(Self { servers, processes, sql, addresses, id, api: format!("http://{api}"), folders })
    }

    /// The address of the HTTP API.
    pub(crate) fn api(&self) -> &str {
        &self.api
    }

    /// The folder that real containers write their ledger to.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.folders.ledger()
    }

    /// Where the parts log.
    pub(crate) fn logs(&self) -> PathBuf {
        self.folders.logs()
    }

    /// The fleet's id, which its containers have as a label.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn process(&self, member: Member) -> &Supervised {
        self.processes.iter().find(|process| process.member == member).expect("every member was started")
    }

    /// The containers of this fleet that are still there, in whatever state: simulated ones, real ones.
    pub(crate) async fn containers(&self) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        let mut docker = self.addresses.docker();
        docker.args(["ps", "--all", "--filter", &format!("label=gantry.fleet={}", self.id)]);
        docker.args(["--format", "{{.Names}} ({{.State}})"]);
        let real = output(docker).await?.lines().map(str::to_owned).collect();
        Ok((left(&self.folders.mock())?, real))
    }

    /// What there is to judge by, but for what the producer knows.
    pub(crate) async fn evidence(&self) -> anyhow::Result<Evidence> {
        let (_, real) = self.containers().await?;
        let book = ledger::read(&self.ledger().join(jobs::FILE))?;
        let printed = book.printed(self.servers.engine_away());
        let doubted = doubted(&self.sql).await?;
        let (forgotten, ledger) = book.forgotten(self.servers.engine_away(), &doubted);
        let mut engines = engines(&self.folders.mock())?;
        engines.push(Engine { ledger, forgotten, limit: DOCKER_SLOTS.into(), printed, left: real });
        Ok(Evidence {
            jobs: Vec::new(),
            received: Default::default(),
            rows: rows(&self.sql).await?,
            engines,
            slots: slots(&self.sql).await?,
        })
    }

    /// Ends everything; with `keep`, the folder with logs and ledgers stays, and is returned.
    pub(crate) async fn remove(self, keep: bool) -> anyhow::Result<Option<PathBuf>> {
        let Self { servers, processes, sql, folders, .. } = self;
        drop(processes);
        sql.close().await;
        servers.stop().await?;
        Ok(keep.then(|| folders.disk.keep()))
    }
}

impl Folders {
    fn ledger(&self) -> PathBuf {
        self.disk.path().join("ledger")
    }

    fn logs(&self) -> PathBuf {
        self.disk.path().join("parts")
    }

    fn mock(&self) -> PathBuf {
        self.memory.path().join("mock")
    }
}

/// A port that the API keeps over its restarts: below those that the system gives out to whoever connects somewhere.
fn free_address() -> anyhow::Result<String> {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000)?;
    let port = (first..32_000).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    Ok(format!("127.0.0.1:{}", port.context("no port is free")?))
}
