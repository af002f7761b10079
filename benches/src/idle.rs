//! One job at a time, when nobody else is there: how long each step takes, beside what a commit to disk costs.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::fleet::{Executor, Fleet, Layout, Servers};
use crate::measure::{self, summary};
use crate::producer::{self, Door};

/// Postgres writes at least a page of its log with a commit.
const PAGE: usize = 8_192;
const WRITES: usize = 1_000;

/// `jobs` by each door, on mock; on docker by AMQP, with the create request that the engine's socket saw.
pub(crate) async fn run(servers: &Servers, binaries: &Path, jobs: usize, executor: Executor) -> anyhow::Result<Value> {
    let sees_requests = executor == Executor::Docker;
    let slots = if sees_requests { 8 } else { 100 };
    let fleet = Fleet::start(servers, binaries, Layout { sees_requests, ..Layout::plain(executor, slots) }).await?;
    producer::warm_up(&fleet).await?;
    let mut doors = serde_json::Map::new();
    for (name, door) in [("amqp", Door::Amqp), ("http", Door::Http)] {
        let before = fsync_millis(servers.data.path())?;
        let run = producer::one_at_a_time(&fleet, jobs, door).await?;
        measure::verify(&fleet, &run).await?;
        let after = fsync_millis(servers.data.path())?;
        let latency = measure::latencies(&fleet, &run).await?;
        let mut fsyncs: Vec<f64> = before.into_iter().chain(after).collect();
        let fsync = summary(&mut fsyncs);
        let claimed = &latency["submit_to_claimed_ms"];
        let in_fsyncs = |of: &str| Some(measure::round(claimed[of].as_f64()? / fsync[of].as_f64()?));
        let row = json!({
            "latency": latency,
            "submit_to_create_request_ms": measure::create_requests(&fleet, &run).await.unwrap_or_default(),
            "fsync_ms": fsync,
            "claimed_in_fsyncs": { "p50": in_fsyncs("p50"), "p99": in_fsyncs("p99") },
        });
        eprintln!("idle, {name}: {row}");
        doors.insert(name.to_owned(), row);
    }
    fleet.stop().await?;
    Ok(json!({ "case": "idle", "executor": executor.executor_type(), "jobs": jobs, "doors": doors }))
}

/// What it takes to write a page of a file and have it on disk, as Postgres does for a commit (`fdatasync`).
fn fsync_millis(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let path = folder.join("fsync");
    let file = File::create(&path)?;
    // As Postgres does: into space that is there already.
    file.write_all_at(&vec![0; PAGE * WRITES], 0)?;
    file.sync_all()?;
    let mut millis = Vec::with_capacity(WRITES);
    for page in 0..WRITES {
        let began = Instant::now();
        file.write_all_at(&[1; PAGE], (page * PAGE) as u64)?;
        file.sync_data()?;
        millis.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    std::fs::remove_file(path)?;
    Ok(millis)
}
