//! The claim costs the same however many jobs have finished before.
//!
//! Two databases on one server, one with a long past and one without, take the same claims in turn, so that whatever
//! else the machine does meets both. A round is some hundred claims of each, and has a p99 of each and the ratio of the
//! two; the median of these ratios is what counts.

use std::time::{Duration, Instant};

use anyhow::ensure;
use gantry_core::message::WorkItem;
use gantry_core::{ExecutorType, FleetId, HostId, JobId, TenantId, WorkerId};
use gantry_store::claims::{self, Request};
use gantry_store::hosts::{self, NewHost};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Scope, Store, tenants};
use gantry_testkit::TestDb;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::history::{self, Past};
use super::sheet::Sheet;
use crate::fleet::few_connections;

/// Jobs that one claim takes.
const JOBS: usize = 5;
/// Claims of the first, uncounted round: connections, caches, plans.
const WARM: usize = 50;

pub(super) struct Size {
    /// Finished jobs in one of the databases.
    pub(super) finished: usize,
    pub(super) rounds: usize,
    /// Claims of a round, in each database.
    pub(super) claims: usize,
    /// What the p99 may be with a past, as a multiple of that without.
    pub(super) growth: f64,
}

pub(super) async fn run(size: &Size, sheet: &mut Sheet) -> anyhow::Result<()> {
    let (without, with) = (Ground::create().await?, Ground::create().await?);
    let began = Instant::now();
    history::fill(&with.sql, &with.past(), size.finished).await?;
    sheet.say(&format!("{} finished jobs written in {:.0} s", size.finished, began.elapsed().as_secs_f64()));
    ensure!(with.finished().await? == size.finished && without.finished().await? == 0, "the past is another one");

    round(&without, &with, WARM).await?;
    let mut rounds = Vec::with_capacity(size.rounds);
    for _ in 0..size.rounds {
        rounds.push(round(&without, &with, size.claims).await?);
    }
    tell(size, &rounds, sheet);
    for ground in [without, with] {
        ground.remove().await?;
    }
    Ok(())
}

/// The p50 and the p99 of a round's claims in one database, in milliseconds.
struct Times {
    half: f64,
    p99: f64,
}

impl Times {
    fn new(mut claims: Vec<Duration>) -> Self {
        claims.sort_unstable();
        let at = |part: usize| claims[claims.len() * part / 100].as_secs_f64() * 1_000.0;
        Self { half: at(50), p99: at(99) }
    }
}

/// So many claims of each, in turn: how long they took without a past, and with one.
async fn round(without: &Ground, with: &Ground, claims: usize) -> anyhow::Result<[Times; 2]> {
    let mut items = [without.dispatched(claims * JOBS).await?, with.dispatched(claims * JOBS).await?];
    // The one knows how many jobs wait, whatever autovacuum saw of it between two rounds; the other one goes by the
    // statistics of a quiet hour, when none did. That is the best for the one, and the worst for the other.
    sqlx::query("analyze container_jobs, container_job_specs, container_executions").execute(&without.sql).await?;
    let mut times = [Vec::with_capacity(claims), Vec::with_capacity(claims)];
    for claim in 0..claims {
        // Neither is always the one that comes after the other.
        for index in if claim % 2 == 0 { [0, 1] } else { [1, 0] } {
            let left = items[index].len() - JOBS;
            let some = items[index].split_off(left);
            times[index].push([without, with][index].claim(&some).await?);
        }
    }
    for ground in [without, with] {
        ground.clear().await?;
    }
    Ok(times.map(Times::new))
}

