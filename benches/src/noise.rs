//! Containers that print all at once, and a silent job beside them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gantry_broker::{Outgoing, Publisher};
use serde_json::{Value, json};

use crate::fleet::{Executor, Fleet, Layout, Servers, key};
use crate::measure::{self, median, round};
use crate::producer::{self, Door};

/// Containers that print.
const PRINTERS: usize = 50;
/// What each prints: as fast as it is read.
const LINES: usize = 40_000;
const LINE_BYTES: usize = 200;
/// Silent jobs for each figure.
const SILENT: usize = 40;
/// In which all of it must be stored.
const GIVE_UP: Duration = Duration::from_secs(300);

pub(crate) async fn run(servers: &Servers, binaries: &Path, rounds: usize) -> anyhow::Result<Value> {
    let fleet = Fleet::start(servers, binaries, Layout::plain(Executor::Mock, 200)).await?;
    producer::warm_up(&fleet).await?;
    let (mut rows, mut ratios) = (Vec::new(), Vec::new());
    for round_number in 0..rounds {
        let quiet = silent(&fleet, SILENT).await?;
        servers.settle().await?;
        let began = Instant::now();
        print(&fleet, round_number).await?;
        begun(&fleet).await?;
        // For as long as they print: each of these jobs is alone among the silent.
        let (mut beside, mut stored_at) = (Vec::new(), None);
        while stored_at.is_none() {
            ensure!(began.elapsed() < GIVE_UP, "the logs were not stored within {GIVE_UP:?}");
            beside.extend(silent(&fleet, 1).await?);
            if printing(&fleet).await? == 0 {
                stored_at = Some(began.elapsed());
            }
        }
        let bytes: i64 = sqlx::query_scalar(
            "select coalesce(sum(stdout_bytes), 0)::bigint from container_executions e
             join container_jobs j on j.id = e.job_id where j.idempotency_key like 'print-' || $1 || '-%'",
        )
        .bind(round_number.to_string())
        .fetch_one(&fleet.sql)
        .await?;
        ensure!(bytes == (PRINTERS * LINES * LINE_BYTES) as i64, "{bytes} bytes of log are stored");
        let seconds = stored_at.unwrap_or_default().as_secs_f64();
        let (count, quiet, noisy) = (beside.len(), median(quiet), median(beside));
        let ratio = quiet.zip(noisy).map(|(quiet, noisy)| noisy / quiet);
        ratios.extend(ratio);
        let row = json!({
            "megabytes_per_second": round(bytes as f64 / 1e6 / seconds),
            "silent_alone_ms": quiet, "silent_beside_ms": noisy, "silent_jobs_beside": count,
            "ratio": ratio.map(round),
        });
        eprintln!("noise: {row}");
        rows.push(row);
    }
    fleet.stop().await?;
    Ok(
        json!({ "case": "noise", "printers": PRINTERS, "bytes_each": LINES * LINE_BYTES, "ratio": median(ratios), "rounds": rows }),
    )
}

async fn print(fleet: &Fleet, round: usize) -> anyhow::Result<()> {
    let messages: Result<Vec<Outgoing>, serde_json::Error> = (0..PRINTERS)
        .map(|number| {
            let labels = json!({
                "mock.lines": LINES.to_string(), "mock.line_bytes": LINE_BYTES.to_string(), "mock.print_time": "0s",
            });
            let body = json!({
                "name": "prints", "preferred_executor": "mock", "idempotency_key": format!("print-{round}-{number}"),
                "labels": labels, "spec": { "image": "none" },
            });
            let mut message = Outgoing::json(fleet.broker.topology().submissions(), &body)?;
            message.headers.insert("x-gantry-api-key", key(0));
            Ok(message)
        })
        .collect();
    for result in Publisher::new(&fleet.broker).publish_all(messages?).await {
        result.context("a submission was not confirmed")?;
    }
    Ok(())
}

async fn printing(fleet: &Fleet) -> anyhow::Result<i64> {
    let sql = "select count(*) from container_jobs where name = 'prints' and status in ('pending', 'running')";
    Ok(sqlx::query_scalar(sql).fetch_one(&fleet.sql).await?)
}

/// Waits until something of it is stored.
async fn begun(fleet: &Fleet) -> anyhow::Result<()> {
    let sql = "select exists (select 1 from container_executions where ended_at is null and stdout_bytes > 0)";
    let began = Instant::now();
    while !sqlx::query_scalar::<_, bool>(sql).fetch_one(&fleet.sql).await? {
        ensure!(began.elapsed() < GIVE_UP, "nothing was printed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// From the claim to the recorded end of jobs that print nothing, one after the other.
async fn silent(fleet: &Fleet, jobs: usize) -> anyhow::Result<Vec<f64>> {
    let run = producer::one_at_a_time(fleet, jobs, Door::Amqp).await?;
    let mut delays = Vec::with_capacity(jobs);
    let rows: Vec<(chrono::DateTime<chrono::Utc>, chrono::DateTime<chrono::Utc>)> = sqlx::query_as(
        "select e.claimed_at, j.completed_at from container_jobs j join container_executions e on e.job_id = j.id
         where j.idempotency_key like $1 || '-%'",
    )
    .bind(&run.prefix)
    .fetch_all(&fleet.sql)
    .await?;
    for (claimed, completed) in rows {
        delays.push(measure::millis(completed, claimed));
    }
    Ok(delays)
}
