//! A fleet of real processes on servers of its own, under a schedule of faults that the seed tells, with a producer
//! that keeps count.

mod amqp;
mod breaker;
mod dice;
mod fleet;
mod http;
mod jobs;
mod ledger;
mod links;
mod process;
mod producer;
mod sabotage;
mod schedule;
mod servers;
mod table;
mod takeover;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use gantry_runtime::Shutdown;
use tokio::time::sleep;

use crate::fleet::POLL;
use crate::outcome::Outcome;
use crate::verdict::Verdict;
pub(crate) use dice::Dice;
use fleet::Fleet;
use producer::Producer;
use sabotage::Sabotage;
use schedule::{Fault, Size, Step};
use table::Table;

/// What is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Which schedule
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Every main kind of fault once, in a few minutes
    #[arg(long)]
    short: bool,
    /// Only faults with this in their name, and the servers' and parts' work between them
    #[arg(long)]
    only: Option<String>,
    /// No faults, but something behind Gantry's back that must be noticed
    #[arg(long, value_enum, hide = true)]
    sabotage: Option<Sabotage>,
    /// Where the parts' binaries are
    #[arg(long, default_value = "target/debug")]
    binaries: PathBuf,
}

impl Options {
    /// A whole run.
    pub(crate) fn full(seed: u64, binaries: PathBuf) -> Self {
        Self { seed, short: false, only: None, sabotage: None, binaries }
    }
}

/// How long a healthy fleet works before the first fault.
const WARM_UP: Duration = Duration::from_secs(8);
/// How long jobs run that only a sabotage disturbs.
const QUIET: Duration = Duration::from_secs(25);
/// In which work must go on after a fault.
const FLOWS_WITHIN: Duration = Duration::from_secs(60);
/// In which all that was accepted must be over when everything is healed.
const OVER_WITHIN: Duration = Duration::from_secs(240);
/// In which every container must be gone then. One that its worker could not remove waits for the orphan reaper, which
/// takes what has been over for 30 s, every 60 s.
const REMOVED_WITHIN: Duration = Duration::from_secs(130);

/// Runs the schedule of a seed and judges; the table is printed. Stops early when asked to, and leaves nothing behind.
pub(crate) async fn run(options: &Options, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    let mut fleet = Fleet::start(&options.binaries).await?;
    println!("chaos: seed {}, what the parts say is in {}", options.seed, fleet.logs().display());
    let producer = Producer::start(&fleet.addresses.amqp, fleet.api(), options.seed, fleet.ledger())?;
    let outcome = tokio::select! {
        outcome = disturbed(options, &mut fleet, &producer) => outcome,
        () = shutdown.requested() => Err(anyhow!("stopped before the end")),
    };
    drop(producer);
    let good = outcome.as_ref().is_ok_and(Outcome::is_good);
    if let Some(folder) = fleet.remove(!good && !shutdown.is_requested()).await? {
        println!("chaos: logs and ledgers are kept in {}", folder.display());
    }
    outcome
}

async fn disturbed(options: &Options, fleet: &mut Fleet, producer: &Producer) -> anyhow::Result<Outcome> {
    let mut table = Table::new();
    let late = match options.sabotage {
        None => faults(options, fleet, producer, &mut table).await?,
        Some(_) => {
            // There is no event to wait for: some jobs must have ended, and some must still run.
            sleep(QUIET).await;
            Vec::new()
        }
    };
    producer.stop_submitting();
    table.say(&format!("everything is healed, {} jobs are open", producer.open()));
    if let Some(sabotage) = options.sabotage {
        sabotage.while_jobs_run(fleet).await?;
    }
    let over = wait_for(OVER_WITHIN, || producer.open() == 0).await;
    table.say(if over { "all jobs are over" } else { "not all jobs are over" });
    if !over && let Err(error) = fleet.servers.ask_engine_for_stacks() {
        table.say(&format!("the engine could not be asked what it waits for: {error:#}"));
    }
    if let Some(sabotage) = options.sabotage {
        sabotage.after_the_end(fleet, producer).await?;
    }
    removed(fleet).await?;
    let verdict = judge(fleet, producer, late).await?;
    table.summary(fleet);
    let (retried, most): (i64, i16) = sqlx::query_as(
        "select count(*) filter (where infrastructure_retries > 0), coalesce(max(infrastructure_retries), 0::smallint)
         from container_jobs",
    )
    .fetch_one(&fleet.sql)
    .await?;
    table.say(&format!("{retried} jobs were tried again because of the infrastructure, {most} times at most"));
    let jobs = producer.ledger().0.len();
    Ok(Outcome { jobs, faults: table.faults(), unproved: table.unproved(), verdict })
}

/// Lets one fault after another happen, and work go on after each; returns the requests that came too late.
async fn faults(
    options: &Options,
    fleet: &mut Fleet,
    producer: &Producer,
    table: &mut Table,
) -> anyhow::Result<Vec<String>> {
    let mut late = Vec::new();
    wait_for(WARM_UP, || producer.ended() > 3).await;
    for step in steps(options) {
        // The schedule's: faults must not all hit a fleet that is still busy with the last.
        sleep(step.pause).await;
        let began = table.elapsed();
        let mut done = breaker::apply(fleet, &step).await?;
        let (before, healed) = (producer.ended(), Instant::now());
        let flows = wait_for(FLOWS_WITHIN, || producer.ended() > before).await;
        table.row(began, &step, &done, flows.then(|| healed.elapsed()));
        late.append(&mut done.late);
    }
    Ok(late)
}

/// Waits until every container is gone, or has had the time to be.
async fn removed(fleet: &Fleet) -> anyhow::Result<()> {
    let began = Instant::now();
    while began.elapsed() < REMOVED_WITHIN {
        let (simulated, real) = fleet.containers().await?;
        if simulated.is_empty() && real.is_empty() {
            break;
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn steps(options: &Options) -> Vec<Step> {
    let size = if options.short { Size::Short } else { Size::Full };
    let mut steps = schedule::schedule(options.seed, size);
    if let Some(only) = &options.only {
        let named = |fault: Fault| format!("{} {}", fault.target(), fault.kind()).contains(only.as_str());
        steps.retain(|step| named(step.fault));
    }
    steps
}

async fn judge(fleet: &Fleet, producer: &Producer, late: Vec<String>) -> anyhow::Result<Verdict> {
    let mut evidence = fleet.evidence().await?;
    (evidence.jobs, evidence.received) = producer.ledger();
    let mut verdict = evidence.judge()?;
    for request in late {
        verdict.duplicate(format!("{request}, after its attempts were another's"));
    }
    Ok(verdict)
}

/// Waits for a condition; false if it does not come in time.
async fn wait_for(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    breaker::until(limit, || condition().then_some(())).await.is_some()
}
