//! An operator who cannot leave anything alone, and keeps a record of the limits.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use gantry_core::JobId;
use gantry_core::limits::{Kind, Subject};
use gantry_store::audit::Actor;
use gantry_store::{Scope, limits};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::timeline::Timeline;
use super::{HOSTS, KEY};
use crate::backlog::boottime;
use crate::backlog::stage::{Stage, Tenant};
use crate::run::Dice;

/// Of each host and tenant to begin with, and when all is settled.
const LIMIT: u64 = 3;
/// The limits that are set at random.
const LOWEST: u64 = 1;
const HIGHEST: u64 = 4;
/// Between two deeds, in milliseconds.
const PAUSE: (u64, u64) = (30, 250);

/// What a limit counts.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Host(&'static str),
    Tenant(Uuid, &'static str),
    Key(Uuid, &'static str),
}

impl Name {
    /// Whether it counts a container on this host, of this tenant, with this concurrency key.
    pub(super) fn counts(&self, host: &str, tenant: Uuid, key: Option<&str>) -> bool {
        match self {
            Self::Host(name) => *name == host,
            Self::Tenant(id, _) => *id == tenant,
            Self::Key(id, _) => *id == tenant && key == Some(KEY),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "host `{name}`"),
            Self::Tenant(_, name) => write!(f, "tenant `{name}`"),
            Self::Key(_, name) => write!(f, "key `{KEY}` of `{name}`"),
        }
    }
}

/// A host as the operator left it.
struct Host {
    slots: u64,
    active: bool,
    timeline: Timeline,
}

impl Host {
    /// How many may run, as far as claims go.
    fn most(&self) -> usize {
        if self.active { self.slots as usize } else { 0 }
    }
}

pub(super) struct Operator {
    /// Has a limit of its own, and one of the key.
    pub(super) capped: Tenant,
    /// Has a limit of the key alone.
    pub(super) keyed: Tenant,
    /// Has none.
    pub(super) free: Tenant,
    hosts: [Host; 2],
    tenant: Timeline,
    /// Of the key of `capped`, and of the same key of `keyed`.
    keys: [Timeline; 2],
    /// Names of jobs that were.
    retried: HashSet<String>,
    done: [usize; DEEDS.len()],
}

/// What the operator does.
#[derive(Clone, Copy)]
enum Deed {
    CancelPending,
    CancelRunning,
    /// Has one that ended badly submitted anew.
    Retry,
    LimitHost,
    LimitTenant,
    LimitKey,
    /// Or takes a host back that is drained.
    Drain,
}

const DEEDS: [(Deed, &str); 7] = [
    (Deed::CancelPending, "cancels of pending jobs"),
    (Deed::CancelRunning, "cancels of running jobs"),
    (Deed::Retry, "retries of ended jobs"),
    (Deed::LimitHost, "limits of hosts"),
    (Deed::LimitTenant, "limits of a tenant"),
    (Deed::LimitKey, "limits of a key"),
    (Deed::Drain, "drains and activations"),
];

const PENDING: &str =
    "select id, tenant_id, name from container_jobs where status = 'pending' order by random() limit 1";
const RUNNING: &str =
    "select id, tenant_id, name from container_jobs where status = 'running' order by random() limit 1";
const ENDED_BADLY: &str =
    "select id, tenant_id, name from container_jobs where status in ('failed', 'cancelled') order by random() limit 1";
/// What is not over: jobs, and operations that may make more of them.
const OPEN: &str = "select (select count(*) from container_jobs where completed_at is null)
    + (select count(*) from bulk_operations where state = 'running')";

impl Operator {
    /// Makes hosts, tenants and limits, when the API answers.
    pub(super) async fn begin(stage: &Stage) -> anyhow::Result<Self> {
        stage.ready(0).await?;
        let [first, second] = HOSTS;
        for host in [first, second] {
            stage.host(host, i32::try_from(LIMIT)?).await?;
        }
        let host = || Host { slots: LIMIT, active: true, timeline: Timeline::new(LIMIT as usize) };
        let start = || Timeline::new(LIMIT as usize);
        let operator = Self {
            capped: stage.tenant("capped").await?,
            keyed: stage.tenant("keyed").await?,
            free: stage.tenant("free").await?,
            hosts: [host(), host()],
            tenant: start(),
            keys: [start(), start()],
            retried: HashSet::new(),
            done: [0; DEEDS.len()],
        };
        set_tenant(stage, &operator.capped, LIMIT).await?;
        for owner in [&operator.capped, &operator.keyed] {
            set_key(stage, owner, LIMIT).await?;
        }
        Ok(operator)
    }

    /// Does one thing after another until all jobs are over.
    pub(super) async fn work(&mut self, stage: &Stage, dice: &mut Dice, within: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + within;
        loop {
            let open = stage.count(OPEN).await?;
            if open == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{open} jobs and retries are not over within {} s", within.as_secs());
            let number = dice.between(0, DEEDS.len() as u64 - 1) as usize;
            self.act(DEEDS[number].0, stage, dice).await?;
            self.done[number] += 1;
            sleep(Duration::from_millis(dice.between(PAUSE.0, PAUSE.1))).await;
        }
    }

    /// Leaves every host active.
    pub(super) async fn settle(&mut self, stage: &Stage) -> anyhow::Result<()> {
        for index in 0..HOSTS.len() {
            self.activate(stage, index).await?;
        }
        Ok(())
    }

