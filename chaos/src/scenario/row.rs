//! What a scenario came to.

use std::time::Duration;

use clap::ValueEnum;

use super::Name;
use crate::outcome::Outcome;
use crate::verdict::Verdict;

/// One scenario's result.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) jobs: usize,
    /// Faults that were made.
    pub(crate) faults: usize,
    pub(crate) verdict: Verdict,
    /// What was done, what proves it, what was measured; in order.
    lines: Vec<String>,
    /// What did not hold, in words.
    unproved: Vec<String>,
    late: usize,
}

impl Row {
    /// Notes what was done.
    pub(crate) fn did(&mut self, what: impl Into<String>) {
        self.lines.push(format!("did      {}", what.into()));
    }

    /// Notes a proof that a fault took effect, or that something did not come of it. One that fails is no good run,
    /// whatever the counters say.
    pub(crate) fn prove(&mut self, holds: bool, what: impl Into<String>) {
        let what = what.into();
        self.lines.push(format!("{} {what}", if holds { "proof   " } else { "UNPROVED" }));
        if !holds {
            self.unproved.push(what);
        }
    }

    /// Notes a figure.
    pub(crate) fn figure(&mut self, what: impl Into<String>) {
        self.lines.push(format!("figure   {}", what.into()));
    }

    /// Notes a time and its bound; None is a time that never ended.
    pub(crate) fn within(&mut self, what: &str, took: Option<Duration>, bound: Duration) {
        let good = took.is_some_and(|took| took < bound);
        let took = took.map_or("never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
        let what = format!("{what}: {took} (bound {} s)", bound.as_secs());
        self.lines.push(format!("{} {what}", if good { "figure  " } else { "LATE    " }));
        if !good {
            self.late += 1;
            self.unproved.push(format!("late: {what}"));
        }
    }

    /// Adds what a fleet's jobs came to.
    pub(crate) fn judged(&mut self, jobs: usize, verdict: Verdict) {
        self.jobs += jobs;
        self.verdict.add(&verdict);
        self.verdict.notes.extend(verdict.notes);
    }

    /// Whether all was as it must be.
    pub(crate) fn is_good(&self) -> bool {
        self.unproved.is_empty() && self.verdict.total() == 0
    }

    /// Prints the scenario's result, and makes it part of the stage's.
    pub(crate) fn print(self, name: Name, took: Duration) -> Outcome {
        println!("{}: {} jobs, {} faults, {:.0} s", self::name(name), self.jobs, self.faults, took.as_secs_f64());
        for line in self.lines.iter().chain(&self.verdict.notes) {
            println!("    {line}");
        }
        let counts = self.verdict.counts();
        let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
        println!("    counts   {} late={}", counts.join(" "), self.late);
        let unproved = self.unproved.into_iter().map(|what| format!("{}: {what}", self::name(name))).collect();
        Outcome { jobs: self.jobs, faults: self.faults, unproved, verdict: self.verdict }
    }
}

/// As it is called on the command line.
pub(crate) fn name(name: Name) -> String {
    name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
