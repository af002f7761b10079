//! Measures Gantry with its parts as separate processes, over private servers on this machine. Results go to stdout as
//! JSON, a table and progress to stderr. Absolute figures are for orientation: compare ratios of one run.

mod control;
mod cpu;
mod docker;
mod docker_loop;
mod fleet;
mod floors;
mod growth;
mod idle;
mod load;
mod long;
mod measure;
mod noise;
mod producer;
mod profile;
mod proxy;
mod sheet;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use gantry_runtime::process::{self, Threads};
use gantry_runtime::telemetry;
use serde_json::{Value, json};

use control::Events;
use fleet::{Executor, Servers};
use growth::Factor;

/// Jobs enter over RabbitMQ, one per message; every row is verified by SQL.
#[derive(Parser)]
struct Arguments {
    /// What to measure; without, all but growth, which takes an hour, profile and idle-docker
    #[arg(long = "case", value_enum)]
    cases: Vec<Case>,
    /// Jobs of a run at full speed
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// Interleaved pairs, or tries, of everything that is compared
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// For growth: only these
    #[arg(long = "factor", value_enum)]
    factors: Vec<Factor>,
    /// For control: who takes the events; without, first nobody and then a queue
    #[arg(long, value_enum)]
    events: Vec<Events>,
    /// Fails if `ratio_to_sql_floor` of the control plane, with no queue bound to the events, is below this
    #[arg(long)]
    at_least: Option<f64>,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/dist")]
    binaries: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// All jobs at once on mock, against what Postgres and RabbitMQ do alone
    Control,
    /// One job at a time by AMQP and HTTP: latencies, in fsyncs too
    Idle,
    /// The same on docker, to the create request on the engine's socket
    IdleDocker,
    /// Full speed once, and what Postgres did meanwhile, statement by statement
    Profile,
    /// Latencies at shares of the full speed
    Load,
    /// Containers of `true` against a bare loop that makes the same engine calls, in turn
    Docker,
    /// Full speed with many finished rows, hosts, tenants, replicas
    Growth,
    /// 20,000 running jobs: memory, CPU, transactions
    Long,
    /// 50 containers that print, and a silent job beside them
    Noise,
}

const ALL: [Case; 6] = [Case::Control, Case::Idle, Case::Load, Case::Docker, Case::Long, Case::Noise];
/// Jobs of the cases that are no load.
const SINGLE: usize = 1_000;
const CONTAINERS: usize = 120;
const LONG: u32 = 20_000;

fn main() -> ExitCode {
    let telemetry = telemetry::Config { filter: "warn,lapin=off".to_owned(), ..telemetry::Config::default() };
    process::run("gantry-bench", Threads::One, &telemetry, async |_| {
        let arguments = Arguments::parse();
        let cases = if arguments.cases.is_empty() { &ALL[..] } else { &arguments.cases };
        let mut results = Vec::new();
        for case in cases {
            let result = run(*case, &arguments).await?;
            sheet::print(&result);
            results.push(result);
        }
        let result = json!({ "machine": sheet::machine(), "commit": sheet::commit(), "results": results });
        println!("{}", serde_json::to_string_pretty(&result)?);
        sheet::check(&result, arguments.at_least)
    })
}

/// As docs/OPERATIONS.md has it: Postgres' own defaults are for a very small machine.
const POSTGRES: &[&str] = &["shared_buffers=1GB", "max_wal_size=4GB", "min_wal_size=4GB"];

/// One case, on servers that nobody has used before.
async fn run(case: Case, arguments: &Arguments) -> anyhow::Result<Value> {
    let Arguments { jobs, pairs, binaries, factors, events, .. } = arguments;
    let settings = if case == Case::Profile { [POSTGRES, profile::SETTINGS].concat() } else { POSTGRES.to_vec() };
    let servers = Servers::start(&settings).await?;
    servers.has_been_used(*jobs).await?;
    let result = match case {
        Case::Control => control::run(&servers, binaries, *jobs, *pairs, events).await,
        Case::Idle => idle::run(&servers, binaries, SINGLE, Executor::Mock).await,
        Case::IdleDocker => idle::run(&servers, binaries, SINGLE / 5, Executor::Docker).await,
        Case::Profile => profile::run(&servers, binaries, *jobs, factors).await,
        Case::Load => load::run(&servers, binaries, *jobs).await,
        Case::Docker => docker::run(&servers, binaries, CONTAINERS, *pairs).await,
        Case::Growth => growth::run(&servers, binaries, *jobs, *pairs, factors).await,
        Case::Long => long::run(&servers, binaries, LONG).await,
        Case::Noise => noise::run(&servers, binaries, *pairs).await,
    };
    servers.stop().await?;
    result
}
