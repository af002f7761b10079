//! One tenant has a very long line while slots turn over: others are not delayed by it, and no process grows with it.
//!
//! The same processes are looked at twice, with few jobs in line and with many. Everything else is the same both times:
//! the slots, the rate at which jobs come and end, the requests to the API. Before the first look the processes have
//! taken a burst like the one that fills the line, so that what they need for that is not counted as growth.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use gantry_core::JobId;
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::boottime;
use super::memory::Memory;
use super::producer::job;
use super::sheet::Sheet;
use super::stage::{Stage, Tenant, on_stage};
use crate::part::Part;

const HOST: &str = "turning";
const SLOTS: i32 = 30;
const JOB_MILLIS: u64 = 100;
/// Jobs on their way through RabbitMQ while the line is filled, at most.
const ON_THEIR_WAY: usize = 5_000;
/// Tenants whose first job comes while the others wait.
const NEWCOMERS: usize = 3;
const TICK: Duration = Duration::from_millis(500);
/// In which a line must be filled, or worked off to where it is looked at.
const FILLED_WITHIN: Duration = Duration::from_secs(900);

pub(super) struct Size {
    /// Jobs of the burst before the first look.
    pub(super) warm: usize,
    /// Pending jobs at the first look.
    pub(super) few: usize,
    /// And at the second.
    pub(super) many: usize,
    /// How long each look takes.
    pub(super) hold: Duration,
    /// In which another tenant's first job must start.
    pub(super) first_start: Duration,
    /// What a process may need at the second look, as a multiple of the first.
    pub(super) growth: f64,
}

pub(super) async fn run(size: &Size, binaries: &Path, sheet: &mut Sheet) -> anyhow::Result<()> {
    on_stage(binaries, sheet, async |stage, sheet| measured(size, stage, sheet).await).await
}

async fn measured(size: &Size, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
    stage.host(HOST, SLOTS).await?;
    let owner = stage.tenant("owner").await?;
    for part in [Part::Dispatcher, Part::Recorder, Part::Worker, Part::Api] {
        stage.start(part, 1)?;
    }
    stage.ready(1).await?;

    fill(stage, &owner, size.warm).await?;
    stage.until(FILLED_WITHIN, "the first jobs end", async || Ok(pending(stage).await? <= size.few)).await?;
    let few = look(stage, &owner, size.few, size.hold).await?;
    let began = Instant::now();
    fill(stage, &owner, size.many).await?;
    let rate = (size.many - size.few) as f64 / began.elapsed().as_secs_f64();
    sheet.say(&format!("{} jobs wait; {rate:.0}/s were added while slots turned over", size.many));
    let many = look(stage, &owner, size.many, size.hold).await?;

    let bound = size.first_start.as_secs_f64();
    let worst = many.first_starts.iter().max().context("nobody came")?.as_secs_f64();
    let before = few.first_starts.iter().max().context("nobody came")?.as_secs_f64();
    sheet.figure(
        &format!("another tenant's first job starts, worst of {NEWCOMERS}"),
        &format!("{worst:.2} s ({before:.2} s with {} pending)", size.few),
        &format!("< {bound} s"),
        worst < bound,
    );
    let starts = |look: &Look| look.starts as f64 / size.hold.as_secs_f64();
    sheet.say(&format!(
        "starts/s: {:.0} with {} pending, {:.0} with {}",
        starts(&few),
        size.few,
        starts(&many),
        size.many
    ));
    ensure!(many.starts > 0, "no slot turned over");
    for ((name, before), (_, after)) in few.memory.medians().zip(many.memory.medians()) {
        let (before, after) = (before as f64 / 1024.0, after as f64 / 1024.0);
        let ratio = after / before;
        sheet.figure(
            &format!("memory of the {name}, {} pending against {}", size.many, size.few),
            &format!("{after:.1} / {before:.1} MiB = {ratio:.3}"),
            &format!("<= {}", size.growth),
            ratio <= size.growth,
        );
    }
    Ok(())
}

/// Jobs in line, with those that are on their way to a slot.
async fn pending(stage: &Stage) -> anyhow::Result<usize> {
    stage.count("select count(*) from container_jobs where status = 'pending'").await
}

