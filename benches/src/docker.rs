//! Containers of `true` against a bare loop that makes the same engine calls, in turn.
//!
//! The loop has removed its containers when it is done. Gantry's time ends with the last recorded end, and what it has not
//! removed by then is work that the loop has done and Gantry has not: `left` says how many they are.

use std::path::Path;

use serde_json::{Value, json};

use crate::docker_loop;
use crate::fleet::{Executor, Fleet, Layout, Servers};
use crate::measure::{self, median, round};
use crate::producer;

/// How many containers at once.
const CONCURRENCY: u32 = 8;

pub(crate) async fn run(servers: &Servers, binaries: &Path, jobs: usize, pairs: usize) -> anyhow::Result<Value> {
    let fleet = Fleet::start(servers, binaries, Layout::plain(Executor::Docker, CONCURRENCY)).await?;
    producer::warm_up(&fleet).await?;
    let (mut ratios, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..pairs {
        fleet.containers_removed().await?;
        let bare = docker_loop::run(&fleet, jobs, CONCURRENCY).await?;
        fleet.containers_removed().await?;
        let run = producer::all_at_once(&fleet, jobs).await?;
        let left = fleet.containers().await?;
        measure::verify(&fleet, &run).await?;
        let (gantry, ratio) = (run.per_second(), run.per_second() / bare);
        eprintln!("docker: bare {bare:.2}/s, gantry {gantry:.2}/s, ratio {ratio:.3}, not removed yet {left}");
        ratios.push(ratio);
        let (bare, per_second, ratio) = (round(bare), round(gantry), round(ratio));
        rows.push(json!({ "bare_per_second": bare, "per_second": per_second, "ratio": ratio, "left": left }));
    }
    fleet.stop().await?;
    Ok(json!({ "case": "docker", "jobs": jobs, "concurrency": CONCURRENCY, "ratio": median(ratios), "pairs": rows }))
}
