//! What a scenario came to, and the sum of all.

use std::time::Duration;

use clap::ValueEnum;

use super::Name;
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
    unproved: usize,
    late: usize,
}

impl Row {
    /// Notes what was done.
    pub(crate) fn did(&mut self, what: impl Into<String>) {
        self.lines.push(format!("did     {}", what.into()));
    }

    /// Notes a proof that a fault took effect, or that something did not come of it; whoever reads the table must see
    /// when there is none.
    pub(crate) fn prove(&mut self, holds: bool, what: impl Into<String>) {
        self.unproved += usize::from(!holds);
        self.lines.push(format!("{} {}", if holds { "proof  " } else { "UNPROVED" }, what.into()));
    }

    /// Notes a figure.
    pub(crate) fn figure(&mut self, what: impl Into<String>) {
        self.lines.push(format!("figure  {}", what.into()));
    }

    /// Notes a time and its bound; None is a time that never ended.
    pub(crate) fn within(&mut self, what: &str, took: Option<Duration>, bound: Duration) {
        let good = took.is_some_and(|took| took < bound);
        self.late += usize::from(!good);
        let took = took.map_or("never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
        let mark = if good { "figure " } else { "LATE   " };
        self.lines.push(format!("{mark} {what}: {took} (bound {} s)", bound.as_secs()));
    }

    /// Adds what a fleet's jobs came to.
    pub(crate) fn judged(&mut self, jobs: usize, verdict: Verdict) {
        self.jobs += jobs;
        self.verdict.add(&verdict);
        self.verdict.notes.extend(verdict.notes);
    }
}

/// The sum.
#[derive(Debug, Default)]
pub(crate) struct Total {
    scenarios: usize,
    untried: usize,
    row: Row,
}

impl Total {
    /// Prints a scenario's result, and counts it.
    pub(crate) fn add(&mut self, name: Name, row: anyhow::Result<Row>, took: Duration) {
        self.scenarios += 1;
        let name = name.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        let took = took.as_secs_f64();
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                self.untried += 1;
                println!("{name}: could not be tried, after {took:.0} s: {error:#}");
                return;
            }
        };
        println!("{name}: {} jobs, {} faults, {took:.0} s", row.jobs, row.faults);
        for line in row.lines.iter().chain(&row.verdict.notes) {
            println!("    {line}");
        }
        println!("    {}", counts(&row));
        self.row.jobs += row.jobs;
        self.row.faults += row.faults;
        self.row.unproved += row.unproved;
        self.row.late += row.late;
        self.row.verdict.add(&row.verdict);
    }

    /// Prints the last line; true if all is as it must be.
    pub(crate) fn print(&self) -> bool {
        let row = &self.row;
        print!("chaos-scenario: {} scenarios, {} jobs, {} faults,", self.scenarios, row.jobs, row.faults);
        println!(" {} untried={}", counts(row), self.untried);
        row.verdict.total() + row.late + row.unproved + self.untried == 0
    }
}

fn counts(row: &Row) -> String {
    let counts = row.verdict.counts().into_iter().chain([("late", row.late), ("unproved", row.unproved)]);
    counts.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
}
