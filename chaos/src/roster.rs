//! The place of every failpoint: which parts are killed there, or why none is.
//!
//! A test reads the points out of the sources and fails over one that has no row in [`ROWS`]; a run fails over a part
//! that does not pass a point of its own, or passes one that is not. So a new commit, publish, ack or request to a backend
//! needs a row: [`killed`] by the parts that come there in `make chaos-points`, with whatever the load must hand in for
//! that, or [`exempt`], with the reason why nobody can be killed there.

#[cfg(test)]
mod sources;

use std::collections::BTreeSet;

use crate::part::Part;

const DISPATCHER: &[Part] = &[Part::Dispatcher];
const RECORDER: &[Part] = &[Part::Recorder];
const WORKER: &[Part] = &[Part::Worker];
/// The API answers whoever asked; a crash of it between two points is a request without an answer, asked again under
/// its idempotency key.
const API: &[Part] = &[Part::Api];

/// A point without its side, and the parts that come there.
#[derive(Debug)]
struct Row {
    name: &'static str,
    parts: &'static [Part],
    /// Why they are not killed there.
    exempt: Option<&'static str>,
}

const fn killed(name: &'static str, parts: &'static [Part]) -> Row {
    Row { name, parts, exempt: None }
}

const fn exempt(name: &'static str, parts: &'static [Part], reason: &'static str) -> Row {
    Row { name, parts, exempt: Some(reason) }
}

/// Every point, by its name.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    killed("ack.gantry.control", &[Part::Dispatcher, Part::Worker]),
    killed("ack.gantry.dead", DISPATCHER),
    killed("ack.gantry.jobs", WORKER),
    killed("ack.gantry.reports", RECORDER),
    killed("ack.gantry.submissions", DISPATCHER),
    killed("commit.admission::insert", DISPATCHER),
    killed("commit.attempts::adopt", WORKER),
    killed("commit.attempts::put_launch_sent", WORKER),
    killed("commit.attempts::put_outputs", WORKER),
    killed("commit.attempts::put_preparing", WORKER),
    killed("commit.attempts::put_started", WORKER),
    killed("commit.attempts::put_stop_reason", WORKER),
    exempt("commit.audit::list", API, "it reads"),
    killed("commit.bulk::batch", DISPATCHER),
    exempt("commit.bulk::changes", API, "it reads"),
    exempt("commit.bulk::count", API, "it reads"),
    exempt("commit.bulk::put", API, "a user's request"),
    exempt("commit.bulk::read", API, "it reads"),
    exempt("commit.bulk::stop", API, "a user's request"),
    killed("commit.claims::claim", WORKER),
    exempt("commit.costs::by_job", API, "it reads"),
    exempt("commit.costs::by_place", API, "it reads"),
    exempt("commit.costs::by_template", API, "it reads"),
    exempt("commit.dead_letters::get", API, "it reads"),
    exempt("commit.dead_letters::list", API, "it reads"),
    killed("commit.dead_letters::put", DISPATCHER),
    exempt("commit.dead_letters::request", API, "an operator's request"),
    killed("commit.dead_letters::settle", DISPATCHER),
    killed("commit.dead_letters::take_due", DISPATCHER),
    killed("commit.drift::hosts", DISPATCHER),
    killed("commit.events::mark_published", RECORDER),
    killed("commit.firing::fire", DISPATCHER),
    killed("commit.firing::release", DISPATCHER),
    exempt("commit.history::attempts", API, "it reads"),
    exempt("commit.hosts::active_types", API, "it reads"),
    killed("commit.hosts::identify", WORKER),
    exempt("commit.hosts::insert", API, "an operator's request"),
    exempt("commit.hosts::list", API, "it reads"),
    exempt("commit.jobs::cancel", API, "a user's request"),
    exempt("commit.jobs::progress", API, "it reads"),
    exempt("commit.jobs::select", API, "it reads"),
    exempt("commit.jobs::spec", API, "it reads"),
    exempt("commit.jobs::statuses", API, "it reads"),
    exempt("commit.limits::list", API, "it reads"),
    exempt("commit.limits::set", API, "an operator's request"),
    killed("commit.limits::unpark_free", DISPATCHER),
    killed("commit.lines::dispatch", DISPATCHER),
    killed("commit.lines::heads", DISPATCHER),
    killed("commit.lines::standing", DISPATCHER),
    killed("commit.lines::unpark_full", DISPATCHER),
    killed("commit.logs::append", WORKER),
    exempt("commit.logs::read", API, "it reads"),
    exempt("commit.lost::abandon", API, "an operator's request"),
    exempt("commit.lost::declare", API, "an operator's request"),
    killed("commit.lost::mark_by_policy", DISPATCHER),
    killed("commit.lost::mark_on_lost_hosts", DISPATCHER),
    killed("commit.names::read", DISPATCHER),
    exempt("commit.overview::read", API, "it reads"),
    killed("commit.queue::end_overdue", DISPATCHER),
    killed("commit.queue::expire_keys", DISPATCHER),
    killed("commit.queue::republishable", DISPATCHER),
    killed("commit.queue::unpark_due", DISPATCHER),
    killed("commit.reports::apply", RECORDER),
    exempt("commit.retention::logs_gone", API, "it reads"),
    exempt("commit.retention::put_policy", API, "a user's request"),
    killed("commit.retention::remove_jobs", DISPATCHER),
    killed("commit.retention::remove_letters", DISPATCHER),
    killed("commit.retention::remove_logs", DISPATCHER),
    killed("commit.retention::remove_runs", DISPATCHER),
    exempt("commit.route::outlook", API, "it reads"),
    exempt("commit.schedule_runs::list", API, "it reads"),
    exempt("commit.schedules::delete", API, "a user's request"),
    exempt("commit.schedules::list", API, "it reads"),
    exempt("commit.schedules::put", API, "a user's request"),
    exempt("commit.schedules::set_paused", API, "a user's request"),
    exempt("commit.schedules::trigger", API, "a user's request"),
    exempt("commit.steering::slots", API, "it reads"),
    exempt("commit.steering::steer", API, "an operator's request"),
    exempt("commit.templates::environments", API, "it reads"),
    exempt("commit.templates::get", API, "it reads"),
    exempt("commit.templates::list", API, "it reads"),
    exempt("commit.templates::projects", API, "it reads"),
    exempt("commit.templates::put", API, "a user's request"),
    exempt("commit.templates::put_environment", API, "a user's request"),
    exempt("commit.tenants::put_key", API, "an operator's request"),
    exempt("commit.tenants::put_tenant", API, "an operator's request"),
    exempt("commit.tenants::set", API, "an operator's request"),
    exempt("commit.why::facts", API, "it reads"),
    killed("commit.workers::beat", WORKER),
    killed("commit.workers::hand_over", WORKER),
    killed("commit.workers::mark_overdue_dead", &[Part::Dispatcher, Part::Worker]),
    killed("commit.workers::put_checks", WORKER),
    killed("commit.workers::register", WORKER),
    killed("executor.changed", WORKER),
    killed("executor.check", WORKER),
    killed("executor.find", WORKER),
    killed("executor.launch", WORKER),
    killed("executor.list_owned", WORKER),
    killed("executor.logs", WORKER),
    killed("executor.observe", WORKER),
    killed("executor.prepare", WORKER),
    killed("executor.remove", WORKER),
    killed("executor.stop", WORKER),
    killed("publish.gantry.control", &[Part::Dispatcher, Part::Recorder]),
    killed("publish.gantry.dead", &[Part::Dispatcher, Part::Recorder, Part::Worker]),
    killed("publish.gantry.events", RECORDER),
    killed("publish.gantry.jobs", DISPATCHER),
    killed("publish.gantry.reports", &[Part::Dispatcher, Part::Worker]),
    killed("publish.reply", DISPATCHER),
];

