//! The table: a row per point as it is done, and what they come to.

use crate::discovery::Target;
use crate::outcome::Outcome;
use crate::trial::Row;
use crate::verdict::Verdict;

/// The sum of all rows.
#[derive(Default)]
pub(crate) struct Total {
    points: usize,
    unreached: usize,
    untried: usize,
    slow: usize,
    jobs: usize,
    verdict: Verdict,
}

/// Prints the head of the table.
pub(crate) fn head(targets: &[Target]) {
    println!("{} points", targets.len());
    print!("{:<11} {:<48} {:<8} {:<12} {:>9}", "part", "point", "phase", "fired", "recovered");
    for (name, _) in Verdict::default().counts() {
        print!(" {name:>12}");
    }
    println!();
}

fn start_of_row(target: &Target) {
    print!("{:<11} {:<48} {:<8}", target.part.name(), target.point, target.phase.name());
}

impl Total {
    /// Counts a row and prints it.
    pub(crate) fn add(&mut self, row: &Row) {
        self.points += 1;
        self.unreached += usize::from(!row.fired);
        self.slow += usize::from(row.recovered.is_none());
        self.jobs += row.jobs;
        self.verdict.add(&row.verdict);
        let recovered = row.recovered.map_or("no".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
        start_of_row(&row.target);
        print!(" {:<12} {recovered:>9}", if row.fired { "yes" } else { "not reached" });
        for (_, count) in row.verdict.counts() {
            print!(" {count:>12}");
        }
        println!();
        for note in row.verdict.first_notes() {
            println!("    {note}");
        }
        if row.restarts > 0 {
            println!("    parts that ended by themselves and were started again: {}", row.restarts);
        }
        if let Some(logs) = &row.logs {
            println!("    what the parts said is kept in {}", logs.display());
        }
    }

    /// A point that could not be tried.
    pub(crate) fn failed(&mut self, target: &Target, error: &anyhow::Error) {
        self.points += 1;
        self.untried += 1;
        start_of_row(target);
        println!(" could not be tried: {error:#}");
    }

    /// Prints the last lines. With `must_fire`, every point must have been reached; `forgotten` tells of those that were
    /// not even found, or have no place.
    pub(crate) fn print(&self, must_fire: bool, forgotten: Vec<String>) -> Outcome {
        let counted = [
            (self.unreached, "points were not reached", must_fire),
            (self.untried, "points could not be tried", true),
            (self.slow, "fleets did not finish their jobs in time", true),
        ];
        for what in &forgotten {
            println!("chaos-points: {what}");
        }
        let mut unproved = forgotten;
        for (count, what, is_fault) in counted.into_iter().filter(|(count, ..)| *count > 0) {
            println!("chaos-points: {count} {what}");
            if is_fault {
                unproved.push(format!("crash points: {count} {what}"));
            }
        }
        print!("chaos-points: {} points,", self.points);
        for (name, count) in self.verdict.counts() {
            print!(" {name}={count}");
        }
        println!();
        Outcome { jobs: self.jobs, faults: self.points, unproved, verdict: self.verdict.clone() }
    }
}
