//! What a pending job waits for.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Ahead, COUNTED, Facts, Hosts, Limit, Phase, Waiting, Why, count};
use crate::{ExecutorType, WaitingReason};

/// What a pending job waits among: the hosts that may run it, and the jobs before it.
#[derive(Clone, Debug, Default)]
pub struct Backlog {
    /// The hosts of its executor type that take its tenant's jobs.
    pub hosts: Hosts,
    /// Names of a few of them that take no new jobs.
    pub blocked: Vec<String>,
    /// Names of a few active ones that no live worker reaches.
    pub unserved: Vec<String>,
    /// Since when the last of those has not been reached, if one ever was.
    pub unserved_since: Option<DateTime<Utc>>,
    /// Names of a few that are served and full.
    pub full: Vec<String>,
    /// Seconds for which jobs have held a slot there lately; none if none has ended.
    pub slot_seconds: Option<f64>,
    /// Who goes before it.
    pub ahead: Ahead,
    /// The limit on which it is parked, or else one that it would meet if it were its turn.
    pub limit: Option<(WaitingReason, Limit)>,
}

impl Hosts {
    /// What a job waits for that is neither parked nor in the window, as far as hosts go.
    pub fn reason(&self) -> WaitingReason {
        if self.total == 0 {
            WaitingReason::NoHost
        } else if self.active == 0 {
            WaitingReason::HostUnavailable
        } else if self.served == 0 {
            WaitingReason::NoWorker
        } else if self.free == 0 {
            WaitingReason::HostFull
        } else {
            WaitingReason::Dispatching
        }
    }
}

pub(super) fn explain(facts: &Facts) -> Why {
    let unknown = Backlog::default();
    let backlog = facts.backlog.as_ref().unwrap_or(&unknown);
    let reason = reason(facts, backlog);
    let limit = backlog.limit.as_ref().filter(|(kind, _)| *kind == reason).map(|(_, limit)| limit.clone());
    let in_line = facts.job.dispatched_at.is_none()
        && !matches!(reason, WaitingReason::RetryBackoff | WaitingReason::NotBefore | WaitingReason::Dependency);
    let (estimated_start, estimate) = estimate(facts, backlog, reason);
    let waiting = Waiting {
        reason,
        // An end under the limit puts it back in line, not the time.
        until: facts.job.parked_until.filter(|_| !is_limit(reason)),
        hosts: backlog.hosts.clone(),
        limit: limit.clone(),
        ahead: in_line.then_some(backlog.ahead),
        estimated_start,
        estimate,
    };
    let (summary, remedy) = tell(facts, backlog, reason, limit.as_ref());
    let why = facts.why(Phase::Waiting, since(facts, backlog, reason), summary, remedy);
    Why { waiting: Some(waiting), ..why }
}

fn reason(facts: &Facts, backlog: &Backlog) -> WaitingReason {
    if let Some(stored) = facts.job.waiting_reason {
        return stored;
    }
    if facts.job.dispatched_at.is_some() {
        return WaitingReason::Dispatching;
    }
    match (backlog.hosts.reason(), &backlog.limit) {
        (WaitingReason::HostFull | WaitingReason::Dispatching, Some((kind, _))) => *kind,
        (reason, _) => reason,
    }
}

fn since(facts: &Facts, backlog: &Backlog, reason: WaitingReason) -> DateTime<Utc> {
    // Since when it waits at all: its acceptance, or the end of its last attempt.
    let waits = facts.attempts.last().and_then(|attempt| attempt.ended_at).unwrap_or(facts.job.created_at);
    match reason {
        WaitingReason::Dispatching => facts.job.dispatched_at.unwrap_or(waits),
        WaitingReason::NoWorker => backlog.unserved_since.map_or(waits, |since| since.max(waits)),
        _ => waits,
    }
}

