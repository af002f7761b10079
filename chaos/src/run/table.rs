//! The table of a run: a row per fault as it is over.

use std::time::{Duration, Instant};

use super::breaker::Done;
use super::fleet::Fleet;
use super::schedule::Step;

/// So often a part may end by itself in a run: every lost lease is one end, and so is every start beside an outage.
const MOST_ENDS: usize = 20;

/// A table that is being printed.
pub(crate) struct Table {
    began: Instant,
    faults: usize,
    unproved: Vec<String>,
}

impl Table {
    /// Prints the head.
    pub(crate) fn new() -> Self {
        println!("{:>7}  {:<34} {:<16} {:<56} effect", "time", "fault", "target", "proof");
        Self { began: Instant::now(), faults: 0, unproved: Vec::new() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Prints a fault that is over; `flows` is how long it took until a job ended after it, if one did.
    pub(crate) fn row(&mut self, began: Duration, step: &Step, done: &Done, flows: Option<Duration>) {
        self.faults += 1;
        let (kind, target) = (step.fault.kind(), step.fault.target());
        let proof = done.proof.as_deref().unwrap_or("none");
        let flow = match flows {
            Some(time) => format!("jobs end {:.1} s later", time.as_secs_f64()),
            None => "no job ended after it".to_owned(),
        };
        let effect = if done.effect.is_empty() { flow } else { format!("{}; {flow}", done.effect) };
        println!("{:>5.0} s  {kind:<34} {target:<16} {proof:<56} {effect}", began.as_secs_f64());
        if done.proof.is_none() || flows.is_none() {
            self.unproved.push(format!("{target}: {kind}: proof: {proof}; effect: {effect}"));
        }
    }

    /// Prints a line about the run itself.
    pub(crate) fn say(&self, what: &str) {
        println!("{:>5.0} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// Prints which parts ended without having been asked, and what they said to it. Each may end when it was declared
    /// dead or its servers are away at its start, but in order, and not again and again.
    pub(crate) fn summary(&mut self, fleet: &Fleet) {
        for process in &fleet.processes {
            let by_itself: Vec<_> = process.ends().into_iter().filter(|end| end.by_itself).collect();
            let ends = by_itself.len();
            if let Some(end) = by_itself.iter().find(|end| end.status.code() != Some(1)) {
                self.unproved.push(format!("{} ended by itself: {}", process.member, end.status));
            }
            if ends > MOST_ENDS {
                self.unproved.push(format!("{} ended by itself {ends} times", process.member));
            }
            if ends > 0 {
                let member = process.member;
                let log = fleet.logs().join(member.to_string()).join(format!("{}.log", member.part.name()));
                let words = last_words(&std::fs::read_to_string(log).unwrap_or_default());
                self.say(&format!("{member} ended by itself {ends} times: {}", words.join(", ")));
            }
        }
    }

    pub(crate) fn faults(&self) -> usize {
        self.faults
    }

    /// What was not as planned: faults that did not happen, or after which nothing did.
    pub(crate) fn unproved(&self) -> Vec<String> {
        self.unproved.clone()
    }
}

/// What a part says when it ends over an error is the only line in its log that begins with its name.
fn last_words(log: &str) -> Vec<String> {
    let words = log.lines().filter_map(|line| line.strip_prefix("gantry-")?.split_once(": "));
    words.map(|(_, words)| words.to_owned()).collect()
}