fn tell(size: &Size, rounds: &[[Times; 2]], sheet: &mut Sheet) {
    let ratios: Vec<f64> = rounds.iter().map(|[without, with]| with.p99 / without.p99).collect();
    let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    sheet.say(&format!("p99 with a past against none, of each round: {}", each.join(" ")));
    let of = |index: usize, pick: fn(&Times) -> f64| median(rounds.iter().map(|round| pick(&round[index])));
    let [before, after] = [0, 1].map(|index| of(index, |times| times.half));
    sheet.say(&format!("p50 of the claim: {after:.2} / {before:.2} ms = {:.3}", after / before));
    let [before, after] = [0, 1].map(|index| of(index, |times| times.p99));
    let ratio = median(ratios.into_iter());
    sheet.figure(
        &format!("p99 of the claim, {} finished jobs against none", size.finished),
        &format!("{after:.2} / {before:.2} ms, of rounds {ratio:.3}"),
        &format!("<= {}", size.growth),
        ratio <= size.growth,
    );
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A database with a worker and its host.
struct Ground {
    store: Store,
    sql: PgPool,
    tenant: TenantId,
    fleet: FleetId,
    worker: WorkerId,
    host: HostId,
    db: TestDb,
}

impl Ground {
    async fn create() -> anyhow::Result<Self> {
        let db = TestDb::create().await;
        let store = Store::new(&few_connections(&db.fleet_url()), "gantry-load")?;
        let sql = PgPoolOptions::new().max_connections(2).connect(&db.owner_url()).await?;
        let tenant = tenants::put_tenant(&store, "load").await?;
        let host = NewHost {
            tenant: None,
            name: "load",
            executor_type: ExecutorType::Mock,
            connection_config: json!({ "dir": "/nowhere" }),
            executor_config: json!({}),
            max_concurrent_jobs: 1_000_000,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        let host = hosts::insert(&store, Scope::Fleet, &host).await?;
        let worker = WorkerId::new();
        let new = NewWorker {
            id: worker,
            executor_type: ExecutorType::Mock,
            name: "load",
            version: "load",
            reads_version: 1,
            lease_seconds: 3_600,
        };
        workers::register(&store, &new).await?;
        let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
        workers::put_checks(&store, worker, &[check]).await?;
        let fleet = tenants::fleet(&store).await?;
        Ok(Self { store, sql, tenant, fleet, worker, host, db })
    }

    fn past(&self) -> Past {
        Past { tenant: self.tenant, host: self.host, worker: self.worker }
    }

    async fn finished(&self) -> anyhow::Result<usize> {
        let sql = "select count(*) from container_jobs where completed_at is not null";
        Ok(usize::try_from(sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.sql).await?)?)
    }

    /// Makes jobs that a dispatcher has just published.
    async fn dispatched(&self, jobs: usize) -> anyhow::Result<Vec<WorkItem>> {
        let ids: Vec<Uuid> = (0..jobs).map(|_| JobId::new().uuid()).collect();
        sqlx::query(
            "with jobs as (
                insert into container_jobs (id, tenant_id, project_id, executor_type, preferred_executor, dispatch_sequence,
                    dispatched_at, published_at, publishes, name, routing_reason, created_by)
                select id, $2, (select id from projects where tenant_id = $2 limit 1), 'mock', 'mock', 1, now(), now(), 1, 'load',
                    'preferred', 'load'
                from unnest($1::uuid[]) as id
                returning id
            )
            insert into container_job_specs (job_id, tenant_id, spec)
            select id, $2, '{\"image\": \"simulated\", \"timeout_seconds\": 3600, \"labels\": {}}' from jobs",
        )
        .bind(&ids)
        .bind(self.tenant.uuid())
        .execute(&self.sql)
        .await?;
        Ok(ids.into_iter().map(|id| WorkItem { job: id.into(), attempt: 1, sequence: 1 }).collect())
    }

    /// How long one claim of these takes, which must give them all.
    async fn claim(&self, items: &[WorkItem]) -> anyhow::Result<Duration> {
        let request = Request {
            worker: self.worker,
            fleet: self.fleet,
            executor: ExecutorType::Mock,
            hosts: &[self.host],
            items,
            alone: true,
            launch_follows: true,
        };
        let began = Instant::now();
        let outcome = claims::claim(&self.store, &request).await?;
        let time = began.elapsed();
        ensure!(outcome.claimed.len() == items.len(), "a claim gave other jobs: {outcome:?}");
        Ok(time)
    }

    /// Removes what was claimed: what has finished stays as it is.
    async fn clear(&self) -> anyhow::Result<()> {
        sqlx::query("delete from container_jobs where completed_at is null").execute(&self.sql).await?;
        sqlx::query("update executor_hosts set current_job_count = 0").execute(&self.sql).await?;
        Ok(())
    }

    async fn remove(self) -> anyhow::Result<()> {
        self.sql.close().await;
        self.store.close().await;
        // Blocks until the server has done it.
        tokio::task::spawn_blocking(move || drop(self.db)).await?;
        Ok(())
    }
}