fn tell(facts: &Facts, backlog: &Backlog, reason: WaitingReason, limit: Option<&Limit>) -> (String, Option<String>) {
    let (executor, hosts, id) = (facts.job.executor, &backlog.hosts, facts.job.id);
    let attempt = facts.attempts.last().map_or(1, |attempt| attempt.attempt + 1);
    let cancel = || Some(format!("nothing needs to be done; `gantry job cancel {id}` gives it up"));
    match reason {
        WaitingReason::Dispatching if facts.job.dispatched_at.is_some() => {
            (format!("it is next: a worker of type {executor} takes it in a moment"), None)
        }
        WaitingReason::Dispatching => {
            (format!("it is about to be dispatched: {} free", count(hosts.free, "slot")), None)
        }
        WaitingReason::RetryBackoff => {
            let before = facts.attempts.last().map_or_else(String::new, |last| format!(" on host {}", last.host));
            (format!("attempt {} failed{before}; attempt {attempt} comes after a pause", attempt - 1), cancel())
        }
        WaitingReason::NotBefore => ("its producer asked for a later start".to_owned(), cancel()),
        WaitingReason::HostFull => (
            format!(
                "all {} of the {} that it may run on are taken",
                count(hosts.slots, "slot"),
                count(hosts.served, "host")
            ),
            Some(format!(
                "a job there must end; or give a host more slots: `gantry host set {} --slots N` (with an operator's key)",
                first(&backlog.full, "NAME")
            )),
        ),
        WaitingReason::HostUnavailable => (
            format!("no host of type {executor} that it may run on takes new jobs: {}", states(hosts)),
            Some(format!(
                "let one take jobs again: `gantry host activate {}` (with an operator's key)",
                first(&backlog.blocked, "NAME")
            )),
        ),
        WaitingReason::NoHost => {
            (format!("there is no host of type {executor} that takes this tenant's jobs"), Some(add_host(executor)))
        }
        WaitingReason::NoWorker => no_worker(executor, backlog),
        WaitingReason::TenantLimit | WaitingReason::TemplateLimit | WaitingReason::KeyLimit => limited(reason, limit),
        WaitingReason::Budget => ("its tenant's budget is used up".to_owned(), None),
        WaitingReason::Dependency => ("a job that it depends on has not ended".to_owned(), None),
    }
}

fn no_worker(executor: ExecutorType, backlog: &Backlog) -> (String, Option<String>) {
    let hosts = count(backlog.hosts.active, "host");
    match backlog.hosts.workers {
        0 => (
            format!("no worker of type {executor} is alive, so nobody serves the {hosts} that it may run on"),
            Some(format!("start one: `gantry-worker-{executor}`")),
        ),
        workers => (
            format!(
                "none of the {} of type {executor} reaches the {hosts} that it may run on",
                count(workers, "live worker")
            ),
            Some(format!(
                "bring host {} back, or start `gantry-worker-{executor}` where it is reached; `gantry host list` shows who reaches what",
                first(&backlog.unserved, "NAME")
            )),
        ),
    }
}

fn is_limit(reason: WaitingReason) -> bool {
    matches!(reason, WaitingReason::TenantLimit | WaitingReason::TemplateLimit | WaitingReason::KeyLimit)
}

fn limited(reason: WaitingReason, limit: Option<&Limit>) -> (String, Option<String>) {
    let (kind, command) = match reason {
        WaitingReason::TenantLimit => ("tenant", "gantry tenant set NAME --max-running N"),
        WaitingReason::TemplateLimit => ("template", "gantry limit set template NAME --max N"),
        _ => ("concurrency key", "gantry limit set key NAME --max N"),
    };
    let name = limit.and_then(|limit| limit.name.as_ref()).map(|name| format!(" {name}")).unwrap_or_default();
    match limit {
        Some(Limit { running, max_running: Some(max), .. }) => (
            format!("its {kind}{name} runs as many jobs at once as it may: {running} of {max}"),
            Some(format!("one of them must end, or the limit of the {kind}{name} be raised: `{command}`")),
        ),
        _ => (
            format!(
                "its {kind}{name} ran as many jobs at once as it might, and the job is looked at again in a moment"
            ),
            None,
        ),
    }
}

