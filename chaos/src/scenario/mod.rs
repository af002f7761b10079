//! Faults that need servers of their own or a clock of their own, each tried once by a script: what was done, the proof
//! that it took effect, and what it cost.

mod clock;
mod cloud;
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

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::bail;
use clap::ValueEnum;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gantry_runtime::Shutdown;

use crate::outcome::Outcome;
use cloud::Cloud;
pub(crate) use crash_points::LAUNCH_SENT;
#[cfg(test)]
pub(crate) use crash_points::requests;
use row::Row;

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
    /// The same on the doubles of Cloud Run, Fargate and Scaleway
    CloudCrashPoints,
    /// Adoption, hand-over and a broker's restart with default settings, against their bounds
    Timings,
}

impl Name {
    /// Neighbours of one round run side by side, on servers of their own: they wait more than they work. A round that
    /// is one's own is one's that needs the machine for itself.
    const fn round(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::ConsumerTimeout | Self::Clock | Self::LongContainer => 1,
            Self::CrashPoints | Self::CloudCrashPoints => 2,
            Self::Timings => 3,
        }
    }
}

/// What the subcommand takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these; all of them without
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Of the clouds these; all of them without
    #[arg(long, value_enum, value_delimiter = ',')]
    clouds: Vec<Cloud>,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/debug")]
    binaries: PathBuf,
}

impl Options {
    /// All of them.
    pub(crate) fn all(binaries: PathBuf) -> Self {
        Self { names: Vec::new(), clouds: Vec::new(), binaries }
    }
}

/// Runs the scenarios, round by round; prints a row for each as it is done.
pub(crate) async fn run(options: &Options, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    let binaries = &std::path::absolute(&options.binaries)?;
    let names = if options.names.is_empty() { Name::value_variants() } else { &options.names };
    let clouds = if options.clouds.is_empty() { Cloud::value_variants() } else { &options.clouds };
    let mut outcome = Outcome::default();
    for round in names.chunk_by(|one, next| one.round() == next.round()) {
        let began = Instant::now();
        let mut trying: FuturesUnordered<_> =
            round.iter().map(|name| async move { (*name, try_one(*name, clouds, binaries).await) }).collect();
        while let Some((name, tried)) = tokio::select! {
            tried = trying.next() => tried,
            // Whatever was started ends with what is dropped.
            () = shutdown.requested() => bail!("stopped before the end"),
        } {
            outcome.add(match tried {
                Ok(row) => row.print(name, began.elapsed()),
                Err(error) => Outcome::failed(&row::name(name), &error),
            });
        }
    }
    Ok(outcome)
}

/// Tries one in a folder of its own, which stays if something is wrong: the servers' and the parts' logs are in it.
async fn try_one(name: Name, clouds: &[Cloud], binaries: &Path) -> anyhow::Result<Row> {
    let folder = tempfile::Builder::new().prefix("gantry-scenario-").tempdir()?;
    let path = folder.path();
    // On the heap: together they are too much for one frame.
    let tried = match name {
        Name::Cluster => Box::pin(cluster::run(binaries, path)).await,
        Name::ConsumerTimeout => Box::pin(consumer_timeout::run(binaries, path)).await,
        Name::Clock => Box::pin(clock::run(binaries, path)).await,
        Name::LongContainer => Box::pin(container::run(binaries, path)).await,
        Name::CrashPoints => Box::pin(crash_points::run(binaries, path)).await,
        Name::CloudCrashPoints => Box::pin(crash_points::run_on_clouds(clouds, binaries, path)).await,
        Name::Timings => Box::pin(timings::run(binaries, path)).await,
    };
    if !tried.as_ref().is_ok_and(Row::is_good) {
        println!("{}: logs are kept in {}", row::name(name), folder.keep().display());
    }
    tried
}
