//! What really ran: written by the simulated containers themselves, read by tests that must not believe Gantry's
//! own rows.
//!
//! The files in `ledger` in the host's directory get one line per launch, stop and removal. What is there is known from
//! nothing else, so that nobody can be killed between the one and the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use gantry_core::JobId;
use serde::{Deserialize, Serialize};

use crate::container::{Container, Stop, name_in};
use crate::{folder, journal};

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

/// A line of the ledger. It says what its writer wants; whether that happened, those above it tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    /// A container, where its name is free.
    Launched(Container),
    /// A launch under a name that is taken, which would have made this second container.
    Doubled(Run),
    /// A stop, where the container is there and would end later.
    Stopped { id: String, stop: Stop },
    /// The end of a container, where it is there.
    Removed { id: String, removed_ns: u64 },
    /// What stands above in this file was there when the file before it was closed.
    Begun,
    /// What stands below in this file does not count.
    Closed,
}

/// What ran in a directory.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    runs: BTreeMap<String, Run>,
    ends: BTreeMap<String, u64>,
    /// The containers that are there: their ids by name.
    there: BTreeMap<String, String>,
}

/// Reads the ledger of a host's directory.
pub fn read(dir: &Path) -> io::Result<Ledger> {
    let mut ledger = Ledger::default();
    for part in folder::parts(dir)? {
        journal::lines(&File::open(part)?, 0, u64::MAX, |line, _| ledger.take(line))?;
    }
    Ok(ledger)
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

    fn take(&mut self, line: Line) {
        match line {
            Line::Launched(Container { run, .. }) => {
                if !self.there.contains_key(&run.name) {
                    self.there.insert(run.name.clone(), run.id.clone());
                    self.add(run);
                }
            }
            Line::Doubled(run) => self.add(run),
            Line::Stopped { id, stop } if self.is_there(&id) => self.end(id, stop.at_ns),
            Line::Removed { id, removed_ns } if self.is_there(&id) => {
                name_in(&id).and_then(|name| self.there.remove(name));
                self.end(id, removed_ns);
            }
            // Of what is gone, or of the files alone.
            Line::Stopped { .. } | Line::Removed { .. } | Line::Begun | Line::Closed => {}
        }
    }

    fn is_there(&self, id: &str) -> bool {
        name_in(id).and_then(|name| self.there.get(name)).is_some_and(|there| there == id)
    }

    fn end(&mut self, id: String, at: u64) {
        let end = self.ends.entry(id).or_insert(at);
        *end = at.min(*end);
    }

    /// The names of the containers that are there: launched, and not removed since.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.there.keys().map(String::as_str)
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