fn add_host(executor: ExecutorType) -> String {
    format!(
        "add one: `gantry host add NAME --executor {executor} --connection JSON` (with an operator's key; docs/HOSTS.md \
         has an example of each kind)"
    )
}

/// `2 cordoned, 1 draining`.
fn states(hosts: &Hosts) -> String {
    let states = [
        (hosts.cordoned, "cordoned"),
        (hosts.draining, "draining"),
        (hosts.lost, "lost"),
        (hosts.inactive, "switched off"),
    ];
    let told = states.iter().filter(|(number, _)| *number > 0).map(|(number, state)| format!("{number} {state}"));
    told.collect::<Vec<_>>().join(", ")
}

fn first<'a>(names: &'a [String], otherwise: &'a str) -> &'a str {
    names.first().map_or(otherwise, String::as_str)
}

/// When it starts, roughly, and how that is known.
fn estimate(facts: &Facts, backlog: &Backlog, reason: WaitingReason) -> (Option<DateTime<Utc>>, String) {
    match reason {
        WaitingReason::RetryBackoff | WaitingReason::NotBefore => {
            (facts.job.parked_until, "not earlier; then its turn in line".to_owned())
        }
        WaitingReason::Dispatching if facts.job.dispatched_at.is_some() => (Some(facts.now), "at once".to_owned()),
        WaitingReason::Dispatching | WaitingReason::HostFull => in_line(facts.now, backlog),
        WaitingReason::NoHost | WaitingReason::HostUnavailable | WaitingReason::NoWorker => {
            (None, "unknown: it cannot start before its hosts are back".to_owned())
        }
        WaitingReason::TenantLimit | WaitingReason::TemplateLimit | WaitingReason::KeyLimit => {
            (None, "unknown: it depends on when a job under the same limit ends".to_owned())
        }
        WaitingReason::Budget | WaitingReason::Dependency => (None, "unknown".to_owned()),
    }
}

