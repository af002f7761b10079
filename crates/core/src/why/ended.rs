//! Why a job ended as it did.

use super::{Facts, Job, Phase, Why, count};
use crate::failure::Disposition;
use crate::{Failure, FailureClass, Status, retry};

pub(super) fn explain(facts: &Facts) -> Why {
    let job = &facts.job;
    let since = job.completed_at.unwrap_or(job.created_at);
    let (summary, remedy) = match job.status {
        Status::Completed => (format!("it completed: {} exited with code 0", last(facts)), None),
        Status::Cancelled if facts.attempts.is_empty() => ("it was cancelled before it ran".to_owned(), None),
        Status::Cancelled => (format!("it was cancelled; {} was stopped", last(facts)), None),
        Status::Timeout if facts.attempts.is_empty() => (
            "it waited longer than its queue deadline allows, and never ran".to_owned(),
            Some("submit it again with a longer `queue_timeout_seconds`, or without one".to_owned()),
        ),
        Status::Timeout => (timeout(facts), Some("submit it again with a longer `timeout_seconds`".to_owned())),
        Status::Failed | Status::Pending | Status::Running => (failed(facts), remedy(job)),
    };
    facts.why(Phase::Ended, since, summary, remedy)
}

/// The last attempt, for the middle of a sentence.
fn last(facts: &Facts) -> String {
    match facts.attempts.last() {
        Some(attempt) if facts.attempts.len() == 1 => format!("its only attempt, on host {},", attempt.host),
        Some(attempt) => format!("attempt {}, on host {},", attempt.attempt, attempt.host),
        None => "it".to_owned(),
    }
}

fn timeout(facts: &Facts) -> String {
    match facts.attempts.last().and_then(|attempt| attempt.stop_reason) {
        Some(_) => format!("{} ran longer than its timeout and was stopped", last(facts)),
        None => "it waited longer than its queue deadline allows after its last attempt".to_owned(),
    }
}

fn failed(facts: &Facts) -> String {
    let job = &facts.job;
    let class = job.failure_class.unwrap_or(FailureClass::BackendError);
    let end = match (class, job.exit_code, &job.error_message) {
        (FailureClass::ExitNonzero, Some(code), _) => format!("exited with code {code}"),
        (_, _, Some(message)) => format!("failed with {class}: {message}"),
        (_, _, None) => format!("failed with {class}"),
    };
    if facts.attempts.is_empty() {
        return format!("it {end}; it never ran");
    }
    format!("{} {end}; {}", last(facts), verdict(job, class))
}

/// Why there was no other attempt.
fn verdict(job: &Job, class: FailureClass) -> String {
    let failure = Failure { exit_code: job.exit_code, ..Failure::new(class, "") };
    match class.disposition() {
        _ if job.cancel_requested_at.is_some() => "its end had been asked for, so it is not tried again".to_owned(),
        Disposition::Infrastructure if job.used.infrastructure >= retry::INFRASTRUCTURE_RETRIES => {
            format!(
                "it was tried again {} for what was not its fault, which is the most",
                count(job.used.infrastructure.into(), "time")
            )
        }
        Disposition::Infrastructure => "it was given up, so it is not tried again".to_owned(),
        Disposition::Job | Disposition::Permanent if job.retry.covers(&failure) => {
            format!("its retry policy allows {}, and they are used up", count(job.retry.max_attempts.into(), "attempt"))
        }
        Disposition::Job => "its retry policy does not cover that".to_owned(),
        Disposition::Permanent => "the same again would fail the same, so it is not tried again".to_owned(),
    }
}