/// Hands jobs in until so many are pending.
async fn fill(stage: &Stage, tenant: &Tenant, level: usize) -> anyhow::Result<()> {
    let end = Instant::now() + FILLED_WITHIN;
    loop {
        let missing = level.saturating_sub(pending(stage).await?);
        if missing == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{missing} jobs of {level} are still missing");
        let wave = missing.min(ON_THEIR_WAY);
        let before = known(stage).await?;
        // Both doors: the API takes its part of every wave.
        let over_http = wave / 5;
        stage.producer.submit(tenant, (over_http..wave).map(|_| job(JOB_MILLIS))).await?;
        let mut left = over_http;
        while left > 0 {
            let some = left.min(100);
            let jobs: Vec<_> = (0..some).map(|_| job(JOB_MILLIS)).collect();
            stage.call(tenant, Method::POST, "/v1/jobs", Some(&json!(jobs))).await?;
            left -= some;
        }
        stage.until(FILLED_WITHIN, "jobs are taken in", async || Ok(known(stage).await? >= before + wave)).await?;
    }
}

/// Jobs that ever were.
async fn known(stage: &Stage) -> anyhow::Result<usize> {
    stage.count("select count(*) from container_job_specs").await
}

/// What was seen while so many jobs were pending.
struct Look {
    memory: Memory,
    first_starts: Vec<Duration>,
    starts: usize,
}

/// Keeps the line at a length for a time, with people who ask and tenants who come.
async fn look(stage: &Stage, owner: &Tenant, level: usize, time: Duration) -> anyhow::Result<Look> {
    let (began, before) = (Instant::now(), attempts(stage).await?);
    let mut look = Look { memory: Memory::default(), first_starts: Vec::new(), starts: 0 };
    let newcomers = NEWCOMERS as u32;
    while began.elapsed() < time {
        fill(stage, owner, level).await?;
        ask(stage, owner).await?;
        for (name, pid) in stage.processes() {
            look.memory.sample(name, pid)?;
        }
        let come = look.first_starts.len() as u32;
        if come < newcomers && began.elapsed() >= time / newcomers * come {
            look.first_starts.push(first_start(stage, &format!("newcomer {level} {come}")).await?);
        }
        sleep(TICK).await;
    }
    look.starts = attempts(stage).await? - before;
    Ok(look)
}

async fn attempts(stage: &Stage) -> anyhow::Result<usize> {
    stage.count("select count(*) from container_executions").await
}

/// What people look at when much waits.
async fn ask(stage: &Stage, owner: &Tenant) -> anyhow::Result<()> {
    let page = stage.call(owner, Method::GET, "/v1/jobs?status=pending&limit=100", None).await?;
    let last = page["jobs"].as_array().and_then(|jobs| jobs.last()).context("nothing is pending")?;
    let id = last["id"].as_str().context("a job has an id")?;
    stage.call(owner, Method::GET, &format!("/v1/jobs/{id}/why"), None).await?;
    stage.call(owner, Method::GET, "/v1/hosts", None).await?;
    Ok(())
}

/// How long it takes from the submission of a new tenant's first job until its container runs, by the container's own
/// ledger.
async fn first_start(stage: &Stage, name: &str) -> anyhow::Result<Duration> {
    let tenant = stage.tenant(name).await?;
    let submitted = boottime::now();
    let answer = stage.call(&tenant, Method::POST, "/v1/jobs", Some(&job(JOB_MILLIS))).await?;
    let id: JobId = answer["id"].as_str().context("an accepted job has an id")?.parse()?;
    stage
        .until(Duration::from_secs(60), "a newcomer's job starts", async || {
            let sql = "select exists (select from container_jobs where id = $1 and completed_at is not null)";
            Ok(sqlx::query_scalar(sql).bind(id.uuid()).fetch_one(&stage.sql).await?)
        })
        .await?;
    let ledger = stage.ledger(HOST)?;
    let run = ledger.runs().find(|run| run.job == id).context("a job ended that never ran")?;
    Ok(boottime::between(submitted, run.started_ns))
}