fn in_line(now: DateTime<Utc>, backlog: &Backlog) -> (Option<DateTime<Utc>>, String) {
    let (Ahead { jobs, more, .. }, Hosts { slots, free, .. }) = (backlog.ahead, &backlog.hosts);
    let turns = jobs + 1 - free;
    if turns <= 0 && !more {
        return (Some(now), "at once: there are more free slots than jobs before it".to_owned());
    }
    let Some(seconds) = backlog.slot_seconds.filter(|_| *slots > 0) else {
        return (None, "unknown: no job has ended on its hosts yet".to_owned());
    };
    #[expect(clippy::cast_precision_loss, reason = "jobs and slots are few against 2^52")]
    let wait = turns as f64 * seconds / *slots as f64;
    #[expect(clippy::cast_possible_truncation, reason = "clamped to a year")]
    let wait = TimeDelta::milliseconds((wait * 1_000.0).clamp(0.0, 31_536_000_000.0) as i64);
    let before = if more { format!("more than {COUNTED} jobs") } else { count(jobs, "job") };
    let earliest = if more { "at the earliest: " } else { "" };
    let slots = count(*slots, "slot");
    (Some(now + wait), format!("{earliest}{before} before it, {slots}, {seconds:.1} s in a slot on average lately"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, exited, facts};
    use super::super::{AttemptFacts, explain};
    use super::*;
    use crate::{LimitId, Status};

    fn pending(backlog: Backlog) -> Facts {
        Facts { backlog: Some(backlog), ..facts(Status::Pending) }
    }

    fn parked(reason: WaitingReason, backlog: Backlog) -> Facts {
        let mut facts = pending(backlog);
        (facts.job.waiting_reason, facts.job.parked_until) = (Some(reason), Some(at(90)));
        facts
    }

    /// Two hosts with three slots, all of them free.
    fn hosts() -> Hosts {
        Hosts { total: 2, active: 2, served: 2, slots: 3, free: 3, workers: 1, ..Hosts::default() }
    }

    fn names(name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }

    fn limit(reason: WaitingReason, max_running: Option<i32>) -> Option<(WaitingReason, Limit)> {
        Some((reason, Limit { id: LimitId::new(), name: Some("nightly".to_owned()), max_running, running: 4 }))
    }

    #[test]
    fn the_hosts_decide_what_a_job_in_line_waits_for() {
        use WaitingReason::{Dispatching, HostFull, HostUnavailable, NoHost, NoWorker, TemplateLimit};
        for (hosts, limit, reason) in [
            (Hosts::default(), None, NoHost),
            (Hosts { total: 1, cordoned: 1, ..Hosts::default() }, None, HostUnavailable),
            (Hosts { total: 1, active: 1, ..Hosts::default() }, None, NoWorker),
            (Hosts { free: 0, ..hosts() }, None, HostFull),
            (hosts(), None, Dispatching),
            // A limit counts only where a slot would be had.
            (hosts(), limit(TemplateLimit, Some(4)), TemplateLimit),
            (Hosts { free: 0, ..hosts() }, limit(TemplateLimit, Some(4)), TemplateLimit),
            (Hosts { total: 1, active: 1, ..Hosts::default() }, limit(TemplateLimit, Some(4)), NoWorker),
        ] {
            let why = explain(&pending(Backlog { hosts, limit, ..Backlog::default() }));
            let waiting = why.waiting.expect("it waits");
            assert_eq!(waiting.reason, reason);
            assert_eq!(waiting.limit.is_some(), reason == TemplateLimit);
            assert!(waiting.ahead.is_some(), "it is in line");
        }
    }

    #[test]
    fn each_reason_says_since_when_and_what_would_help() {
        use WaitingReason::{
            HostFull, HostUnavailable, KeyLimit, NoHost, NoWorker, NotBefore, RetryBackoff, TemplateLimit, TenantLimit,
        };
        let failed = || {
            let mut facts = parked(RetryBackoff, Backlog::default());
            facts.attempts = vec![exited(1, 3)];
            facts
        };
        let blocked = Backlog {
            hosts: Hosts { total: 3, cordoned: 2, lost: 1, ..Hosts::default() },
            blocked: names("rack1"),
            ..Backlog::default()
        };
        let unserved = Backlog {
            hosts: Hosts { total: 1, active: 1, ..Hosts::default() },
            unserved: names("rack2"),
            unserved_since: Some(at(20)),
            ..Backlog::default()
        };
        let unreached = Backlog { hosts: Hosts { workers: 2, ..unserved.hosts.clone() }, ..unserved.clone() };
        let full = Backlog { hosts: Hosts { free: 0, ..hosts() }, full: names("rack3"), ..Backlog::default() };
        let limited =
            |reason| parked(reason, Backlog { hosts: hosts(), limit: limit(reason, Some(4)), ..Backlog::default() });
        for (facts, since, says, helps) in [
            (failed(), 40, "attempt 1 failed on host rack1; attempt 2 comes", "gantry job cancel"),
            (parked(NotBefore, Backlog::default()), 0, "later start", "gantry job cancel"),
            (
                pending(Backlog::default()),
                0,
                "no host of type docker",
                "gantry host add NAME --executor docker --connection",
            ),
            (parked(NoHost, Backlog::default()), 0, "no host of type docker", "gantry host add"),
            (pending(blocked.clone()), 0, "2 cordoned, 1 lost", "gantry host activate rack1"),
            (parked(HostUnavailable, blocked), 0, "takes new jobs", "gantry host activate rack1"),
            (pending(unserved.clone()), 20, "no worker of type docker is alive", "gantry-worker-docker"),
            (parked(NoWorker, unserved), 20, "nobody serves the 1 host", "gantry-worker-docker"),
            (pending(unreached), 20, "none of the 2 live workers", "bring host rack2 back"),
            (pending(full.clone()), 0, "all 3 slots of the 2 hosts", "gantry host set rack3 --slots"),
            (parked(HostFull, full), 0, "are taken", "a job there must end"),
            (
                limited(TenantLimit),
                0,
                "its tenant nightly runs as many jobs at once as it may: 4 of 4",
                "gantry tenant set NAME --max-running N",
            ),
            (limited(TemplateLimit), 0, "its template nightly", "gantry limit set template NAME --max N"),
            (limited(KeyLimit), 0, "its concurrency key nightly", "gantry limit set key NAME --max N"),
        ] {
            let why = explain(&facts);
            assert!(why.summary.contains(says), "{says}: {}", why.summary);
            assert!(why.remedy.as_ref().is_some_and(|remedy| remedy.contains(helps)), "{helps}: {:?}", why.remedy);
            assert_eq!((why.phase, why.since), (Phase::Waiting, at(since)), "{}", why.summary);
            let waiting = why.waiting.expect("it waits");
            assert_eq!(waiting.until, facts.job.parked_until.filter(|_| waiting.limit.is_none()));
        }
    }

    #[test]
    fn what_is_dispatched_is_next() {
        let mut facts = pending(Backlog { hosts: Hosts { free: 0, ..hosts() }, ..Backlog::default() });
        facts.job.dispatched_at = Some(at(55));
        let why = explain(&facts);
        let waiting = why.waiting.expect("it waits");
        assert_eq!((waiting.reason, why.since, waiting.ahead), (WaitingReason::Dispatching, at(55), None));
        assert_eq!((why.remedy, waiting.estimated_start), (None, Some(at(60))));
    }

    #[test]
    fn a_lifted_limit_is_no_longer_told_as_one() {
        let facts = parked(WaitingReason::KeyLimit, Backlog { hosts: hosts(), limit: None, ..Backlog::default() });
        let why = explain(&facts);
        assert!(why.summary.contains("looked at again") && why.remedy.is_none(), "{why:?}");
    }

    #[test]
    fn the_start_is_estimated_from_the_line_and_the_slots() {
        let line = |jobs, more, free, slot_seconds| Backlog {
            hosts: Hosts { free, ..hosts() },
            ahead: Ahead { jobs, own: 0, more },
            slot_seconds,
            ..Backlog::default()
        };
        for (backlog, seconds, says) in [
            (line(2, false, 3, None), Some(60), "at once"),
            (line(3, false, 3, Some(30.0)), Some(70), "3 jobs before it, 3 slots, 30.0 s"),
            (line(0, false, 0, Some(30.0)), Some(70), "0 jobs before it"),
            (line(29, false, 0, Some(30.0)), Some(360), "29 jobs"),
            (line(COUNTED, true, 3, Some(3.0)), Some(60 + 9_998), "at the earliest: more than 10000 jobs"),
            (line(5, false, 0, None), None, "no job has ended on its hosts yet"),
        ] {
            let waiting = explain(&pending(backlog)).waiting.expect("it waits");
            assert_eq!(waiting.estimated_start, seconds.map(at), "{}", waiting.estimate);
            assert!(waiting.estimate.contains(says), "{}", waiting.estimate);
        }
        let later = explain(&parked(WaitingReason::NotBefore, Backlog::default())).waiting.expect("it waits");
        assert_eq!((later.estimated_start, later.ahead), (Some(at(90)), None));
    }

    #[test]
    fn a_retry_counts_its_attempts() {
        let mut facts = parked(WaitingReason::RetryBackoff, Backlog::default());
        facts.attempts = vec![exited(1, 1), AttemptFacts { ended_at: Some(at(55)), ..exited(2, 1) }];
        let why = explain(&facts);
        assert!(why.summary.contains("attempt 2 failed") && why.summary.contains("attempt 3 comes"), "{}", why.summary);
        assert_eq!((why.since, why.attempts.len()), (at(55), 2));
    }
}
