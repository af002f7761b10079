//! The figures: a line for each as it is known, and the last line.

use std::time::Instant;

/// Figures that are being printed.
pub(super) struct Sheet {
    began: Instant,
    case: &'static str,
    /// What fell short, in words.
    shortfalls: Vec<String>,
}

impl Sheet {
    /// Prints the head.
    pub(super) fn new() -> Self {
        println!("{:>7}  {:<10} {:<58} {:<44} bound", "time", "case", "figure", "measured");
        Self { began: Instant::now(), case: "", shortfalls: Vec::new() }
    }

    /// What follows is of this case.
    pub(super) fn begin(&mut self, case: &'static str) {
        self.case = case;
    }

    /// Prints a line that is no figure.
    pub(super) fn say(&self, what: &str) {
        println!("{}{what}", self.margin());
    }

    /// A figure with its bound, both with their units, and whether it keeps it.
    pub(super) fn figure(&mut self, what: &str, measured: &str, bound: &str, holds: bool) {
        let verdict = if holds { "ok" } else { "FELL SHORT" };
        println!("{}{what:<58} {measured:<44} {bound}: {verdict}", self.margin());
        if !holds {
            self.shortfalls.push(format!("{}: {what}: {measured}, not {bound}", self.case));
        }
    }

    /// A count that must be exact.
    pub(super) fn exactly(&mut self, what: &str, measured: usize, due: usize) {
        self.figure(what, &measured.to_string(), &format!("{due}"), measured == due);
    }

    /// Something that is counted and must not be, each in words.
    pub(super) fn none(&mut self, what: &str, found: &[String]) {
        self.figure(what, &found.len().to_string(), "0", found.is_empty());
        for words in found.iter().take(TOLD) {
            self.say(&format!("    {words}"));
        }
    }

    /// The case did not end.
    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        self.figure("the case runs to its end", &format!("{error:#}"), "its end", false);
    }

    /// How many figures fell short so far.
    pub(super) fn shortfalls(&self) -> &[String] {
        &self.shortfalls
    }

    /// Prints the last line.
    pub(super) fn print(&self) {
        match self.shortfalls.as_slice() {
            [] => println!("load: ok"),
            shortfalls => println!("load: fell short: {}", shortfalls.join("; ")),
        }
    }

    fn margin(&self) -> String {
        format!("{:>5.0} s  {:<10} ", self.began.elapsed().as_secs_f64(), self.case)
    }
}

/// Of what must not be, so many are told in words.
const TOLD: usize = 10;