/// Where what a run's parts pass is not what the rows say, in words: `passed` holds whole points, with their sides.
pub(crate) fn faults(passed: &BTreeSet<(Part, String)>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expected = BTreeSet::new();
    for Row { name, parts, .. } in ROWS.iter().filter(|row| row.exempt.is_none()) {
        for part in *parts {
            expected.extend(["before", "after"].map(|side| (*part, format!("{name}.{side}"))));
        }
    }
    for (part, point) in expected.difference(passed) {
        let part = part.name();
        faults.push(format!(
            "the {part} does not pass {point} and is not killed there: hand in what brings it there, or say in \
             chaos/src/roster.rs why that cannot be"
        ));
    }
    for (part, point) in passed.difference(&expected) {
        let part = part.name();
        faults.push(format!("the {part} passes {point}: say so in its row in chaos/src/roster.rs"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run passes whose parts come everywhere.
    fn everything() -> BTreeSet<(Part, String)> {
        let rows = ROWS.iter().filter(|row| row.exempt.is_none());
        rows.flat_map(|row| row.parts.iter().map(move |part| (*part, row.name)))
            .flat_map(|(part, name)| ["before", "after"].map(|side| (part, format!("{name}.{side}"))))
            .collect()
    }

    #[test]
    fn a_run_that_comes_everywhere_has_no_fault() {
        assert_eq!(faults(&everything()), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_passed_and_what_has_no_place_is_told() {
        let mut passed = everything();
        let point = (Part::Dispatcher, "publish.gantry.reports.after".to_owned());
        assert!(passed.remove(&point), "the worker's own is another");
        passed.insert((Part::Worker, "commit.audit::list.before".to_owned()));
        let faults = faults(&passed);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("the dispatcher does not pass publish.gantry.reports.after"), "{faults:?}");
        assert!(faults[1].starts_with("the worker passes commit.audit::list.before"), "{faults:?}");
    }

    #[test]
    fn each_part_has_one_place_and_the_rows_are_in_order() {
        assert!(ROWS.is_sorted_by_key(|row| row.name));
        let mut places = BTreeSet::new();
        for row in ROWS {
            assert!(!row.parts.is_empty(), "{row:?} is nobody's");
            assert!(row.parts.iter().all(|part| places.insert((row.name, *part))), "{row:?} is there twice");
        }
        assert!(ROWS.iter().all(|row| row.exempt.is_none_or(|reason| !reason.is_empty())));
    }

    /// Whoever answers requests may be asked again; of those who work, nothing is left out.
    #[test]
    fn those_who_work_are_killed_everywhere() {
        let exempt = ROWS.iter().filter(|row| row.exempt.is_some() && row.parts != API).map(|row| row.name);
        assert_eq!(exempt.collect::<Vec<_>>(), Vec::<&str>::new(), "bring them about in the load");
    }
}
