//! Faults that need servers of their own or a clock of their own, each tried once by a script: what was done, the proof
//! that it took effect, and what it cost.

mod clock;
mod cluster;
mod consumer_timeout;
mod container;
mod crash_points;
mod engine;
mod jobs;
mod judge;
mod lab;
mod management;
mod row;
mod timings;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::bail;
use clap::ValueEnum;

use row::Total;

/// Which scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// A node of a RabbitMQ cluster is killed under load, and comes back
    Cluster,
    /// Jobs that run for longer than RabbitMQ lets a delivery stay unacked
    ConsumerTimeout,
    /// Processes whose wall clocks are a minute off
    Clock,
    /// A container that outlives its workers
    LongContainer,
    /// Workers killed right before and after each request to Docker Engine
    CrashPoints,
    /// Adoption, hand-over and a broker's restart with default settings, against their bounds
    Timings,
}

/// What the subcommand takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these; all of them without
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/debug")]
    binaries: PathBuf,
}

/// Runs the scenarios one after the other, and prints a row for each and their sum.
///
/// # Errors
/// When a promise was broken, a bound missed, or a fault not proved.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = std::path::absolute(&options.binaries)?;
    let names = if options.names.is_empty() { Name::value_variants() } else { &options.names };
    let mut total = Total::default();
    for name in names {
        let began = Instant::now();
        // On the heap: together they are too much for one frame.
        let row = match name {
            Name::Cluster => Box::pin(cluster::run(&binaries)).await,
            Name::ConsumerTimeout => Box::pin(consumer_timeout::run(&binaries)).await,
            Name::Clock => Box::pin(clock::run(&binaries)).await,
            Name::LongContainer => Box::pin(container::run(&binaries)).await,
            Name::CrashPoints => Box::pin(crash_points::run(&binaries)).await,
            Name::Timings => Box::pin(timings::run(&binaries)).await,
        };
        total.add(*name, row, began.elapsed());
    }
    if total.print() { Ok(()) } else { bail!("a promise was broken, a bound missed, or a fault not proved") }
}
