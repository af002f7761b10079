//! Containers of `true` against a bare loop that makes the same engine calls, in turn.

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
        measure::verify(&fleet, &run).await?;
        let (gantry, ratio) = (run.per_second(), run.per_second() / bare);
        eprintln!("docker: bare {bare:.2}/s, gantry {gantry:.2}/s, ratio {ratio:.3}");
        ratios.push(ratio);
        rows.push(json!({ "bare_per_second": round(bare), "per_second": round(gantry), "ratio": round(ratio) }));
    }
    fleet.stop().await?;
    Ok(json!({ "case": "docker", "jobs": jobs, "concurrency": CONCURRENCY, "ratio": median(ratios), "pairs": rows }))
}
