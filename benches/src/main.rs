//! Measures Gantry with its parts as separate release processes, over private servers on this machine. Results go
//! to stdout as JSON, progress to stderr. Absolute figures are for orientation: compare ratios of one run.

mod docker_loop;
mod fleet;
mod measure;
mod producer;
mod proxy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use gantry_runtime::{process, telemetry};
use serde_json::{Value, json};

use fleet::{Executor, Fleet};

/// Jobs enter over RabbitMQ, one per message; every row is verified by SQL.
#[derive(Parser)]
struct Arguments {
    /// How many jobs
    #[arg(long, default_value_t = 50_000)]
    jobs: usize,
    /// Where they run
    #[arg(long, value_enum, default_value_t = Executor::Mock)]
    executor: Executor,
    /// Jobs that may run at once; 2,000 on mock and 8 on docker if not given
    #[arg(long)]
    slots: Option<u32>,
    /// What to measure
    #[arg(long, value_enum, default_value_t = Case::Throughput)]
    case: Case,
    /// For `docker-pairs`: interleaved pairs of Gantry and the bare loop
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/release")]
    binaries: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Case {
    /// All jobs at once: jobs/s end to end
    Throughput,
    /// One job at a time: latencies
    Idle,
    /// Containers of `true` against a bare loop that makes the same engine calls, in turn
    DockerPairs,
}

fn main() -> ExitCode {
    let telemetry = telemetry::Config { filter: "warn,lapin=off".to_owned(), ..telemetry::Config::default() };
    process::run("gantry-bench", &telemetry, async |_| {
        let arguments = Arguments::parse();
        let result = run(&arguments).await?;
        println!("{}", serde_json::to_string_pretty(&result)?);
        Ok(())
    })
}

async fn run(arguments: &Arguments) -> anyhow::Result<Value> {
    let executor = match arguments.case {
        Case::DockerPairs => Executor::Docker,
        _ => arguments.executor,
    };
    let slots = arguments.slots.unwrap_or(match executor {
        Executor::Mock => 2_000,
        Executor::Docker => 8,
    });
    let sees_requests = matches!(arguments.case, Case::Idle);
    let fleet =
        Fleet::start(&arguments.binaries, executor, slots, sees_requests).await.context("could not start the fleet")?;
    let result = match arguments.case {
        Case::Throughput => throughput(&fleet, arguments.jobs).await,
        Case::Idle => idle(&fleet, arguments.jobs.min(1_000)).await,
        Case::DockerPairs => docker_pairs(&fleet, arguments.jobs.min(200), arguments.pairs, slots).await,
    };
    fleet.stop().await?;
    result
}

async fn throughput(fleet: &Fleet, jobs: usize) -> anyhow::Result<Value> {
    producer::warm_up(fleet).await?;
    let run = producer::all_at_once(fleet, jobs).await?;
    let verified = measure::verify(fleet, &run).await?;
    Ok(json!({
        "case": "throughput",
        "executor": fleet.executor.name(),
        "jobs": jobs,
        "seconds": run.seconds(),
        "jobs_per_second": jobs as f64 / run.seconds(),
        "verified": verified,
        "latency": measure::latencies(fleet, &run).await?,
    }))
}

async fn idle(fleet: &Fleet, jobs: usize) -> anyhow::Result<Value> {
    producer::warm_up(fleet).await?;
    let run = producer::one_at_a_time(fleet, jobs).await?;
    let verified = measure::verify(fleet, &run).await?;
    Ok(json!({
        "case": "idle",
        "executor": fleet.executor.name(),
        "jobs": jobs,
        "verified": verified,
        "latency": measure::latencies(fleet, &run).await?,
        "submit_to_create_request": measure::create_requests(fleet, &run).await?,
    }))
}

async fn docker_pairs(fleet: &Fleet, jobs: usize, pairs: usize, slots: u32) -> anyhow::Result<Value> {
    producer::warm_up(fleet).await?;
    let mut rows = Vec::with_capacity(pairs);
    let mut ratios = Vec::with_capacity(pairs);
    for pair in 0..pairs {
        let run = producer::all_at_once(fleet, jobs).await?;
        measure::verify(fleet, &run).await?;
        let ours = jobs as f64 / run.seconds();
        // The containers of the run are removed within a beat or two; the bare loop must not pay for that.
        fleet.containers_removed().await?;
        let bare = docker_loop::run(fleet, jobs, slots).await?;
        eprintln!("pair {}: gantry {ours:.2}/s, bare loop {bare:.2}/s, ratio {:.3}", pair + 1, ours / bare);
        ratios.push(ours / bare);
        rows.push(json!({"gantry_per_second": ours, "bare_per_second": bare, "ratio": ours / bare}));
    }
    Ok(json!({
        "case": "docker_pairs",
        "jobs_each": jobs,
        "concurrency": slots,
        "pairs": rows,
        "median_ratio": measure::median(&mut ratios),
    }))
}