    /// What was done, in words.
    pub(super) fn deeds(&self) -> String {
        let deeds: Vec<String> =
            self.done.iter().zip(DEEDS).map(|(count, (_, name))| format!("{count} {name}")).collect();
        deeds.join(", ")
    }

    /// Every limit with its changes.
    pub(super) fn timelines(&self) -> impl Iterator<Item = (Name, &Timeline)> {
        let hosts = HOSTS.into_iter().zip(&self.hosts).map(|(name, host)| (Name::Host(name), &host.timeline));
        let (capped, keyed) = (self.capped.id.uuid(), self.keyed.id.uuid());
        hosts.chain([
            (Name::Tenant(capped, "capped"), &self.tenant),
            (Name::Key(capped, "capped"), &self.keys[0]),
            (Name::Key(keyed, "keyed"), &self.keys[1]),
        ])
    }

    async fn act(&mut self, deed: Deed, stage: &Stage, dice: &mut Dice) -> anyhow::Result<()> {
        let most = dice.between(LOWEST, HIGHEST);
        let one = dice.between(0, 1) as usize;
        match deed {
            Deed::CancelPending => self.cancel(stage, PENDING).await,
            Deed::CancelRunning => self.cancel(stage, RUNNING).await,
            Deed::Retry => self.retry(stage).await,
            Deed::LimitHost => self.limit_host(stage, one, most).await,
            Deed::LimitTenant => {
                let asked = boottime::now();
                set_tenant(stage, &self.capped, most).await?;
                self.tenant.change(asked, boottime::now(), most as usize);
                Ok(())
            }
            Deed::LimitKey => {
                let asked = boottime::now();
                set_key(stage, [&self.capped, &self.keyed][one], most).await?;
                self.keys[one].change(asked, boottime::now(), most as usize);
                Ok(())
            }
            // One at a time, so that the other can go on.
            Deed::Drain => match self.hosts.iter().position(|host| !host.active) {
                Some(drained) => self.activate(stage, drained).await,
                None => self.drain(stage, one, dice.between(0, 1) == 1).await,
            },
        }
    }

    async fn cancel(&self, stage: &Stage, any: &'static str) -> anyhow::Result<()> {
        match self.any(stage, any).await? {
            Some((tenant, job, _)) => stage.cancel(tenant, job).await,
            None => Ok(()),
        }
    }

    async fn retry(&mut self, stage: &Stage) -> anyhow::Result<()> {
        let Some((tenant, _, name)) = self.any(stage, ENDED_BADLY).await? else { return Ok(()) };
        let tenant = tenant.clone();
        // Once: what always fails, and is retried with all its retries, doubles each time.
        if !self.retried.insert(name.clone()) {
            return Ok(());
        }
        let body = json!({ "action": "retry", "filter": { "name_prefix": name } });
        stage.call(&tenant, Method::POST, "/v1/jobs/bulk", Some(&body)).await?;
        Ok(())
    }

    /// Any such job, with its owner and its name.
    async fn any(&self, stage: &Stage, sql: &'static str) -> anyhow::Result<Option<(&Tenant, JobId, String)>> {
        let found: Option<(Uuid, Uuid, String)> = sqlx::query_as(sql).fetch_optional(&stage.sql).await?;
        let Some((job, owner, name)) = found else { return Ok(None) };
        let mut tenants = [&self.capped, &self.keyed, &self.free].into_iter();
        let tenant = tenants.find(|tenant| tenant.id.uuid() == owner).context("a job of nobody")?;
        Ok(Some((tenant, job.into(), name)))
    }

    async fn limit_host(&mut self, stage: &Stage, index: usize, slots: u64) -> anyhow::Result<()> {
        let body = json!({ "max_concurrent_jobs": slots });
        self.steer(stage, index, Method::PATCH, "", Some(&body), |host| host.slots = slots).await
    }

    async fn drain(&mut self, stage: &Stage, index: usize, moves: bool) -> anyhow::Result<()> {
        let body = json!({ "move": moves });
        self.steer(stage, index, Method::POST, "/drain", Some(&body), |host| host.active = false).await
    }

    async fn activate(&mut self, stage: &Stage, index: usize) -> anyhow::Result<()> {
        self.steer(stage, index, Method::POST, "/activate", None, |host| host.active = true).await
    }

    async fn steer(
        &mut self,
        stage: &Stage,
        index: usize,
        method: Method,
        deed: &str,
        body: Option<&Value>,
        effect: impl FnOnce(&mut Host),
    ) -> anyhow::Result<()> {
        let asked = boottime::now();
        stage.call(&self.free, method, &format!("/v1/hosts/{}{deed}", HOSTS[index]), body).await?;
        let host = &mut self.hosts[index];
        effect(host);
        let most = host.most();
        host.timeline.change(asked, boottime::now(), most);
        Ok(())
    }
}

/// The way of `gantry tenant set`, which goes past the API.
async fn set_tenant(stage: &Stage, tenant: &Tenant, most: u64) -> anyhow::Result<()> {
    let subject = Subject { tenant: tenant.id, kind: Kind::Tenant, name: String::new() };
    let actor = Actor { tenant: tenant.id, name: "load".to_owned() };
    limits::set(&stage.store, Scope::Fleet, &actor, &subject, Some(i32::try_from(most)?)).await?;
    Ok(())
}

async fn set_key(stage: &Stage, tenant: &Tenant, most: u64) -> anyhow::Result<()> {
    let body = json!({ "kind": "key", "name": KEY, "max_running": most });
    stage.call(tenant, Method::PUT, "/v1/limits", Some(&body)).await?;
    Ok(())
}
