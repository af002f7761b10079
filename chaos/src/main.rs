//! Breaks Gantry on purpose and counts what that cost. Run it through `make chaos` and `make chaos-points`: the crash
//! points find their servers by the `GANTRY_TEST_*` variables, the other stages start servers of their own.

mod backlog;
mod crowd;
mod discovery;
mod fleet;
mod letters;
mod load;
mod outcome;
mod part;
mod past;
mod producer;
mod roster;
mod run;
mod scenario;
mod schedules;
mod table;
mod trial;
mod verdict;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::Parser;
use futures::{StreamExt, stream};
use gantry_runtime::process::{self, Threads};
use gantry_runtime::{Shutdown, telemetry};

use discovery::Phase;
use outcome::Outcome;
use part::Part;
use table::Total;

/// Jobs, while things break.
#[derive(Parser)]
enum Arguments {
    /// Kills each part once at every failpoint that it passes, on simulated containers
    Points(Options),
    /// Real processes under a schedule of faults, on simulated and real containers
    Run(run::Options),
    /// Faults that need servers or a clock of their own, each once, by a script
    Scenario(scenario::Options),
    /// What the backlog promises under load: order, shares, limits, schedules, and what they cost
    Load(backlog::Options),
    /// Everything, one after another, summed up in one last line
    All {
        /// Which schedule of faults
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Fleets side by side, while there is one for every crash point
        #[arg(long, default_value_t = 8)]
        fleets: usize,
        /// Where the parts' binaries are
        #[arg(long, default_value = "target/debug")]
        binaries: PathBuf,
    },
}

#[derive(clap::Args)]
struct Options {
    /// Only points with this in their name
    #[arg(long)]
    only: Option<String>,
    /// Only points of this part
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// At which passing of its point a part dies. Not every part passes every point more than once: one that does not
    /// is no fault, unless this is 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    passing: u32,
    /// How the part is brought to its points, instead of the first way in which it passes each; one that this way does
    /// not pass is no fault
    #[arg(long, value_enum)]
    phase: Option<Phase>,
    /// Fleets side by side
    #[arg(long, default_value_t = 8)]
    fleets: usize,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/debug")]
    binaries: PathBuf,
}

fn main() -> ExitCode {
    let telemetry =
        telemetry::Config { filter: "warn,lapin=off,sqlx=error".to_owned(), ..telemetry::Config::default() };
    process::run("gantry-chaos", Threads::Many, &telemetry, async |shutdown| {
        let outcome = chaos(Arguments::parse(), &shutdown).await?;
        if outcome.is_good() { Ok(()) } else { bail!("a promise was broken, or not all was tried") }
    })
}

async fn chaos(arguments: Arguments, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    Ok(match arguments {
        Arguments::Points(options) => points(&options, shutdown).await?,
        Arguments::Run(options) => {
            let outcome = run::run(&options, shutdown).await?;
            outcome.explain();
            outcome.print();
            outcome
        }
        Arguments::Scenario(options) => {
            let outcome = scenario::run(&options, shutdown).await?;
            outcome.explain();
            outcome.print();
            outcome
        }
        Arguments::Load(options) => backlog::run(&options, shutdown).await?,
        Arguments::All { seed, fleets, binaries } => all(seed, fleets, binaries, shutdown).await,
    })
}

/// Every stage, also when one before it could not be done.
async fn all(seed: u64, fleets: usize, binaries: PathBuf, shutdown: &Shutdown) -> Outcome {
    let mut sum = Outcome::default();
    let options = Options { only: None, part: None, passing: 1, phase: None, fleets, binaries: binaries.clone() };
    sum.add(stage("crash points", points(&options, shutdown)).await);
    sum.add(stage("scenarios", scenario::run(&scenario::Options::all(binaries.clone()), shutdown)).await);
    sum.add(stage("faults", run::run(&run::Options::full(seed, binaries), shutdown)).await);
    sum.print();
    sum
}

/// One stage, with its faults told in words.
async fn stage(name: &str, run: impl Future<Output = anyhow::Result<Outcome>>) -> Outcome {
    let outcome = run.await.unwrap_or_else(|error| Outcome::failed(name, &error));
    outcome.explain();
    outcome
}

async fn points(options: &Options, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    tokio::select! {
        outcome = every_point(options) => outcome,
        // Whatever was started ends with what is dropped.
        () = shutdown.requested() => bail!("stopped before the end"),
    }
}

async fn every_point(options: &Options) -> anyhow::Result<Outcome> {
    let mut targets = discovery::discover(&options.binaries).await?;
    let forgotten = roster::faults(&targets.iter().map(|target| (target.part, target.point.clone())).collect());
    targets.retain(|target| {
        options.only.as_ref().is_none_or(|only| target.point.contains(only))
            && options.part.is_none_or(|part| target.part == part)
    });
    for target in &mut targets {
        target.phase = options.phase.unwrap_or(target.phase);
    }
    ensure!(!targets.is_empty(), "no part passes such a point");
    table::head(&targets);
    let must_fire = options.passing == 1 && options.phase.is_none();
    let mut total = Total::default();
    let mut rows = stream::iter(&targets)
        .map(|target| async move { (target, trial::run(&options.binaries, target, options.passing, must_fire).await) })
        .buffer_unordered(options.fleets.max(1));
    while let Some((target, row)) = rows.next().await {
        match row {
            Ok(row) => total.add(&row),
            Err(error) => total.failed(target, &error),
        }
    }
    Ok(total.print(must_fire, forgotten))
}
