//! One point: a part dies there, is started again, and then everything must be as if it had not.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::discovery::{Phase, Target};
use crate::fleet::Fleet;
use crate::load::Load;
use crate::part::Points;
use crate::verdict::{self, Verdict};

/// In which a point must be passed.
const REACHED_WITHIN: Duration = Duration::from_secs(30);
/// After which more jobs come, for points that not every batch passes.
const MORE_AFTER: Duration = Duration::from_secs(10);
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
    pub(crate) verdict: Verdict,
    /// How often a part that nobody killed had to be started again.
    pub(crate) restarts: usize,
    /// The parts' logs, if something is wrong.
    pub(crate) logs: Option<PathBuf>,
}

impl Row {
    /// Whether the trial shows what it should.
    pub(crate) fn is_good(&self) -> bool {
        self.fired && self.recovered.is_some() && self.verdict.total() == 0
    }
}

/// Tries one point on a fleet of its own.
pub(crate) async fn run(binaries: &Path, target: &Target) -> anyhow::Result<Row> {
    let mut fleet = Fleet::create(binaries).await?;
    let mut load = Load::new(&fleet).await?;
    start(&mut fleet, target)?;
    load.submit().await?;
    provoke(&mut fleet, target).await?;
    let fired = die(&mut fleet, &mut load, target).await?;

    let again = Instant::now();
    fleet.start(target.part, Points::Ignored)?;
    let settled = fleet.until(RECOVERED_WITHIN, None, async |fleet| load.settled(fleet).await).await?;
    let recovered = settled.then(|| again.elapsed());
    fleet.until(REMOVED_WITHIN, None, async |fleet| Ok(fleet.containers()? == 0)).await?;

    let verdict = verdict::judge(&fleet, &load).await?;
    let restarts = fleet.restarts;
    let mut row = Row { target: target.clone(), fired, recovered, verdict, restarts, logs: None };
    row.logs = fleet.remove(!row.is_good()).await?;
    Ok(row)
}

fn fatal(target: &Target) -> Points<'_> {
    Points::Fatal(&target.point)
}

fn start(fleet: &mut Fleet, target: &Target) -> anyhow::Result<()> {
    for part in crate::part::Part::ALL {
        let armed = part == target.part && target.phase != Phase::Restart;
        fleet.start(part, if armed { fatal(target) } else { Points::Ignored })?;
    }
    Ok(())
}

/// Brings the part where it passes the point.
async fn provoke(fleet: &mut Fleet, target: &Target) -> anyhow::Result<()> {
    if target.phase == Phase::Work {
        return Ok(());
    }
    fleet.until(REACHED_WITHIN, Some(target.part), async |fleet| fleet.runs_something().await).await?;
    match target.phase {
        Phase::Work => {}
        Phase::Restart => {
            fleet.end(target.part, Signal::KILL).await?;
            fleet.start(target.part, fatal(target))?;
        }
        Phase::Stop => fleet.end(target.part, Signal::TERM).await?,
    }
    Ok(())
}

/// Waits until the part died where it should; false if it did not. It has ended in any case.
async fn die(fleet: &mut Fleet, load: &mut Load, target: &Target) -> anyhow::Result<bool> {
    let began = Instant::now();
    let mut more = false;
    fleet
        .until(REACHED_WITHIN, Some(target.part), async |fleet| {
            load.settled(fleet).await?;
            if fleet.has_ended(target.part)? {
                if target.phase == Phase::Stop || fleet.surroundings.fired(&target.point)? {
                    return Ok(true);
                }
                // It ended over something else, such as a lease that a busy machine let pass.
                fleet.restarts += 1;
                fleet.start(target.part, fatal(target))?;
            }
            if !more && began.elapsed() > MORE_AFTER {
                more = true;
                load.submit().await?;
            }
            Ok(false)
        })
        .await?;
    fleet.end(target.part, Signal::KILL).await?;
    fleet.surroundings.fired(&target.point)
}
