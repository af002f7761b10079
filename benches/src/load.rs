//! How long a job takes while the fleet works at a share of what it can do.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::control::SLOTS;
use crate::fleet::{Executor, Fleet, Layout, Servers};
use crate::measure::{self, round};
use crate::producer;

const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.9];
const LASTS: Duration = Duration::from_secs(20);
/// How often each share is tried.
const TRIES: usize = 3;

/// First all `jobs` at once, for what it can do; then the shares of it.
pub(crate) async fn run(servers: &Servers, binaries: &Path, jobs: usize) -> anyhow::Result<Value> {
    let fleet = Fleet::start(servers, binaries, Layout::plain(Executor::Mock, SLOTS)).await?;
    producer::warm_up(&fleet).await?;
    let mut most = Vec::new();
    for _ in 0..3 {
        servers.settle().await?;
        most.push(producer::all_at_once(&fleet, jobs).await?.per_second());
    }
    let most = measure::median(most).unwrap_or_default();
    let mut shares = Vec::new();
    for share in SHARES {
        for _ in 0..TRIES {
            servers.settle().await?;
            let began = fleet.cpu();
            let run = producer::paced(&fleet, most * share, LASTS).await?;
            let cpu = fleet.cpu().since(&began);
            measure::verify(&fleet, &run).await?;
            let row = json!({
                "share": share,
                "asked_per_second": round(most * share),
                "jobs_per_second": round(run.per_second()),
                "latency": measure::latencies(&fleet, &run).await?,
                "cpu_seconds": cpu,
            });
            eprintln!("load: {row}");
            shares.push(row);
        }
    }
    fleet.stop().await?;
    Ok(json!({ "case": "load", "jobs_per_second": most, "shares": shares }))
}
