//! The producer: one job per message, confirmed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use gantry_broker::{Outgoing, Publisher};
use gantry_core::clock::{Clock, SystemClock};
use serde_json::json;
use uuid::Uuid;

use crate::fleet::{Executor, Fleet, KEY};

/// Publishes in flight at once, and how long the whole may take.
const WAVE: usize = 2_000;
const GIVE_UP: Duration = Duration::from_secs(600);
/// Between two looks whether all have ended.
const TOGETHER: Duration = Duration::from_millis(50);
const SINGLY: Duration = Duration::from_millis(5);

/// Jobs that were submitted together.
pub(crate) struct Run {
    /// Begins every key of the run.
    pub(crate) prefix: String,
    /// When each was published, by its key.
    pub(crate) submitted: HashMap<String, DateTime<Utc>>,
    began: Instant,
    ended: Instant,
}

impl Run {
    /// From the first publish until the last job's end was recorded.
    pub(crate) fn seconds(&self) -> f64 {
        self.ended.duration_since(self.began).as_secs_f64()
    }
}

fn submission(fleet: &Fleet, key: &str) -> anyhow::Result<Outgoing> {
    let body = json!({
        "name": "bench",
        "idempotency_key": key,
        "preferred_executor": fleet.executor.name(),
        "spec": fleet.no_op(),
    });
    let mut message = Outgoing::json(fleet.broker.topology().submissions(), &body)?;
    message.headers.insert("x-gantry-api-key", KEY);
    Ok(message)
}

/// A few jobs that nobody measures: connections, caches, statements.
pub(crate) async fn warm_up(fleet: &Fleet) -> anyhow::Result<()> {
    all_at_once(
        fleet,
        match fleet.executor {
            Executor::Docker => 8,
            Executor::Mock => 500,
        },
    )
    .await?;
    Ok(())
}

/// Publishes all jobs as fast as they are confirmed, and waits for the last end.
pub(crate) async fn all_at_once(fleet: &Fleet, jobs: usize) -> anyhow::Result<Run> {
    let publisher = Publisher::new(&fleet.broker);
    let prefix = Uuid::now_v7().to_string();
    let mut submitted = HashMap::with_capacity(jobs);
    let began = Instant::now();
    let keys: Vec<String> = (0..jobs).map(|n| format!("{prefix}-{n}")).collect();
    for wave in keys.chunks(WAVE) {
        let mut messages = Vec::with_capacity(wave.len());
        for key in wave {
            messages.push(submission(fleet, key)?);
            submitted.insert(key.clone(), SystemClock.now());
        }
        for result in publisher.publish_all(messages).await {
            result.context("a submission was not confirmed")?;
        }
    }
    wait_for_ends(fleet, &prefix, jobs, TOGETHER).await?;
    Ok(Run { prefix, submitted, began, ended: Instant::now() })
}

/// Publishes each job when the one before has ended.
pub(crate) async fn one_at_a_time(fleet: &Fleet, jobs: usize) -> anyhow::Result<Run> {
    let publisher = Publisher::new(&fleet.broker);
    let prefix = Uuid::now_v7().to_string();
    let mut submitted = HashMap::with_capacity(jobs);
    let began = Instant::now();
    for n in 0..jobs {
        let key = format!("{prefix}-{n}");
        submitted.insert(key.clone(), SystemClock.now());
        publisher.publish(submission(fleet, &key)?).await.context("a submission was not confirmed")?;
        wait_for_ends(fleet, &prefix, n + 1, SINGLY).await?;
    }
    Ok(Run { prefix, submitted, began, ended: Instant::now() })
}

/// Waits until all jobs of a run have ended. What is asked while they run is cheap: it must not be what is measured.
async fn wait_for_ends(fleet: &Fleet, prefix: &str, jobs: usize, pause: Duration) -> anyhow::Result<()> {
    let limit = Instant::now() + GIVE_UP;
    loop {
        let busy: bool =
            sqlx::query_scalar("select exists (select 1 from container_jobs where status in ('pending', 'running'))")
                .fetch_one(&fleet.sql)
                .await?;
        if !busy {
            let ended: i64 = sqlx::query_scalar(
                "select count(*) from idempotency_keys i join container_jobs j on j.id = i.job_id
                 where i.source = 'key' and i.key like $1 || '-%' and j.completed_at is not null",
            )
            .bind(prefix)
            .fetch_one(&fleet.sql)
            .await?;
            if usize::try_from(ended)? >= jobs {
                return Ok(());
            }
        }
        if Instant::now() > limit {
            bail!("the jobs did not end within {GIVE_UP:?}");
        }
        tokio::time::sleep(pause).await;
    }
}
