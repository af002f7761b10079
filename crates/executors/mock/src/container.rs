//! A simulated container: what its launch said, and what that makes of the time.

use std::borrow::Cow;
use std::time::Duration;

use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass, FleetId, JobId};
use gantry_worker::executor::{End, ExecutionId, Launch, Observed};
use serde::{Deserialize, Serialize};

use crate::behaviour::Behaviour;
use crate::clock::{self, ns};
use crate::faults::Fault;
use crate::ledger::Run;
use crate::output::Printed;

/// What the ledger says of a launch. Never changed: what happens to it later is a [`Stop`] beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Container {
    /// The facts that a reader of the ledger counts.
    pub(crate) run: Run,
    /// The fleet's label.
    pub(crate) fleet: FleetId,
    /// The start of the machine that all times here count from.
    boot: Cow<'static, str>,
    /// What it prints at its start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    stdout: String,
    /// The same for standard error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    stderr: String,
    /// How many lines it prints.
    #[serde(default, skip_serializing_if = "is_default")]
    lines: u32,
    /// How long each is, if not as long as its number needs.
    #[serde(default, skip_serializing_if = "is_default")]
    line_bytes: Option<u32>,
    /// Over how long it prints them, if not over its whole time.
    #[serde(default, skip_serializing_if = "is_default")]
    print_ns: Option<u64>,
    /// How long after a SIGTERM it heeds it.
    #[serde(default, skip_serializing_if = "is_default")]
    stop_delay_ns: u64,
    /// Until when nobody sees it.
    #[serde(default, skip_serializing_if = "is_default")]
    visible_ns: u64,
    /// How it ends if nobody stops it.
    ending: Ending,
}

/// How a container ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    Exit(i32),
    OomKilled,
    /// It is nowhere to be found.
    Lost,
    NoExitCode,
    /// It is over before its start, which never comes.
    StartFailed,
}

/// A stop that somebody asked for, and when it ends the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// When the container is over.
    pub(crate) at_ns: u64,
    /// 143, or 137 if it had to be killed.
    exit_code: i32,
}

impl Container {
    /// The container of a launch at `now` that meets `fault`. Its id is new with each, so that a name used again is
    /// another container.
    pub(crate) fn new(launch: &Launch, behaviour: Behaviour, fault: Option<Fault>, now: u64) -> Self {
        let start_ns = now.saturating_add(ns(behaviour.start_delay));
        let (started_ns, planned_end_ns) = match fault {
            Some(Fault::StartFailed) => (start_ns.saturating_add(1), start_ns),
            _ => (start_ns, start_ns.saturating_add(ns(behaviour.duration))),
        };
        Self {
            run: Run {
                id: id_at(&launch.name, now),
                name: launch.name.clone(),
                job: launch.job,
                attempt: launch.attempt,
                started_ns,
                planned_end_ns,
            },
            fleet: launch.fleet,
            boot: clock::boot().into(),
            stdout: behaviour.stdout,
            stderr: behaviour.stderr,
            lines: behaviour.lines,
            line_bytes: behaviour.line_bytes,
            print_ns: behaviour.print_time.map(ns),
            stop_delay_ns: if behaviour.stop_ignores_term { u64::MAX } else { ns(behaviour.stop_delay) },
            visible_ns: if behaviour.hidden_for.is_zero() { 0 } else { now.saturating_add(ns(behaviour.hidden_for)) },
            ending: match fault {
                Some(Fault::OomKilled) => Ending::OomKilled,
                Some(Fault::Lost) => Ending::Lost,
                Some(Fault::NoExitCode) => Ending::NoExitCode,
                Some(Fault::StartFailed) => Ending::StartFailed,
                _ => Ending::Exit(behaviour.exit_code),
            },
        }
    }

    /// The container that a launch at `now` under the name of this one would have been, had the name not been taken.
    pub(crate) fn second(&self, now: u64) -> Run {
        Run { id: id_at(&self.run.name, now), started_ns: now, planned_end_ns: now, ..self.run.clone() }
    }

    /// When it was launched, as its id says.
    pub(crate) fn launched_ns(&self) -> u64 {
        let time = self.run.id.rsplit_once('.').map(|(_, time)| u64::from_str_radix(time, 16));
        time.and_then(Result::ok).unwrap_or_default()
    }

    /// Whether nobody sees it yet at `now`.
    pub(crate) fn is_hidden(&self, now: u64) -> bool {
        now < self.visible_ns && self.boot == clock::boot()
    }

    /// The identifier.
    pub(crate) fn execution_id(&self) -> ExecutionId {
        ExecutionId(self.run.id.clone())
    }

    /// Whether it is what this launch made.
    pub(crate) fn is_of(&self, fleet: FleetId, job: JobId, attempt: i32) -> bool {
        (self.fleet, self.run.job, self.run.attempt) == (fleet, job, attempt)
    }

    /// When it is over; it may be before its start, if it was stopped then.
    pub(crate) fn end_ns(&self, stop: Option<Stop>) -> u64 {
        stop.map_or(self.run.planned_end_ns, |stop| stop.at_ns.min(self.run.planned_end_ns))
    }

