//! Where a running job is.

use super::{AttemptFacts, Facts, Phase, Why, stop_words};
use crate::lost::Condition;

pub(super) fn explain(facts: &Facts) -> Why {
    // A job that runs has an open attempt, but a reader may come between two versions of the rows.
    let Some(open) = facts.attempts.last().filter(|attempt| attempt.ended_at.is_none()) else {
        let summary = "its last attempt has ended, and its end is being recorded".to_owned();
        return facts.why(Phase::Running, facts.job.created_at, summary, None);
    };
    let (phase, since) = open.phase(facts.job.cancel_requested_at);
    let (summary, remedy) = tell(facts, open, phase);
    facts.why(phase, since, summary, remedy)
}

fn tell(facts: &Facts, open: &AttemptFacts, phase: Phase) -> (String, Option<String>) {
    let (attempt, host, id) = (open.attempt, &open.host, facts.job.id);
    let place = match phase {
        Phase::Claimed => format!("a worker has claimed it for host {host} (attempt {attempt})"),
        Phase::Pulling => format!("host {host} pulls its image (attempt {attempt})"),
        Phase::Starting => {
            format!("its container was asked for on host {host} and has not started (attempt {attempt})")
        }
        Phase::Stopping => {
            let reason = open.stop_reason.map_or("its end was asked for", stop_words);
            format!("its container on host {host} is being stopped (attempt {attempt}): {reason}")
        }
        Phase::Running | Phase::Waiting | Phase::Ended => {
            format!("its container runs on host {host} (attempt {attempt})")
        }
    };
    if let Some(by) = &open.abandoned_by {
        return (format!("{place}; the attempt was given up by {by}, and its end is being recorded"), None);
    }
    let Some(standing) = open.standing.as_ref().filter(|standing| standing.condition != Condition::Owned) else {
        return (place, None);
    };
    let remedy = match standing.condition {
        Condition::Unreachable => format!(
            "bring host {host} back within reach of its worker; if it does not come back, `gantry job abandon {id} --force` \
             gives this attempt up (with an operator's key)"
        ),
        Condition::Unowned | Condition::Owned => format!(
            "start a worker of type {} that reaches host {host}: it takes the attempt over; if the host does not come back, \
             `gantry job abandon {id} --force` gives it up (with an operator's key)",
            facts.job.executor
        ),
    };
    (format!("{place}, as far as is known: {}", standing.cause), Some(remedy))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, claimed, facts};
    use super::super::{Standing, explain};
    use super::*;
    use crate::Status;
    use crate::state::StopReason;

    fn why(attempt: AttemptFacts) -> Why {
        explain(&Facts { attempts: vec![attempt], ..facts(Status::Running) })
    }

    #[test]
    fn each_phase_says_where_it_is() {
        let launched = AttemptFacts { launch_sent_at: Some(at(11)), ..claimed(2) };
        let started = AttemptFacts { started_at: Some(at(21)), ..launched.clone() };
        for (attempt, phase, says) in [
            (claimed(2), Phase::Claimed, "claimed it for host rack1 (attempt 2)"),
            (AttemptFacts { prepare_began_at: Some(at(12)), ..launched.clone() }, Phase::Pulling, "pulls its image"),
            (launched.clone(), Phase::Starting, "asked for on host rack1 and has not started"),
            (started.clone(), Phase::Running, "runs on host rack1"),
            (
                AttemptFacts { stop_reason: Some(StopReason::Drain), ..started.clone() },
                Phase::Stopping,
                "runs again elsewhere",
            ),
        ] {
            let why = why(attempt);
            assert_eq!(why.phase, phase);
            assert!(why.summary.contains(says), "{why:?}");
            assert_eq!(why.remedy, None, "there is nothing to be done");
        }
        let mut cancelled = Facts { attempts: vec![started], ..facts(Status::Running) };
        cancelled.job.cancel_requested_at = Some(at(30));
        let why = explain(&cancelled);
        assert_eq!((why.phase, why.since), (Phase::Stopping, at(30)));
        assert!(why.summary.contains("its end was asked for"), "{why:?}");
    }

    #[test]
    fn what_is_out_of_reach_says_what_would_help() {
        let standing = |condition| Standing { condition, since: Some(at(30)), cause: "3 failed checks".to_owned() };
        for (condition, helps) in [
            (Condition::Unreachable, "bring host rack1 back"),
            (Condition::Unowned, "start a worker of type docker that reaches host rack1"),
        ] {
            let why = why(AttemptFacts { started_at: Some(at(21)), standing: Some(standing(condition)), ..claimed(1) });
            assert_eq!(why.phase, Phase::Running);
            assert!(why.summary.ends_with("3 failed checks"), "{why:?}");
            let remedy = why.remedy.expect("a remedy");
            assert!(
                remedy.contains(helps) && remedy.contains(&format!("gantry job abandon {} --force", why.id)),
                "{remedy}"
            );
        }
        let given_up = why(AttemptFacts { abandoned_by: Some("host lost".to_owned()), ..claimed(1) });
        assert!(given_up.summary.contains("given up by host lost") && given_up.remedy.is_none(), "{given_up:?}");
    }
}
