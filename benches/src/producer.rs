//! Producers: one job per message, confirmed; or one per HTTP request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use gantry_broker::{Outgoing, Publisher};
use gantry_core::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::fleet::{Executor, Fleet, key};

/// Publishes in flight at once, and how long the whole may take.
const WAVE: usize = 2_000;
const GIVE_UP: Duration = Duration::from_secs(900);
/// Between two looks whether all have ended, at least and at most.
const TOGETHER: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_millis(500);
/// So many that wait are counted.
const COUNTED: i32 = 100;
const SINGLY: Duration = Duration::from_millis(10);
/// How often a paced producer publishes what is due.
const TICK: Duration = Duration::from_millis(5);

/// Jobs that were submitted together.
pub(crate) struct Run {
    /// Begins every key of the run.
    pub(crate) prefix: String,
    /// When each was published, by its key.
    pub(crate) submitted: HashMap<String, DateTime<Utc>>,
    began: Instant,
    ended: Instant,
}

/// By which door a job comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Amqp,
    Http,
}

impl Run {
    fn begin() -> Self {
        let now = Instant::now();
        Self { prefix: Uuid::now_v7().to_string(), submitted: HashMap::new(), began: now, ended: now }
    }

    fn key(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// From the first publish until the last job's end was recorded.
    pub(crate) fn seconds(&self) -> f64 {
        self.ended.duration_since(self.began).as_secs_f64()
    }

    pub(crate) fn jobs(&self) -> usize {
        self.submitted.len()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.jobs() as f64 / self.seconds()
    }
}

fn body(fleet: &Fleet, key: &str) -> Value {
    json!({
        "name": "bench",
        "idempotency_key": key,
        "preferred_executor": fleet.layout.executor.executor_type(),
        "spec": fleet.no_op(),
    })
}

/// A submission as the broker gets it; tenants take turns.
fn submission(fleet: &Fleet, idempotency_key: &str, number: usize) -> anyhow::Result<Outgoing> {
    let mut message = Outgoing::json(fleet.broker.topology().submissions(), &body(fleet, idempotency_key))?;
    message.headers.insert("x-gantry-api-key", key(number % fleet.layout.tenants as usize));
    Ok(message)
}

/// How long a submission is, for those who send as much for nothing.
pub(crate) fn submission_bytes(fleet: &Fleet) -> anyhow::Result<usize> {
    Ok(serde_json::to_vec(&body(fleet, &Run::begin().key(10_000)))?.len())
}

/// A few jobs that nobody measures: connections, caches, statements.
pub(crate) async fn warm_up(fleet: &Fleet) -> anyhow::Result<()> {
    let jobs = match fleet.layout.executor {
        Executor::Docker => 8,
        Executor::Mock => 500,
    };
    all_at_once(fleet, jobs).await?;
    Ok(())
}

/// Publishes all jobs as fast as they are confirmed, and waits for the last end.
pub(crate) async fn all_at_once(fleet: &Fleet, jobs: usize) -> anyhow::Result<Run> {
    let publisher = Publisher::new(&fleet.broker);
    let mut run = Run::begin();
    let keys: Vec<String> = (0..jobs).map(|number| run.key(number)).collect();
    for (first, wave) in keys.chunks(WAVE).enumerate() {
        let mut messages = Vec::with_capacity(wave.len());
        for (place, key) in wave.iter().enumerate() {
            messages.push(submission(fleet, key, first * WAVE + place)?);
            run.submitted.insert(key.clone(), SystemClock.now());
        }
        for result in publisher.publish_all(messages).await {
            result.context("a submission was not confirmed")?;
        }
    }
    run.ended = wait_for_ends(fleet, &run).await?;
    Ok(run)
}

/// Publishes so many jobs a second for a while, however far the fleet lags, and waits for the last end.
pub(crate) async fn paced(fleet: &Fleet, per_second: f64, lasts: Duration) -> anyhow::Result<Run> {
    let publisher = Publisher::new(&fleet.broker);
    let mut run = Run::begin();
    let mut ticks = tokio::time::interval(TICK);
    // One that came late publishes what is due by then, and not one tick after the other.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut publishing = JoinSet::new();
    while run.began.elapsed() < lasts {
        ticks.tick().await;
        let due = (run.began.elapsed().as_secs_f64() * per_second) as usize;
        let mut messages = Vec::new();
        for number in run.jobs()..due {
            let key = run.key(number);
            messages.push(submission(fleet, &key, number)?);
            run.submitted.insert(key, SystemClock.now());
        }
        let publisher = publisher.clone();
        publishing.spawn(async move { publisher.publish_all(messages).await });
        while let Some(results) = publishing.try_join_next() {
            confirmed(results?)?;
        }
    }
    while let Some(results) = publishing.join_next().await {
        confirmed(results?)?;
    }
    run.ended = wait_for_ends(fleet, &run).await?;
    Ok(run)
}

fn confirmed(results: Vec<Result<(), gantry_broker::publish::Error>>) -> anyhow::Result<()> {
    for result in results {
        result.context("a submission was not confirmed")?;
    }
    Ok(())
}

/// Hands in each job when the one before has ended.
pub(crate) async fn one_at_a_time(fleet: &Fleet, jobs: usize, door: Door) -> anyhow::Result<Run> {
    let publisher = Publisher::new(&fleet.broker);
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut run = Run::begin();
    for number in 0..jobs {
        let idempotency_key = run.key(number);
        run.submitted.insert(idempotency_key.clone(), SystemClock.now());
        match door {
            Door::Amqp => {
                let message = submission(fleet, &idempotency_key, 0)?;
                publisher.publish(message).await.context("a submission was not confirmed")?;
            }
            Door::Http => {
                let request = client.post(format!("{}/v1/jobs", fleet.api)).bearer_auth(key(0));
                let answer = request.json(&body(fleet, &idempotency_key)).send().await?;
                ensure!(answer.status().is_success(), "{}: {}", answer.status(), answer.text().await?);
            }
        }
        wait_for_end(fleet, &idempotency_key).await?;
    }
    run.ended = Instant::now();
    Ok(run)
}

/// Waits until one job of the first tenant has ended, whatever others do.
async fn wait_for_end(fleet: &Fleet, key: &str) -> anyhow::Result<()> {
    let limit = Instant::now() + GIVE_UP;
    loop {
        let ended: bool = sqlx::query_scalar(
            "select exists (
                 select 1 from tenants t
                 join idempotency_keys i on i.tenant_id = t.id and i.source = 'key' and i.key = $1
                 join container_jobs j on j.id = i.job_id and j.completed_at is not null
                 where t.name = 'bench-0')",
        )
        .bind(key)
        .fetch_one(&fleet.sql)
        .await?;
        if ended {
            return Ok(());
        }
        if Instant::now() > limit {
            bail!("a job did not end within {GIVE_UP:?}");
        }
        tokio::time::sleep(SINGLY).await;
    }
}