    /// When its end can be seen.
    pub(crate) fn end_seen_ns(&self, stop: Option<Stop>) -> u64 {
        self.end_ns(stop).max(self.visible_ns)
    }

    /// What a stop at `now` does; none if it would not end the container any sooner.
    pub(crate) fn stopped(&self, before: Option<Stop>, now: u64, grace: Duration) -> Option<Stop> {
        let stop = if self.stop_delay_ns <= ns(grace) {
            Stop { at_ns: now.saturating_add(self.stop_delay_ns), exit_code: 143 }
        } else {
            Stop { at_ns: now.saturating_add(ns(grace)), exit_code: 137 }
        };
        (stop.at_ns < self.end_ns(before)).then_some(stop)
    }

    /// Its state at `now`.
    pub(crate) fn observed(&self, stop: Option<Stop>, now: u64) -> Observed {
        if self.boot != clock::boot() {
            let failure =
                Failure::new(FailureClass::BackendError, "the machine was started anew, which ended the container");
            return Observed::Ended(self.end(Outcome::Failed(failure), None));
        }
        let end_ns = self.end_ns(stop);
        if now < end_ns {
            return if now < self.run.started_ns { Observed::Starting } else { Observed::Running };
        }
        let run = Some(Duration::from_nanos(end_ns.saturating_sub(self.run.started_ns)));
        match (stop, self.ending) {
            (Some(stop), _) if stop.at_ns < self.run.planned_end_ns => {
                Observed::Ended(self.end(Outcome::Exited(stop.exit_code), run))
            }
            (_, Ending::Exit(code)) => Observed::Ended(self.end(Outcome::Exited(code), run)),
            (_, Ending::OomKilled) => {
                let failure = Failure {
                    exit_code: Some(137),
                    ..Failure::new(FailureClass::OomKilled, "the container was killed at its memory limit")
                };
                Observed::Ended(self.end(Outcome::Failed(failure), run))
            }
            (_, Ending::Lost) => Observed::Gone,
            (_, Ending::NoExitCode) => {
                let failure =
                    Failure::new(FailureClass::BackendError, "simulated: it ended, and nobody has its exit code");
                Observed::Ended(self.end(Outcome::Failed(failure), run))
            }
            (_, Ending::StartFailed) => {
                let failure =
                    Failure::new(FailureClass::BackendError, "simulated: it was launched and could not start");
                Observed::Ended(self.end(Outcome::Failed(failure), None))
            }
        }
    }

    /// A simulated container uses neither memory nor CPU.
    fn end(&self, outcome: Outcome, run: Option<Duration>) -> End {
        End { run, ..End::bare(outcome) }
    }

    /// What it has printed at `now`.
    pub(crate) fn printed(&self, stop: Option<Stop>, now: u64) -> Printed<'_> {
        let now = if self.boot == clock::boot() { now.min(self.end_ns(stop)) } else { self.run.planned_end_ns };
        let Some(ran) = now.checked_sub(self.run.started_ns) else {
            return Printed::default();
        };
        let planned = self.print_ns.unwrap_or(self.run.planned_end_ns.saturating_sub(self.run.started_ns));
        let lines = match u128::from(self.lines) * u128::from(ran) {
            _ if ran >= planned => self.lines,
            share => u32::try_from(share / u128::from(planned)).unwrap_or(self.lines),
        };
        Printed { stdout: &self.stdout, stderr: &self.stderr, lines, line_bytes: self.line_bytes }
    }
}

/// Whether `name` can be a container's: a plain file name, whoever asks.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The name in an identifier made by [`Container::new`], if it has that shape.
pub(crate) fn name_in(id: &str) -> Option<&str> {
    id.rsplit_once('.').map(|(name, _)| name)
}

