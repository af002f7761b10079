//! Breaks Gantry on purpose and counts what that cost. Run it through `make chaos-points`: it finds its servers by the
//! `GANTRY_TEST_*` variables.

mod discovery;
mod fleet;
mod load;
mod part;
mod producer;
mod table;
mod trial;
mod verdict;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{bail, ensure};
use clap::Parser;
use futures::{StreamExt, stream};
use gantry_runtime::{process, telemetry};

use discovery::Phase;
use part::Part;
use table::Total;

/// Jobs on simulated containers, while parts are killed.
#[derive(Parser)]
enum Arguments {
    /// Kills each part once at every failpoint that it passes
    Points(Options),
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
    #[arg(long, default_value_t = 6)]
    fleets: usize,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/debug")]
    binaries: PathBuf,
}

fn main() -> ExitCode {
    let telemetry =
        telemetry::Config { filter: "warn,lapin=off,sqlx=error".to_owned(), ..telemetry::Config::default() };
    process::run("gantry-chaos", &telemetry, async |shutdown| {
        let Arguments::Points(options) = Arguments::parse();
        // Whatever was started ends with what is dropped.
        tokio::select! {
            result = points(&options) => result,
            () = shutdown.requested() => bail!("stopped before the end"),
        }
    })
}

async fn points(options: &Options) -> anyhow::Result<()> {
    let mut targets = discovery::discover(&options.binaries).await?;
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
    if total.print(must_fire) { Ok(()) } else { bail!("a promise was broken, or a point was not tried") }
}