fn remedy(job: &Job) -> Option<String> {
    let advice = match job.failure_class? {
        FailureClass::ExitNonzero => format!("its output says more: `gantry job logs {}`", job.id),
        FailureClass::OomKilled => "submit it again with a higher `memory_limit_mb`".to_owned(),
        FailureClass::ImageNotFound => "correct the image's name, or push the image".to_owned(),
        FailureClass::ImagePullDenied => "give the host's worker credentials for the registry".to_owned(),
        FailureClass::InvalidSpec | FailureClass::LaunchRejected => "correct the spec as the message says".to_owned(),
        FailureClass::NoCapacity
        | FailureClass::Throttled
        | FailureClass::HostUnreachable
        | FailureClass::Lost
        | FailureClass::BackendError => "submit it again once its hosts are well: `gantry host list`".to_owned(),
        FailureClass::Timeout | FailureClass::Cancelled => return None,
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, claimed, exited, facts};
    use super::super::{AttemptFacts, explain};
    use super::*;
    use crate::state::StopReason;

    fn ended(status: Status, class: Option<FailureClass>, code: Option<i32>, attempts: Vec<AttemptFacts>) -> Facts {
        let mut facts = Facts { attempts, ..facts(status) };
        (facts.job.failure_class, facts.job.exit_code) = (class, code);
        facts.job.error_message = class.map(|class| format!("about {class}"));
        facts
    }

    #[test]
    fn each_end_has_one_line_that_says_why() {
        use FailureClass::{Cancelled, ExitNonzero, ImageNotFound, Lost, OomKilled, Timeout};
        let stopped =
            |reason| AttemptFacts { ended_at: Some(at(40)), stop_reason: Some(reason), standing: None, ..claimed(1) };
        let gone = || AttemptFacts { failure_class: Some(Lost), exit_code: None, ..exited(2, 1) };
        let with = |mut facts: Facts, attempts, infrastructure| {
            facts.job.retry.max_attempts = attempts;
            facts.job.used.infrastructure = infrastructure;
            facts
        };
        let exit = |code| ended(Status::Failed, Some(ExitNonzero), Some(code), vec![exited(1, code)]);
        let mut picky = exit(3);
        picky.job.retry.on_exit_codes = vec![7];
        let mut asked = exit(3);
        asked.job.cancel_requested_at = Some(at(30));
        for (facts, says) in [
            (
                ended(Status::Completed, None, Some(0), vec![exited(1, 0)]),
                "its only attempt, on host rack1, exited with code 0",
            ),
            (
                ended(Status::Completed, None, Some(0), vec![exited(1, 1), exited(2, 0)]),
                "attempt 2, on host rack1, exited with code 0",
            ),
            (ended(Status::Cancelled, Some(Cancelled), None, vec![]), "cancelled before it ran"),
            (
                ended(Status::Cancelled, Some(Cancelled), None, vec![stopped(StopReason::Cancel)]),
                "it was cancelled; its only attempt",
            ),
            (ended(Status::Timeout, Some(Timeout), None, vec![]), "queue deadline allows, and never ran"),
            (
                ended(Status::Timeout, Some(Timeout), None, vec![stopped(StopReason::Timeout)]),
                "ran longer than its timeout",
            ),
            (ended(Status::Timeout, Some(Timeout), None, vec![exited(1, 1)]), "after its last attempt"),
            (exit(3), "exited with code 3; its retry policy allows 1 attempt, and they are used up"),
            (with(exit(3), 4, 0), "allows 4 attempts"),
            (picky, "does not cover that"),
            (asked, "its end had been asked for"),
            (
                ended(Status::Failed, Some(OomKilled), Some(137), vec![exited(1, 137)]),
                "failed with oom_killed: about oom_killed",
            ),
            (ended(Status::Failed, Some(ImageNotFound), None, vec![exited(1, 1)]), "would fail the same"),
            (
                with(ended(Status::Failed, Some(Lost), None, vec![gone()]), 1, 5),
                "tried again 5 times for what was not its fault",
            ),
            (ended(Status::Failed, Some(Lost), None, vec![gone()]), "it was given up"),
            (ended(Status::Failed, Some(FailureClass::InvalidSpec), None, vec![]), "it never ran"),
        ] {
            let why = explain(&facts);
            assert!(why.summary.contains(says), "{says}: {}", why.summary);
            assert_eq!((why.phase, why.since), (Phase::Ended, at(50)));
            assert_eq!(
                why.remedy.is_some(),
                !matches!(facts.job.status, Status::Completed | Status::Cancelled),
                "{why:?}"
            );
        }
    }
}
