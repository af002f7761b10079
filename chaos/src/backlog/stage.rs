//! What a case runs on: a database, a vhost, simulated hosts, and as many processes of each part as it takes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use gantry_core::{ExecutorType, HostId, JobId, TenantId};
use gantry_executor_mock::ledger::{self, Ledger};
use gantry_store::hosts::{self, NewHost};
use gantry_store::{Scope, Store, tenants};
use gantry_testkit::{TestDb, TestVhost};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::producer::Producer;
use super::sheet::Sheet;
use crate::fleet::{declare, few_connections};
use crate::part::{Part, Points, Process, Surroundings};

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// In which a process that was started must serve.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A fleet for one case.
pub(super) struct Stage {
    pub(super) store: Store,
    /// As the database's owner.
    pub(super) sql: PgPool,
    pub(super) producer: Producer,
    surroundings: Surroundings,
    api: String,
    http: reqwest::Client,
    members: Vec<(Part, Process)>,
    /// The simulated hosts. In memory, as a backend elsewhere would cost this machine's disk nothing either.
    hosts: TempDir,
    logs: TempDir,
    vhost: TestVhost,
    db: TestDb,
}

/// A tenant and its key.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) id: TenantId,
    pub(super) key: String,
}

impl Stage {
    /// One without hosts, tenants and processes.
    pub(super) async fn create(binaries: &Path) -> anyhow::Result<Self> {
        let (db, vhost) = tokio::join!(TestDb::create(), TestVhost::create());
        let prefix = "gantry-load-";
        let hosts = tempfile::Builder::new().prefix(prefix).tempdir_in("/dev/shm")?;
        let logs = tempfile::Builder::new().prefix(prefix).tempdir()?;
        let store = Store::new(&few_connections(&db.fleet_url()), "gantry-load")?;
        let amqp = vhost.amqp_url().to_owned();
        declare(&amqp).await?;
        let producer = Producer::connect(&amqp).await?;
        let sql = PgPoolOptions::new().max_connections(3).connect(&db.owner_url()).await?;
        let surroundings = Surroundings {
            binaries: binaries.to_owned(),
            database: db.fleet_url(),
            broker: amqp,
            folder: logs.path().to_owned(),
        };
        let api = free_address()?;
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { store, sql, producer, surroundings, api, http, members: Vec::new(), hosts, logs, vhost, db })
    }

    /// Makes a tenant, or returns the one of this name; its key is an operator's.
    pub(super) async fn tenant(&self, name: &str) -> anyhow::Result<Tenant> {
        let id = tenants::put_tenant(&self.store, name).await?;
        let key = format!("gantry-load-key-{name}");
        tenants::put_key(&self.store, id, name, &key, true).await?;
        Ok(Tenant { id, key })
    }

    /// Makes a host of simulated containers that everybody shares.
    pub(super) async fn host(&self, name: &str, slots: i32) -> anyhow::Result<HostId> {
        let host = NewHost {
            tenant: None,
            name,
            executor_type: ExecutorType::Mock,
            connection_config: json!({ "dir": self.host_folder(name) }),
            executor_config: json!({}),
            max_concurrent_jobs: slots,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        Ok(hosts::insert(&self.store, Scope::Fleet, &host).await?)
    }

    fn host_folder(&self, name: &str) -> PathBuf {
        self.hosts.path().join(name)
    }

    /// What the containers of a host wrote down themselves.
    pub(super) fn ledger(&self, host: &str) -> anyhow::Result<Ledger> {
        ledger::read(&self.host_folder(host)).with_context(|| format!("the containers of {host} left no ledger"))
    }

    /// Starts processes of a part, with the settings that people use: a worker's lease is not shortened.
    pub(super) fn start(&mut self, part: Part, processes: usize) -> anyhow::Result<()> {
        for _ in 0..processes {
            let mut command = self.surroundings.command(part, Points::Ignored)?;
            for setting in ["LEASE_SECONDS", "BEAT_MILLIS", "HOST_CHECK_SECONDS", "STOP_GRACE_SECONDS"] {
                command.env_remove(format!("GANTRY_WORKER__{setting}"));
            }
            command.env_remove("GANTRY_DATABASE__TRANSACTION_TIMEOUT_MILLIS");
            if part == Part::Api {
                command.env("GANTRY_DATABASE__URL", self.db.api_url()).env("GANTRY_HTTP__LISTEN", &self.api);
            }
            self.members.push((part, Process::start(command)?));
        }
        Ok(())
    }

    /// Waits until every host is served by so many workers, and the API answers if there is one.
    pub(super) async fn ready(&self, workers: usize) -> anyhow::Result<()> {
        let has_api = self.members.iter().any(|(part, _)| *part == Part::Api);
        self.until(STARTS_WITHIN, "the fleet serves", async || {
            let hosts = hosts::list(&self.store, Scope::Fleet).await?;
            let served = hosts.iter().all(|host| usize::try_from(host.workers).is_ok_and(|serving| serving >= workers));
            let health = format!("http://{}/readyz", self.api);
            let answers =
                !has_api || self.http.get(health).send().await.is_ok_and(|answer| answer.status().is_success());
            Ok(served && answers)
        })
        .await
    }

    /// The processes that run, by part.
    pub(super) fn processes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.members.iter().filter_map(|(part, process)| Some((part.name(), process.id()?)))
    }

    /// The processes that ended without having been asked.
    pub(super) fn fallen(&mut self) -> anyhow::Result<Vec<String>> {
        let mut fallen = Vec::new();
        for (part, process) in &mut self.members {
            if process.has_ended()? {
                fallen.push(format!("a {}; its log is in {}", part.name(), self.logs.path().display()));
            }
        }
        Ok(fallen)
    }

    /// Kills one process of a part, whichever `choose` says of so many.
    pub(super) async fn kill_one(&mut self, part: Part, choose: impl FnOnce(usize) -> usize) -> anyhow::Result<()> {
        let of_part: Vec<usize> =
            self.members.iter().enumerate().filter(|(_, (other, _))| *other == part).map(|(index, _)| index).collect();
        let index = of_part[choose(of_part.len())];
        let (_, mut process) = self.members.remove(index);
        process.signal(Signal::KILL)?;
        process.wait().await?;
        Ok(())
    }

    /// A request that must succeed, with a tenant's key; what it is answered.
    pub(super) async fn call(
        &self,
        tenant: &Tenant,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let (status, text) = self.request(tenant, method, path, body).await?;
        ensure!(status.is_success(), "{path}: {status}: {text}");
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Asks for a job's end. One that is over already is no error.
    pub(super) async fn cancel(&self, tenant: &Tenant, job: JobId) -> anyhow::Result<()> {
        let (status, text) = self.request(tenant, Method::POST, &format!("/v1/jobs/{job}/cancel"), None).await?;
        ensure!(status.is_success() || status == StatusCode::CONFLICT, "{status}: {text}");
        Ok(())
    }

    async fn request(
        &self,
        tenant: &Tenant,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, String)> {
        let mut request = self.http.request(method, format!("http://{}{path}", self.api)).bearer_auth(&tenant.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        Ok((response.status(), response.text().await?))
    }

    /// Waits for a condition.
    pub(super) async fn until(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            // Asked once more after the limit, so that a slow machine's last look counts.
            let last = Instant::now() > end;
            if condition().await? {
                return Ok(());
            }
            if last {
                bail!("{what}: not within {} s; logs are in {}", limit.as_secs(), self.logs.path().display());
            }
            sleep(POLL).await;
        }
    }

    /// A number that the database's owner reads.
    pub(super) async fn count(&self, sql: &'static str) -> anyhow::Result<usize> {
        Ok(usize::try_from(sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.sql).await?)?)
    }

    /// Ends the parts and removes everything; with `keep`, the folder with their logs stays, and is told.
    pub(super) async fn remove(self, keep: bool, sheet: &Sheet) -> anyhow::Result<()> {
        let Self { store, sql, producer, members, logs, vhost, db, .. } = self;
        drop(producer);
        for (_, mut process) in members {
            process.signal(Signal::KILL)?;
            process.wait().await?;
        }
        sql.close().await;
        store.close().await;
        // Both block until the server has done it.
        tokio::task::spawn_blocking(move || drop((vhost, db))).await?;
        if keep {
            sheet.say(&format!("what the parts said is kept in {}", logs.keep().display()));
        }
        Ok(())
    }
}

/// Between two looks at a condition.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Runs a case on a stage of its own, and keeps the logs if a figure fell short.
pub(super) async fn on_stage(
    binaries: &Path,
    sheet: &mut Sheet,
    case: impl AsyncFnOnce(&mut Stage, &mut Sheet) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let before = sheet.shortfalls().len();
    let mut stage = Stage::create(binaries).await?;
    let done = case(&mut stage, sheet).await;
    let keep = done.is_err() || sheet.shortfalls().len() > before;
    stage.remove(keep, sheet).await?;
    done
}

/// A port that nobody listens on now.
fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.to_string())
}