/// Waits until all jobs of a run have ended, and returns a moment by which they had. What is asked while they run is cheap,
/// however many have ended, and is asked seldom while many are left: it must not be what is measured. Nor is the time that counting
/// them takes: all is asked of one picture of the database, and the moment is the one at which that is taken.
async fn wait_for_ends(fleet: &Fleet, run: &Run) -> anyhow::Result<Instant> {
    let limit = Instant::now() + GIVE_UP;
    loop {
        let mut picture = fleet.sql.begin_with("begin isolation level repeatable read").await?;
        // Of the tenants one for all: they submit in turn.
        let left: i64 = sqlx::query_scalar(
            "select (select coalesce(sum(current_job_count), 0) from executor_hosts)
                 + (select coalesce(sum(gantry_waiting(id, $1)), 0)::int8 from tenants where name = 'bench-0')",
        )
        .bind(COUNTED)
        .fetch_one(&mut *picture)
        .await?;
        let taken = Instant::now();
        if left == 0 {
            let ended: i64 = sqlx::query_scalar(
                "select count(*) from idempotency_keys i join container_jobs j on j.id = i.job_id
                 where i.source = 'key' and i.key like $1 || '-%' and j.completed_at is not null",
            )
            .bind(&run.prefix)
            .fetch_one(&mut *picture)
            .await?;
            if usize::try_from(ended)? >= run.jobs() {
                return Ok(taken);
            }
        }
        drop(picture);
        if Instant::now() > limit {
            bail!("the jobs did not end within {GIVE_UP:?}");
        }
        tokio::time::sleep(pause(run, usize::try_from(left)?)).await;
    }
}

/// Half of the time that those which are left take, as far as is known.
fn pause(run: &Run, left: usize) -> Duration {
    let ended = run.jobs().saturating_sub(left).max(1);
    let rest = run.began.elapsed().mul_f64(left as f64 / ended as f64);
    (rest / 2).clamp(TOGETHER, SELDOM)
}
