//! Load: what the backlog promises, measured. Each case has a fleet of its own on the servers that the `GANTRY_TEST_*`
//! variables name. Times and ratios are of this run alone; what is counted is exact.

mod boottime;
mod case;
mod claims;
mod history;
mod limits;
mod memory;
mod pending;
mod producer;
mod schedules;
mod shares;
mod sheet;
mod stage;

use std::path::PathBuf;

use anyhow::bail;
use gantry_runtime::Shutdown;

use crate::outcome::Outcome;
use case::{Case, Size};
use sheet::Sheet;

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// A selection that takes a minute or two, with bounds for times and ratios that a busy machine keeps, too
    #[arg(long)]
    short: bool,
    /// Only these cases
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Case>,
    /// What operators do at random, and when
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/debug")]
    binaries: PathBuf,
}

/// Runs the cases and prints a line for each figure; the last line says whether all hold. Stops early when asked to.
pub(crate) async fn run(options: &Options, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    tokio::select! {
        outcome = measured(options) => Ok(outcome),
        // Whatever was started ends with what is dropped.
        () = shutdown.requested() => bail!("stopped before the end"),
    }
}

async fn measured(options: &Options) -> Outcome {
    let size = if options.short { Size::short() } else { Size::full() };
    let mut sheet = Sheet::new();
    for case in Case::in_order().filter(|case| options.only.is_empty() || options.only.contains(case)) {
        sheet.begin(case.name());
        if let Err(error) = case.run(&size, options.seed, &options.binaries, &mut sheet).await {
            sheet.failed(&error);
        }
    }
    sheet.print();
    Outcome { unproved: sheet.shortfalls().to_vec(), ..Outcome::default() }
}
