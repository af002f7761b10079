//! What jobs are expected to cost, and what they did cost: written where jobs are routed and attempts end, read for
//! whoever pays.
//!
//! Both are a part of the transaction around them. An estimate reads two bounded sets of rows for a whole batch; the sums
//! of a day move with the ends that they count, exactly once.

mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use gantry_core::cost::{self, History, Prices, Ran};
use gantry_core::spec::DEFAULT_TIMEOUT_SECONDS;
use gantry_core::{ExecutorType, HostId, TemplateId, TenantId};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

pub use report::{After, Days, Line, NO_TEMPLATE, NotAPlace, by_job, by_place, by_template};

use crate::admission::NewJob;
use crate::columns::sparse;
use crate::error::{Result, parse};

/// Rows of a template's days that tell how long it takes, the latest first: of as many hosts or days.
const HISTORY_ROWS: i64 = 64;

/// A job as it is routed: what its estimate depends on.
#[derive(Clone, Copy)]
pub(crate) struct Routed {
    pub(crate) tenant: TenantId,
    pub(crate) template: Option<TemplateId>,
    /// Where it goes.
    pub(crate) executor: ExecutorType,
    /// For how long it may run.
    pub(crate) timeout: Duration,
}

impl From<&NewJob> for Routed {
    fn from(job: &NewJob) -> Self {
        let timeout = Duration::from_secs(job.spec.timeout_seconds().into());
        Self { tenant: job.tenant, template: job.template, executor: job.executor_type, timeout }
    }
}

/// For how long a job may run whose stored spec has this as its `timeout_seconds`. What this version cannot read is the
/// default: an estimate is no reason to keep a job where it is.
pub(crate) fn timeout(stored: Option<Value>) -> Duration {
    let seconds = stored.and_then(|seconds| u32::deserialize(seconds).ok());
    Duration::from_secs(seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS).into())
}

/// What each of the jobs is expected to cost on the cheapest of the hosts that its tenant may use now; none where there is
/// no host of its executor type. It locks nothing, so that its place in a transaction is free.
pub(crate) async fn estimates(tx: &mut sqlx::PgConnection, jobs: &[Routed]) -> Result<Vec<Option<Decimal>>> {
    let prices = prices(tx, jobs).await?;
    let histories = histories(tx, jobs).await?;
    Ok(jobs
        .iter()
        .map(|job| {
            let history = job.template.and_then(|template| histories.get(&template)).copied().unwrap_or_default();
            let open = prices.iter().filter(|(owner, executor, _)| {
                *executor == job.executor && owner.is_none_or(|owner| owner == job.tenant)
            });
            cost::estimate(open.map(|(.., prices)| *prices), cost::expected(history, job.timeout))
        })
        .collect())
}

/// The prices that active hosts of these tenants have, each once.
async fn prices(tx: &mut sqlx::PgConnection, jobs: &[Routed]) -> Result<Vec<(Option<TenantId>, ExecutorType, Prices)>> {
    let tenants: BTreeSet<Uuid> = jobs.iter().map(|job| job.tenant.uuid()).collect();
    // As text only what is left: not for each of a thousand hosts.
    let rows = sqlx::query!(
        r#"/* costs::prices */
        select tenant_id, executor_type::text as "executor_type!", cost_per_job as "cost_per_job!", cost_per_hour as "cost_per_hour!"
        from (
            select distinct tenant_id, executor_type, cost_per_job, cost_per_hour from executor_hosts
            where is_active and state = 'active' and (tenant_id is null or tenant_id = any($1))) p"#,
        &Vec::from_iter(tenants)
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let prices = Prices { per_job: row.cost_per_job, per_hour: row.cost_per_hour };
            Ok((row.tenant_id.map(Into::into), parse("executor_type", &row.executor_type)?, prices))
        })
        .collect()
}

/// How long these templates' latest completed runs took.
async fn histories(tx: &mut sqlx::PgConnection, jobs: &[Routed]) -> Result<HashMap<TemplateId, History>> {
    let templates: BTreeSet<(Uuid, Uuid)> =
        jobs.iter().filter_map(|job| Some((job.tenant.uuid(), job.template?.uuid()))).collect();
    if templates.is_empty() {
        return Ok(HashMap::new());
    }
    let (tenants, templates): (Vec<Uuid>, Vec<Uuid>) = templates.into_iter().unzip();
    // By all columns of the index that has them next to each other, so that it is the one that is followed.
    let rows = sqlx::query!(
        r#"/* costs::histories */
        select t.template as "template!", h.measured as "measured!", h.millis as "millis!"
        from unnest($1::uuid[], $2::uuid[]) as t(tenant_id, template) cross join lateral (
            select coalesce(sum(measured), 0)::int8 as measured, coalesce(sum(measured_millis), 0)::int8 as millis
            from (
                select c.measured, c.measured_millis from cost_days c
                where c.tenant_id = t.tenant_id and c.template = t.template
                order by c.tenant_id desc, c.template desc, c.day desc limit $3) latest) h"#,
        &tenants,
        &templates,
        HISTORY_ROWS
    )
    .fetch_all(&mut *tx)
    .await?;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(rows
        .into_iter()
        .map(|row| (row.template.into(), History { runs: count(row.measured), millis: count(row.millis) }))
        .collect())
}

