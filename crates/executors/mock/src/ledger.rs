//! What really ran: written by the simulated containers themselves, read by tests that must not believe Gantry's
//! own rows.
//!
//! `ledger.jsonl` in the host's directory gets one line per launch, stop and removal. A removal repeats the facts
//! of the launch, and [`read`] looks at the containers still there, so that a launch's line may come later than its
//! container, together with other lines, and a launcher killed between the two hides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use gantry_core::JobId;
use serde::{Deserialize, Serialize};

use crate::container::{Container, Stop};
use crate::folder::{self, CONTAINERS, LEDGER, STOPS};

/// One run of a container, in nanoseconds of the machine's CLOCK_BOOTTIME.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run {
    /// The execution id, one per container.
    pub id: String,
    /// The external name.
    pub name: String,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: i32,
    /// When it starts.
    pub started_ns: u64,
    /// When it ends, if nobody stops it. Before its start, if that fails: it never ran.
    pub planned_end_ns: u64,
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Line {
    Launched(Run),
    Stopped {
        id: String,
        name: String,
        stopped_ns: u64,
    },
    Removed {
        #[serde(flatten)]
        run: Run,
        removed_ns: u64,
    },
}

/// What ran in a directory.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    runs: BTreeMap<String, Run>,
    ends: BTreeMap<String, u64>,
}

/// Reads the ledger of a host's directory, and the containers that are still there.
pub fn read(dir: &Path) -> io::Result<Ledger> {
    let mut ledger = Ledger::default();
    // The containers first: one that is removed meanwhile has its line by then.
    for (_, content) in contents(&dir.join(CONTAINERS))? {
        ledger.add(serde_json::from_slice::<Container>(&content)?.run);
    }
    let text = fs::read_to_string(dir.join(LEDGER))?;
    // What follows the last line's end is being written just now.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        match serde_json::from_str(line)? {
            Line::Launched(run) => ledger.add(run),
            Line::Stopped { id, stopped_ns, .. } => ledger.end(id, stopped_ns),
            Line::Removed { run, removed_ns } => {
                ledger.end(run.id.clone(), removed_ns);
                ledger.add(run);
            }
        }
    }
    for (id, content) in contents(&dir.join(STOPS))? {
        ledger.end(id, serde_json::from_slice::<Stop>(&content)?.at_ns);
    }
    Ok(ledger)
}

/// Name and content of all that is in a folder; what is removed meanwhile is left out.
fn contents(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(content) = folder::content(&entry.path())? {
            contents.push((entry.file_name().to_string_lossy().into_owned(), content));
        }
    }
    Ok(contents)
}

impl Ledger {
    /// Adds a run.
    pub fn add(&mut self, run: Run) {
        self.runs.insert(run.id.clone(), run);
    }

    /// Adds what ran in another directory.
    pub fn add_all(&mut self, other: &Self) {
        self.runs.extend(other.runs.iter().map(|(id, run)| (id.clone(), run.clone())));
        self.ends.extend(other.ends.iter().map(|(id, end)| (id.clone(), *end)));
    }

    fn end(&mut self, id: String, at: u64) {
        let end = self.ends.entry(id).or_insert(at);
        *end = at.min(*end);
    }

    /// Every run that there was, by id.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// How many containers each (job, attempt) had; more than one breaks Gantry's promise.
    pub fn starts(&self) -> BTreeMap<(JobId, i32), usize> {
        let mut starts = BTreeMap::new();
        for run in self.runs() {
            *starts.entry((run.job, run.attempt)).or_default() += 1;
        }
        starts
    }

    /// The most containers that ran at one moment.
    pub fn max_concurrency(&self) -> usize {
        most_at_once(self.intervals().map(|(_, interval)| interval))
    }

    /// The jobs that had two containers alive at one moment, of whatever attempts.
    pub fn alive_twice(&self) -> BTreeSet<JobId> {
        let mut by_job: BTreeMap<JobId, Vec<(u64, u64)>> = BTreeMap::new();
        for (job, interval) in self.intervals() {
            by_job.entry(job).or_default().push(interval);
        }
        by_job
            .into_iter()
            .filter(|(_, intervals)| most_at_once(intervals.iter().copied()) > 1)
            .map(|(job, _)| job)
            .collect()
    }

    fn intervals(&self) -> impl Iterator<Item = (JobId, (u64, u64))> {
        self.spans().map(|(run, span)| (run.job, span))
    }

    /// From when to when each ran. One removed before its start never did; one of no duration ran for a moment.
    pub fn spans(&self) -> impl Iterator<Item = (&Run, (u64, u64))> {
        self.runs().filter_map(|run| {
            let end = self.ends.get(&run.id).map_or(run.planned_end_ns, |end| run.planned_end_ns.min(*end));
            (end >= run.started_ns).then(|| (run, (run.started_ns, end.max(run.started_ns + 1))))
        })
    }
}

fn most_at_once(intervals: impl Iterator<Item = (u64, u64)>) -> usize {
    // At one instant ends come before starts: what began when another was over did not run beside it.
    let mut moments: Vec<(u64, bool)> = intervals.flat_map(|(start, end)| [(end, false), (start, true)]).collect();
    moments.sort_unstable();
    let (mut running, mut most) = (0_usize, 0);
    for (_, starts) in moments {
        if starts {
            running += 1;
            most = most.max(running);
        } else {
            running -= 1;
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(id: &str, job: JobId, attempt: i32, started_ns: u64, planned_end_ns: u64) -> Run {
        Run { id: id.into(), name: id.into(), job, attempt, started_ns, planned_end_ns }
    }

    #[test]
    fn counts_what_ran_at_once() {
        let (one, two) = (JobId::new(), JobId::new());
        let mut ledger = Ledger::default();
        ledger.add(run("a", one, 1, 0, 100));
        ledger.add(run("b", two, 1, 50, 150));
        ledger.add(run("c", one, 2, 100, 200));
        ledger.add(run("d", two, 2, 150, 150));
        assert_eq!(ledger.max_concurrency(), 2, "the next begins when the last is over");
        assert_eq!(ledger.alive_twice(), BTreeSet::new());
        assert_eq!(ledger.starts().values().max(), Some(&1));

        ledger.add(run("e", one, 1, 99, 300));
        assert_eq!(ledger.max_concurrency(), 3);
        assert_eq!(ledger.alive_twice(), BTreeSet::from([one]));
        assert_eq!(ledger.starts()[&(one, 1)], 2);

        ledger.end("e".into(), 98);
        assert_eq!(ledger.max_concurrency(), 2, "removed before it started");
    }
}
