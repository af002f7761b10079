//! Jobs that run for minutes: what each costs its worker while nothing happens to it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use gantry_broker::{Outgoing, Publisher};
use serde_json::{Value, json};

use crate::cpu;
use crate::fleet::{Executor, Fleet, Layout, Servers, key};
use crate::measure::round;
use crate::producer;

/// How long each runs: longer than the case takes.
const RUNS: &str = "30m";
/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(60);
/// In which all must run.
const RUNNING_WITHIN: Duration = Duration::from_secs(180);

pub(crate) async fn run(servers: &Servers, binaries: &Path, jobs: u32) -> anyhow::Result<Value> {
    let fleet = Fleet::start(servers, binaries, Layout::plain(Executor::Mock, jobs + 500)).await?;
    producer::warm_up(&fleet).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = resting(&fleet).await?;
    let worker = fleet.worker()?;
    let before = cpu::resident_bytes(worker)?;
    submit(&fleet, jobs).await?;
    all_run(&fleet, jobs).await?;
    // What came with the rush is given back, and the first looks are over.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let full = resting(&fleet).await?;
    let bytes = cpu::resident_bytes(worker)?.saturating_sub(before) as f64 / f64::from(jobs);
    fleet.stop().await?;
    Ok(json!({
        "case": "long", "jobs": jobs, "bytes_per_job": round(bytes), "empty": empty, "running": full,
        "watched_seconds": WATCHED.as_secs(),
    }))
}

async fn submit(fleet: &Fleet, jobs: u32) -> anyhow::Result<()> {
    let publisher = Publisher::new(&fleet.broker);
    let body = json!({
        "name": "long", "preferred_executor": "mock", "labels": { "mock.duration": RUNS },
        "spec": { "image": "none" },
    });
    for wave in (0..jobs).collect::<Vec<_>>().chunks(1_000) {
        let messages: Result<Vec<Outgoing>, serde_json::Error> = wave
            .iter()
            .map(|number| {
                let mut body = body.clone();
                body["idempotency_key"] = json!(format!("long-{number}"));
                let mut message = Outgoing::json(fleet.broker.topology().submissions(), &body)?;
                message.headers.insert("x-gantry-api-key", key(0));
                Ok(message)
            })
            .collect();
        for result in publisher.publish_all(messages?).await {
            result.context("a submission was not confirmed")?;
        }
    }
    Ok(())
}

async fn all_run(fleet: &Fleet, jobs: u32) -> anyhow::Result<()> {
    let began = std::time::Instant::now();
    loop {
        let running: i64 = sqlx::query_scalar(
            "select count(*) from container_executions where ended_at is null and started_at is not null",
        )
        .fetch_one(&fleet.sql)
        .await?;
        if running >= i64::from(jobs) {
            return Ok(());
        }
        ensure!(began.elapsed() < RUNNING_WITHIN, "only {running} of {jobs} jobs run");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What the fleet does while nothing happens.
async fn resting(fleet: &Fleet) -> anyhow::Result<Value> {
    let commits = async || -> anyhow::Result<i64> {
        let sql = "select xact_commit from pg_stat_database where datname = current_database()";
        Ok(sqlx::query_scalar(sql).fetch_one(&fleet.sql).await?)
    };
    let (before, used) = (commits().await?, fleet.cpu());
    tokio::time::sleep(WATCHED).await;
    let transactions = (commits().await? - before) as f64 / WATCHED.as_secs_f64();
    let cpu = fleet.cpu().since(&used);
    let worker = cpu["gantry-worker-mock"].as_f64().unwrap_or_default() / WATCHED.as_secs_f64();
    Ok(json!({
        "transactions_per_second": round(transactions),
        "worker_share_of_a_core": round(worker),
        "cpu_seconds": cpu,
    }))
}