/// An attempt that ends with the transaction in which it is counted.
pub(crate) struct Ended {
    pub(crate) tenant: TenantId,
    pub(crate) template: Option<TemplateId>,
    pub(crate) host: HostId,
    pub(crate) executor: ExecutorType,
    pub(crate) completed: bool,
    pub(crate) ran: Ran,
    /// None if nobody knows.
    pub(crate) cost: Option<Decimal>,
    /// What its job was expected to cost, if the job ends with it: each job counts once.
    pub(crate) estimated: Option<Decimal>,
}

/// What is added to one row.
#[derive(Default)]
struct Added {
    runs: i64,
    completed: i64,
    measured: i64,
    untimed: i64,
    run_millis: i64,
    measured_millis: i64,
    cost: Decimal,
    failed_cost: Decimal,
    estimated: Decimal,
}

impl Added {
    fn add(&mut self, ended: &Ended) {
        self.runs += 1;
        self.completed += i64::from(ended.completed);
        self.untimed += i64::from(ended.ran == Ran::Unknown);
        if let Ran::For(run) = ended.ran {
            let millis = crate::attempts::millis(run);
            self.run_millis += millis;
            self.measured += i64::from(ended.completed);
            self.measured_millis += if ended.completed { millis } else { 0 };
        }
        let cost = ended.cost.unwrap_or_default();
        self.cost += cost;
        self.failed_cost += if ended.completed { Decimal::ZERO } else { cost };
        self.estimated += ended.estimated.unwrap_or_default();
    }
}

/// Adds ended attempts to the sums of this day: the last thing that their transaction does, and with the locks of their
/// hosts held, so that no two transactions ever wait for each other's rows here.
pub(crate) async fn add(tx: &mut sqlx::PgConnection, ended: &[Ended]) -> Result<()> {
    let mut rows: BTreeMap<_, Added> = BTreeMap::new();
    for ended in ended {
        rows.entry((ended.host, ended.tenant, ended.template, ended.executor)).or_default().add(ended);
    }
    let hosts: Vec<Uuid> = rows.keys().map(|(host, ..)| host.uuid()).collect();
    let tenants: Vec<Uuid> = rows.keys().map(|(_, tenant, ..)| tenant.uuid()).collect();
    let templates: Vec<Option<Uuid>> = rows.keys().map(|(_, _, template, _)| template.map(TemplateId::uuid)).collect();
    let executors: Vec<String> = rows.keys().map(|(.., executor)| executor.to_string()).collect();
    let count = |of: fn(&Added) -> i64| rows.values().map(of).collect::<Vec<i64>>();
    // Often 0 in every row: on hosts without a price, and where every backend tells times.
    let money = |of: fn(&Added) -> Decimal| {
        sparse(rows.values().map(|added| Some(of(added)).filter(|money| !money.is_zero())).collect())
    };
    let untimed = sparse(rows.values().map(|added| Some(added.untimed).filter(|untimed| *untimed > 0)).collect());
    sqlx::query!(
        "/* costs::add */
        insert into cost_days as c (day, tenant_id, template, executor_host_id, executor_type, runs, completed, measured, untimed,
            run_millis, measured_millis, cost, failed_cost, estimated_cost)
        select (now() at time zone 'UTC')::date, tenant_id, template, host, executor::executor_type, runs, completed, measured,
            coalesce(untimed, 0), run_millis, measured_millis, coalesce(cost, 0), coalesce(failed_cost, 0), coalesce(estimated, 0)
        from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::int8[], $9::int8[],
            $10::int8[], $11::numeric[], $12::numeric[], $13::numeric[])
            as a(host, tenant_id, template, executor, runs, completed, measured, untimed, run_millis, measured_millis, cost,
                failed_cost, estimated)
        on conflict (tenant_id, template, day, executor_host_id, executor_type) do update set
            runs = c.runs + excluded.runs, completed = c.completed + excluded.completed,
            measured = c.measured + excluded.measured, untimed = c.untimed + excluded.untimed,
            run_millis = c.run_millis + excluded.run_millis, measured_millis = c.measured_millis + excluded.measured_millis,
            cost = c.cost + excluded.cost, failed_cost = c.failed_cost + excluded.failed_cost,
            estimated_cost = c.estimated_cost + excluded.estimated_cost",
        &hosts,
        &tenants,
        &sparse(templates) as &[Option<Uuid>],
        &executors,
        &count(|a| a.runs),
        &count(|a| a.completed),
        &count(|a| a.measured),
        &untimed as &[Option<i64>],
        &count(|a| a.run_millis),
        &count(|a| a.measured_millis),
        &money(|a| a.cost) as &[Option<Decimal>],
        &money(|a| a.failed_cost) as &[Option<Decimal>],
        &money(|a| a.estimated) as &[Option<Decimal>]
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