/// The identifier of what was launched under a name at `now`.
fn id_at(name: &str, now: u64) -> String {
    let mut id = format!("{name}.{now:x}");
    // It is kept for as long as the container.
    id.shrink_to_fit();
    id
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn container(behaviour: Behaviour) -> Container {
        container_with(behaviour, None)
    }

    fn container_with(behaviour: Behaviour, fault: Option<Fault>) -> Container {
        let spec = serde_json::from_value(serde_json::json!({"image": "any"})).expect("a spec");
        let launch = Launch { name: "g1-a".into(), fleet: FleetId::new(), job: JobId::new(), attempt: 1, spec };
        Container::new(&launch, behaviour, fault, 1000 * MS)
    }

    fn plain(start_delay: u64, duration: u64) -> Behaviour {
        Behaviour {
            start_delay: Duration::from_millis(start_delay),
            duration: Duration::from_millis(duration),
            lines: 4,
            ..Behaviour::default()
        }
    }

    #[test]
    fn time_alone_moves_it() {
        let container = container(plain(10, 100));
        assert_eq!(container.observed(None, 1009 * MS), Observed::Starting);
        assert_eq!(container.observed(None, 1010 * MS), Observed::Running);
        assert_eq!(container.observed(None, 1109 * MS), Observed::Running);
        let Observed::Ended(end) = container.observed(None, 1110 * MS) else { panic!("over") };
        assert_eq!((end.outcome, end.run), (Outcome::Exited(0), Some(Duration::from_millis(100))));
        let lines = [1009, 1010, 1034, 1035, 1084, 1085, 1109, 1110, 9999];
        assert_eq!(lines.map(|ms| container.printed(None, ms * MS).lines), [0, 0, 0, 1, 2, 3, 3, 4, 4]);
    }

    #[test]
    fn a_stop_ends_it_at_once_or_after_the_grace_and_never_later() {
        let heeds = container(plain(0, 100));
        let stop = heeds.stopped(None, 1020 * MS, Duration::from_secs(9)).expect("running");
        let Observed::Ended(end) = heeds.observed(Some(stop), 1020 * MS) else { panic!("over") };
        assert_eq!((end.outcome, end.run), (Outcome::Exited(143), Some(Duration::from_millis(20))));
        assert_eq!(heeds.stopped(Some(stop), 1030 * MS, Duration::ZERO), None, "an end does not move");
        assert_eq!(heeds.printed(Some(stop), 1090 * MS).lines, 0);

        let ignores = container(Behaviour { stop_ignores_term: true, ..plain(0, 100) });
        let stop = ignores.stopped(None, 1010 * MS, Duration::from_millis(30)).expect("running");
        assert_eq!(ignores.observed(Some(stop), 1039 * MS), Observed::Running);
        let Observed::Ended(end) = ignores.observed(Some(stop), 1040 * MS) else { panic!("over") };
        assert_eq!(end.outcome, Outcome::Exited(137));
        assert!(ignores.stopped(Some(stop), 1020 * MS, Duration::ZERO).is_some(), "a second stop may be less patient");
        assert_eq!(ignores.stopped(None, 1010 * MS, Duration::from_secs(9)), None, "it ends by itself before");
    }

    #[test]
    fn a_slow_stop_is_a_kill_where_the_grace_is_shorter() {
        let slow = container(Behaviour { stop_delay: Duration::from_millis(30), ..plain(0, 100) });
        let stop = slow.stopped(None, 1010 * MS, Duration::from_millis(50)).expect("running");
        assert_eq!(slow.observed(Some(stop), 1039 * MS), Observed::Running);
        let Observed::Ended(end) = slow.observed(Some(stop), 1040 * MS) else { panic!("over") };
        assert_eq!((end.outcome, end.run), (Outcome::Exited(143), Some(Duration::from_millis(40))));
        assert_eq!(slow.stopped(Some(stop), 1020 * MS, Duration::from_millis(50)), None, "the first SIGTERM counts");

        let stop = slow.stopped(None, 1010 * MS, Duration::from_millis(20)).expect("running");
        let Observed::Ended(end) = slow.observed(Some(stop), 1030 * MS) else { panic!("over") };
        assert_eq!(end.outcome, Outcome::Exited(137));
    }

    #[test]
    fn what_failed_to_start_never_ran() {
        let failed = container_with(plain(10, 100), Some(Fault::StartFailed));
        assert_eq!(failed.observed(None, 1009 * MS), Observed::Starting);
        let Observed::Ended(end) = failed.observed(None, 1010 * MS) else { panic!("over") };
        let failure = end.outcome.failure().expect("a failure");
        assert_eq!((failure.class, failure.exit_code, end.run), (FailureClass::BackendError, None, None));
        assert_eq!(failed.printed(None, 9999 * MS).lines, 0);
        assert_eq!(failed.launched_ns(), 1000 * MS);
    }

    #[test]
    fn an_end_without_an_exit_code_is_no_zero() {
        let ended = container_with(plain(0, 100), Some(Fault::NoExitCode));
        let Observed::Ended(end) = ended.observed(None, 1100 * MS) else { panic!("over") };
        let failure = end.outcome.failure().expect("a failure");
        assert_eq!((failure.class, failure.exit_code), (FailureClass::BackendError, None));
        assert_eq!((end.run, ended.printed(None, 1100 * MS).lines), (Some(Duration::from_millis(100)), 4));
    }

    #[test]
    fn lines_may_come_sooner_than_the_end() {
        let flood = |print_time| container(Behaviour { print_time: Some(print_time), ..plain(0, 100) });
        assert_eq!(flood(Duration::ZERO).printed(None, 1000 * MS).lines, 4, "all at once");
        assert_eq!(flood(Duration::from_millis(50)).printed(None, 1025 * MS).lines, 2);
        assert_eq!(flood(Duration::from_millis(200)).printed(None, 9999 * MS).lines, 2, "its end is the end");
    }

    #[test]
    fn a_restart_of_the_machine_ends_it() {
        let mut container = container(plain(0, 100));
        container.boot = "before".into();
        let Observed::Ended(end) = container.observed(None, 0) else { panic!("over") };
        assert!(end.outcome.failure().expect("a failure").class.is_infrastructure());
    }

    #[test]
    fn only_a_name_is_a_file() {
        assert!(is_name("g1-a"));
        assert!(["", "../../etc/passwd", "g1.a", "G1"].iter().all(|text| !is_name(text)));
        assert_eq!(name_in("g1-a.ff"), Some("g1-a"));
        assert_eq!(name_in("plain"), None);
    }
}
