//! One point: a part dies there, is started again, and then everything must be as if it had not.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::discovery::{Phase, Target};
use crate::fleet::Fleet;
use crate::load::Load;
use crate::part::{Part, Points};
use crate::verdict::{self, Verdict};

/// In which a point must be passed.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// In which all that was accepted must be over, from the restart on.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);
/// In which every container must be gone. One that its worker could not remove waits for the orphan reaper, which
/// takes what has been over for 30 s, 10 s after the start of a worker and every 60 s from then on.
const REMOVED_WITHIN: Duration = Duration::from_secs(110);

/// What a trial came to.
pub(crate) struct Row {
    pub(crate) target: Target,
    /// Whether the part died at the point, proved by itself.
    pub(crate) fired: bool,
    /// From the restart to the last end, if all ended.
    pub(crate) recovered: Option<Duration>,
    /// How many were handed in.
    pub(crate) jobs: usize,
    pub(crate) verdict: Verdict,
    /// How often a part that nobody killed had to be started again.
    pub(crate) restarts: usize,
    /// The parts' logs, if something is wrong.
    pub(crate) logs: Option<PathBuf>,
}

/// Tries one point on a fleet of its own; the part dies at its `passing`th passing of it.
/// With `must_fire` it is a fault if it does not.
pub(crate) async fn run(binaries: &Path, target: &Target, passing: u32, must_fire: bool) -> anyhow::Result<Row> {
    let failpoint = format!("{}@{passing}", target.point);
    let fatal = Points::Fatal(&failpoint);
    let mut fleet = Fleet::create(binaries).await?;
    fleet.idempotence = target.idempotence();
    let mut load = Load::new(&fleet).await?;
    start(&mut fleet, target, fatal)?;
    load.submit(&fleet).await?;
    provoke(&mut fleet, target, fatal).await?;
    let fired = die(&mut fleet, &mut load, target, fatal).await?;

    let again = Instant::now();
    fleet.start(target.part, Points::Ignored)?;
    let settled = fleet.until(RECOVERED_WITHIN, None, async |fleet| load.settled(fleet).await).await?;
    let recovered = settled.then(|| again.elapsed());
    fleet.until(REMOVED_WITHIN, None, async |fleet| Ok(fleet.left()?.is_empty())).await?;

    let verdict = verdict::judge(&fleet, &load).await?;
    let (restarts, target) = (fleet.restarts, target.clone());
    let good = (fired || !must_fire) && settled && verdict.total() == 0;
    let logs = fleet.remove(!good).await?;
    Ok(Row { target, fired, recovered, jobs: load.jobs.len(), verdict, restarts, logs })
}

fn start(fleet: &mut Fleet, target: &Target, fatal: Points<'_>) -> anyhow::Result<()> {
    for part in Part::ALL {
        let armed = part == target.part && target.phase != Phase::Restart;
        fleet.start(part, if armed { fatal } else { Points::Ignored })?;
    }
    Ok(())
}

/// Brings the part where it passes the point.
async fn provoke(fleet: &mut Fleet, target: &Target, fatal: Points<'_>) -> anyhow::Result<()> {
    if target.phase == Phase::Work {
        return Ok(());
    }
    fleet.until(REACHED_WITHIN, Some(target.part), async |fleet| fleet.runs_something().await).await?;
    if target.phase == Phase::Stop {
        return fleet.end(target.part, Signal::TERM).await;
    }
    fleet.end(target.part, Signal::KILL).await?;
    fleet.start(target.part, fatal)
}

/// Waits until the part died where it should; false if it did not. It has ended in any case.
async fn die(fleet: &mut Fleet, load: &mut Load, target: &Target, fatal: Points<'_>) -> anyhow::Result<bool> {
    fleet
        .until(REACHED_WITHIN, Some(target.part), async |fleet| {
            if fleet.has_ended(target.part)? {
                if target.phase == Phase::Stop || fleet.surroundings.fired(&target.point)? {
                    return Ok(true);
                }
                // It ended over something else, such as a lease that a busy machine let pass.
                fleet.restarts += 1;
                fleet.start(target.part, fatal)?;
            }
            // It must die with work in hand, and not every batch passes every point.
            if load.settled(fleet).await? {
                load.submit(fleet).await?;
            }
            Ok(false)
        })
        .await?;
    fleet.end(target.part, Signal::KILL).await?;
    fleet.surroundings.fired(&target.point)
}
