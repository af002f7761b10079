//! What a stage came to, and the last line.

use crate::verdict::Verdict;

/// So many ends by the rules of the infrastructure may be, and one more for every hundred jobs. Beyond that, they would
/// hide a fault that ends jobs in such a way.
const EXCUSED: usize = 20;

/// One stage's sum, or that of several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) jobs: usize,
    pub(crate) faults: usize,
    /// What was not as planned, in words: faults that did not happen, stages that did not end. Not good, whatever the
    /// counters say.
    pub(crate) unproved: Vec<String>,
    pub(crate) verdict: Verdict,
}

impl Outcome {
    /// Adds another stage.
    pub(crate) fn add(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.faults += other.faults;
        self.unproved.extend(other.unproved);
        self.verdict.add(&other.verdict);
    }

    /// A stage that did not end.
    pub(crate) fn failed(stage: &str, error: &anyhow::Error) -> Self {
        Self { unproved: vec![format!("{stage}: {error:#}")], ..Self::default() }
    }

    /// Whether all was as it must be.
    pub(crate) fn is_good(&self) -> bool {
        self.unproved.is_empty() && self.verdict.total() == 0 && !self.excuses_too_much()
    }

    fn excuses_too_much(&self) -> bool {
        self.verdict.excused.len() > EXCUSED + self.jobs / 100
    }

    /// Prints the faults in words.
    pub(crate) fn explain(&self) {
        if !self.verdict.excused.is_empty() {
            println!(
                "chaos: {} ends as the documents say they may be, and so not counted:",
                self.verdict.excused.len()
            );
        }
        for note in &self.verdict.excused {
            println!("    {note}");
        }
        if self.excuses_too_much() {
            println!("chaos: not as planned: those are too many for {} jobs", self.jobs);
        }
        for note in &self.verdict.notes {
            println!("chaos: {note}");
        }
        for what in &self.unproved {
            println!("chaos: not as planned: {what}");
        }
    }

    /// Prints the last line.
    pub(crate) fn print(&self) {
        print!("chaos: {} jobs, {} faults,", self.jobs, self.faults);
        for (name, count) in self.verdict.counts() {
            print!(" {name}={count}");
        }
        println!();
    }
}
