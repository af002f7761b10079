//! Which points there are: every part notes what it passes in one fleet that lives through work, a kill and a stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::ValueEnum;
use rustix::process::Signal;

use crate::fleet::Fleet;
use crate::load::Load;
use crate::part::{Part, Points};
use crate::scenario::LAUNCH_SENT;
use crate::verdict;

/// Longer than the jobs take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// When everything that a part does by the clock has happened once: the orphan reaper's first pass is the last.
const ROUNDS: Duration = Duration::from_secs(12);

/// What must happen to a part for it to pass a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Phase {
    /// Nothing: it starts and works.
    Work,
    /// It was killed with work in hand, and starts again.
    Restart,
    /// It is asked to stop with work in hand.
    Stop,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}

/// A place to die.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) part: Part,
    pub(crate) phase: Phase,
    pub(crate) point: String,
}

impl Target {
    /// For how long a launch is idempotent in the fleet of its trial; for ever, if none. Only where it is not for ever do
    /// workers store that they launch.
    pub(crate) fn idempotence(&self) -> Option<&'static str> {
        self.point.starts_with(LAUNCH_SENT).then_some("1h")
    }
}

/// What each part has passed so far.
type Seen = BTreeMap<Part, BTreeSet<String>>;

/// Finds the points of all parts, each in the first phase that passes it.
pub(crate) async fn discover(binaries: &Path) -> anyhow::Result<Vec<Target>> {
    let mut fleet = Fleet::create(binaries).await?;
    let mut load = Load::new(&fleet).await?;
    let began = Instant::now();
    for part in Part::ALL {
        fleet.start(part, Points::Noted)?;
    }
    load.submit(&fleet).await?;
    settle(&mut fleet, &mut load).await?;
    // A condition would have to name the points.
    tokio::time::sleep(ROUNDS.saturating_sub(began.elapsed())).await;
    let mut targets = Vec::new();
    let worked = seen(&fleet)?;
    add(&mut targets, Phase::Work, &worked, &Seen::new());

    load.submit(&fleet).await?;
    running(&mut fleet).await?;
    for part in Part::ALL {
        fleet.end(part, Signal::KILL).await?;
        fleet.start(part, Points::Noted)?;
    }
    settle(&mut fleet, &mut load).await?;
    let restarted = seen(&fleet)?;
    add(&mut targets, Phase::Restart, &restarted, &worked);

    load.submit(&fleet).await?;
    running(&mut fleet).await?;
    for part in Part::ALL {
        fleet.end(part, Signal::TERM).await?;
    }
    let stopped = seen(&fleet)?;
    add(&mut targets, Phase::Stop, &stopped, &restarted);
    ensure!(fleet.restarts == 0, "{} parts ended by themselves while nobody was killed", fleet.restarts);
    fleet.remove(false).await?;
    // The workers of this fleet do not come there, see [`Target::idempotence`]. That those of the trials do is proved by
    // their deaths.
    let sides = ["before", "after"].map(|side| format!("{LAUNCH_SENT}.{side}"));
    targets.extend(sides.map(|point| Target { part: Part::Worker, phase: Phase::Work, point }));
    targets.sort();
    Ok(targets)
}

async fn settle(fleet: &mut Fleet, load: &mut Load) -> anyhow::Result<()> {
    let settled = fleet.until(PATIENCE, None, async |fleet| load.settled(fleet).await).await?;
    if !settled {
        let notes = verdict::judge(fleet, load).await?.first_notes().join("\n");
        bail!("the jobs did not end within {PATIENCE:?} on a healthy fleet:\n{notes}");
    }
    Ok(())
}

async fn running(fleet: &mut Fleet) -> anyhow::Result<()> {
    let running = fleet.until(PATIENCE, None, async |fleet| fleet.runs_something().await).await?;
    ensure!(running, "no job ran within {PATIENCE:?} on a healthy fleet");
    Ok(())
}

fn seen(fleet: &Fleet) -> anyhow::Result<Seen> {
    Part::ALL.into_iter().map(|part| Ok((part, fleet.surroundings.seen(part)?))).collect()
}

fn add(targets: &mut Vec<Target>, phase: Phase, now: &Seen, before: &Seen) {
    for (part, points) in now {
        let known = before.get(part);
        for point in points.iter().filter(|point| !known.is_some_and(|known| known.contains(*point))) {
            targets.push(Target { part: *part, phase, point: point.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_belongs_to_the_first_phase_that_passes_it() {
        let seen = |points: &[&str]| Seen::from([(Part::Worker, points.iter().map(ToString::to_string).collect())]);
        let (worked, restarted) = (seen(&["a", "b"]), seen(&["a", "b", "c"]));
        let mut targets = Vec::new();
        add(&mut targets, Phase::Work, &worked, &Seen::new());
        add(&mut targets, Phase::Restart, &restarted, &worked);
        let found: Vec<_> = targets.iter().map(|target| (target.phase.name(), target.point.as_str())).collect();
        assert_eq!(found, [("work", "a"), ("work", "b"), ("restart", "c")]);
    }
}
