//! Schedules that are all due at once make one job each, with several dispatchers of which one is killed meanwhile.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use gantry_core::schedule::{Calendar, Missed, Overlap};
use gantry_store::schedules::{self, NewSchedule};
use gantry_store::{Scope, Store};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::producer::job;
use super::sheet::Sheet;
use super::stage::{Stage, Tenant, on_stage};
use crate::part::Part;
use crate::run::Dice;

/// Schedules that are put at once.
const TOGETHER: usize = 8;
/// Time to put so many schedules before they are due.
const PUT_PER_SECOND: usize = 250;
/// After the due time, all must be decided about.
const WITHIN: Duration = Duration::from_secs(180);
/// How long nothing more may come when all is there: some looks of every dispatcher.
const QUIET: Duration = Duration::from_secs(6);
/// Between two looks while a dispatcher is to be killed in the middle.
const SOON: Duration = Duration::from_millis(5);

pub(super) struct Size {
    pub(super) schedules: usize,
    pub(super) dispatchers: usize,
}

/// A second that comes once a year.
#[derive(sqlx::FromRow)]
struct Second {
    cron: String,
    in_seconds: f64,
}

pub(super) async fn run(size: &Size, seed: u64, binaries: &Path, sheet: &mut Sheet) -> anyhow::Result<()> {
    on_stage(binaries, sheet, async |stage, sheet| measured(size, seed, stage, sheet).await).await
}

async fn measured(size: &Size, seed: u64, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
    let mut dice = Dice::new(seed);
    // Jobs are routed to where a host is; nobody runs them, so that each stays as it was made.
    stage.host("idle", 1).await?;
    let tenant = stage.tenant("scheduler").await?;
    stage.start(Part::Dispatcher, size.dispatchers)?;
    let second = second(stage, size.schedules.div_ceil(PUT_PER_SECOND)).await?;
    let due = Instant::now() + Duration::from_secs_f64(second.in_seconds);
    put(&stage.store, &tenant, &second.cron, size.schedules).await?;
    let left = due.saturating_duration_since(Instant::now());
    ensure!(!left.is_zero(), "{} schedules could not be put in time", size.schedules);
    sheet.say(&format!(
        "{} schedules are due at `{}` UTC, in {:.0} s",
        size.schedules,
        second.cron,
        left.as_secs_f64()
    ));
    tokio::time::sleep_until(due).await;

    let jobs = "select count(*) from container_jobs";
    // Somewhere in the middle, though not always at the same place.
    let enough = size.schedules * usize::try_from(dice.between(5, 40))? / 100;
    let mut made = 0;
    while made < enough && due.elapsed() < WITHIN {
        made = stage.count(jobs).await?;
        sleep(SOON).await;
    }
    let last = u64::try_from(size.dispatchers - 1)?;
    stage.kill_one(Part::Dispatcher, |_| usize::try_from(dice.between(0, last)).unwrap_or_default()).await?;
    sheet.figure(
        "a dispatcher is killed in the middle",
        &format!("after {made} jobs, {:.1} s after they were due", due.elapsed().as_secs_f64()),
        &format!("> 0, < {}", size.schedules),
        made > 0 && made < size.schedules,
    );
    let undecided = "select count(*) from schedules where next_due_at <= now()";
    stage.until(WITHIN, "all due times are decided about", async || Ok(stage.count(undecided).await? == 0)).await?;
    let took = due.elapsed();
    sleep(QUIET).await;

    sheet.say(&format!("all decided {:.1} s after they were due", took.as_secs_f64()));
    sheet.exactly(
        "jobs of schedules",
        stage.count("select count(*) from container_jobs where schedule_id is not null").await?,
        size.schedules,
    );
    sheet.exactly("schedules with exactly one job", stage.count(ONE_EACH).await?, size.schedules);
    sheet.exactly("due times that made the job that names them", stage.count(DECIDED).await?, size.schedules);
    sheet.exactly(
        "jobs of nobody",
        stage.count("select count(*) from container_jobs where schedule_id is null").await?,
        0,
    );
    Ok(())
}

const ONE_EACH: &str = "select count(*) from schedules s
    where (select count(*) from container_jobs j where j.schedule_id = s.id) = 1";

const DECIDED: &str = "select count(*) from schedule_runs r join container_jobs j on j.id = r.job_id
    where r.outcome = 'submitted' and j.schedule_id = r.schedule_id";

/// The first full second that is so far away, by the clock that dispatchers go by.
async fn second(stage: &Stage, seconds: usize) -> anyhow::Result<Second> {
    let sql = "select to_char(due at time zone 'UTC', 'FMSS FMMI FMHH24 FMDD FMMM *') as cron,
            extract(epoch from due - clock_timestamp())::float8 as in_seconds
        from (select date_trunc('second', clock_timestamp() + make_interval(secs => $1 + 1)) as due) m";
    let seconds = f64::from(u32::try_from(seconds)?);
    Ok(sqlx::query_as(sql).bind(seconds).fetch_one(&stage.sql).await?)
}

async fn put(store: &Store, tenant: &Tenant, cron: &str, count: usize) -> anyhow::Result<()> {
    let calendar = Calendar::parse(cron, "UTC").ok().context("a second is a calendar")?;
    let mut submission = job(0);
    submission.as_object_mut().context("a submission is an object")?.remove("idempotency_key");
    submission["name"] = json!("scheduled");
    let (calendar, submission) = (&calendar, &submission);
    stream::iter(0..count)
        .map(|number| async move {
            let name = format!("every-year-{number}");
            let new = NewSchedule {
                tenant: tenant.id,
                name: &name,
                cron,
                time_zone: "UTC",
                calendar,
                submission,
                missed: Missed::One,
                overlap: Overlap::Allow,
                created_by: "load",
            };
            schedules::put(store, Scope::Fleet, &new).await.map(drop)
        })
        .buffer_unordered(TOGETHER)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}
