//! Never more than the limit in force: many workers, few slots, and operators who cancel, drain, and change limits at
//! random while jobs fail and are tried again. What ran, and when, is the containers' own word.

mod operator;
mod timeline;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use gantry_core::JobId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::boottime::Epoch;
use super::producer::job;
use super::sheet::Sheet;
use super::stage::{Stage, on_stage};
use crate::part::Part;
use crate::run::Dice;
use crate::verdict::slots;
use operator::Operator;
use timeline::{Span, judge};

/// Two hosts, so that what is moved off one has somewhere to go.
const HOSTS: [&str; 2] = ["one", "two"];
/// A concurrency key of the tenants that have limits.
const KEY: &str = "alpha";
/// In which everything that was started must serve: many processes come up at once.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

pub(super) struct Size {
    pub(super) workers: usize,
    pub(super) jobs: usize,
    /// In which all must be over.
    pub(super) within: Duration,
}

pub(super) async fn run(size: &Size, seed: u64, binaries: &Path, sheet: &mut Sheet) -> anyhow::Result<()> {
    on_stage(binaries, sheet, async |stage, sheet| measured(size, seed, stage, sheet).await).await
}

async fn measured(size: &Size, seed: u64, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
    let mut dice = Dice::new(seed);
    for (part, processes) in [(Part::Dispatcher, 2), (Part::Recorder, 1), (Part::Api, 1), (Part::Worker, size.workers)]
    {
        stage.start(part, processes)?;
    }
    let epoch = Epoch::begin();
    let mut operator = Operator::begin(stage).await?;
    stage.ready(size.workers).await?;

    let kinds =
        [(&operator.capped, None), (&operator.capped, Some(KEY)), (&operator.keyed, Some(KEY)), (&operator.free, None)];
    for (place, (tenant, key)) in kinds.into_iter().enumerate() {
        let jobs = (size.jobs + place) / kinds.len();
        stage.producer.submit(tenant, (0..jobs).map(|_| disturbed(&mut dice, key))).await?;
    }
    let known = "select count(*) from container_job_specs";
    stage.until(SETTLED_WITHIN, "all jobs are taken in", async || Ok(stage.count(known).await? == size.jobs)).await?;
    operator.work(stage, &mut dice, size.within).await?;
    operator.settle(stage).await?;
    let settled = async || Ok(slots(&stage.sql).await? == 0);
    stage.until(SETTLED_WITHIN, "all slots are free", settled).await?;

    sheet.say(&operator.deeds());
    let over = "select count(*) from container_jobs where completed_at is not null";
    let retried = stage.count("select coalesce(sum(changed), 0)::bigint from bulk_operations").await?;
    sheet.exactly(
        "jobs that are over, with those that operators retried",
        stage.count(over).await?,
        size.jobs + retried,
    );
    let spans = spans(stage, epoch).await?;
    limits(&operator, &spans, sheet);
    once(&spans, sheet);
    let counted = "select coalesce(sum(abs(running)), 0)::bigint from limits";
    sheet.exactly("attempts that limits still count", stage.count(counted).await?, 0);
    sheet.none("processes that ended by themselves", &stage.fallen()?);
    Ok(())
}

/// A job that may fail and be tried again, and is short but for a few, which are there to be caught while they run.
fn disturbed(dice: &mut Dice, key: Option<&str>) -> Value {
    let millis = if dice.between(1, 12) == 1 { 600 } else { dice.between(0, 60) };
    let mut job = job(millis);
    // Its own, so that an operator can mean this one.
    job["name"] = job["idempotency_key"].clone();
    if let Some(key) = key {
        job["concurrency_key"] = json!(key);
    }
    if dice.between(1, 10) == 1 {
        job["labels"]["mock.exit_code"] = json!("3");
        job["spec"]["retry"] = json!({ "max_attempts": 3, "backoff_seconds": 0 });
    }
    job
}

/// What ran on a host, of whom, and since when it had its slot at the earliest.
struct Ran {
    host: &'static str,
    job: JobId,
    attempt: i32,
    tenant: Uuid,
    key: Option<String>,
    span: Span,
}

async fn spans(stage: &Stage, epoch: Epoch) -> anyhow::Result<Vec<Ran>> {
    let rows: Vec<(Uuid, i32, Uuid, Option<String>, i64)> = sqlx::query_as(
        "select e.job_id, e.attempt, j.tenant_id, j.concurrency_key, (extract(epoch from e.claimed_at) * 1000000)::bigint
         from container_executions e join container_jobs j on j.id = e.job_id",
    )
    .fetch_all(&stage.sql)
    .await?;
    let earliest = epoch.end();
    let mut claims = HashMap::new();
    for (job, attempt, tenant, key, micros) in rows {
        claims.insert((JobId::from(job), attempt), (tenant, key, earliest(u64::try_from(micros)? * 1_000)));
    }
    let mut ran = Vec::new();
    for host in HOSTS {
        for (run, (from, to)) in stage.ledger(host)?.spans() {
            let (tenant, key, claimed) = claims
                .get(&(run.job, run.attempt))
                .with_context(|| format!("{} ran and was never claimed", run.name))?;
            let span = Span { claimed: *claimed, from, to };
            ran.push(Ran { host, job: run.job, attempt: run.attempt, tenant: *tenant, key: key.clone(), span });
        }
    }
    Ok(ran)
}

/// Every limit against what ran under it.
fn limits(operator: &Operator, ran: &[Ran], sheet: &mut Sheet) {
    for (name, timeline) in operator.timelines() {
        let counted = ran.iter().filter(|ran| name.counts(ran.host, ran.tenant, ran.key.as_deref()));
        let spans: Vec<Span> = counted.map(|ran| ran.span).collect();
        let found = judge(spans, timeline);
        sheet.say(&format!(
            "{name}: {} starts, at most {} at once, {} at the limit, {} changes, {} of them below what ran",
            found.starts,
            found.most,
            found.at_limit,
            timeline.changes(),
            found.lowered
        ));
        sheet.none(&format!("starts above the limit in force, {name}"), &found.over);
        sheet.figure("the limit was reached", &format!("{} times", found.at_limit), "> 0", found.at_limit > 0);
    }
}

/// No attempt has two containers, and no job two that are alive.
fn once(ran: &[Ran], sheet: &mut Sheet) {
    let mut attempts: BTreeMap<(JobId, i32), usize> = BTreeMap::new();
    let mut jobs: BTreeMap<JobId, Vec<Span>> = BTreeMap::new();
    for ran in ran {
        *attempts.entry((ran.job, ran.attempt)).or_default() += 1;
        jobs.entry(ran.job).or_default().push(ran.span);
    }
    let twice: Vec<String> = attempts
        .iter()
        .filter(|(_, containers)| **containers > 1)
        .map(|((job, attempt), containers)| format!("attempt {attempt} of {job} had {containers} containers"))
        .collect();
    sheet.none("attempts with more than one container", &twice);
    let beside = jobs.into_iter().filter(|(_, spans)| timeline::at_once(spans) > 1);
    let beside: Vec<String> = beside.map(|(job, _)| format!("{job} had two containers at once")).collect();
    sheet.none("jobs with two containers at once", &beside);
}
