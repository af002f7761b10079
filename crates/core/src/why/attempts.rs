//! The tries of a job, each with what became of it.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Phase, Standing, stop_words};
use crate::retry::Budget;
use crate::routing::failover::Decision;
use crate::state::StopReason;
use crate::{ExecutorType, FailureClass};

/// What the database holds of an attempt.
#[derive(Clone, Debug)]
pub struct AttemptFacts {
    /// From 1.
    pub attempt: i32,
    /// The host's name.
    pub host: String,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
    /// Since when its backend made ready for it, if that took long enough to be written down.
    pub prepare_began_at: Option<DateTime<Utc>>,
    /// Until when.
    pub prepare_ended_at: Option<DateTime<Utc>>,
    /// When its launch was sent at the earliest.
    pub launch_sent_at: Option<DateTime<Utc>>,
    /// When its container was seen running.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it was stopped.
    pub stop_reason: Option<StopReason>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    pub message: Option<String>,
    /// Which budget paid for the next one.
    pub retried_by: Option<Budget>,
    /// Who gave it up.
    pub abandoned_by: Option<String>,
    /// Who looks after it; none once it is over.
    pub standing: Option<Standing>,
}

/// One try of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhyAttempt")]
pub struct Attempt {
    /// From 1.
    pub attempt: i32,
    /// The host's name.
    pub host: String,
    /// Where it is.
    pub phase: Phase,
    /// When a worker claimed it.
    pub claimed_at: DateTime<Utc>,
    /// Seconds for which its image was pulled, or whatever else its backend needed; absent if it took none worth
    /// telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare_seconds: Option<f64>,
    /// When its container was seen running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Why Gantry stopped it, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// The exit code; a signal is 128 + its number. Absent for a failure of the infrastructure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_class: Option<FailureClass>,
    /// Which budget paid for the attempt after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_by: Option<Budget>,
    /// When the attempt after it was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<DateTime<Utc>>,
    /// Who gave it up before its end was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned_by: Option<String>,
    /// Who looks after it, while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// What became of it, in one sentence.
    pub summary: String,
}

impl AttemptFacts {
    /// Where it is, and since when. `asked` is when the job's end was asked for.
    pub(super) fn phase(&self, asked: Option<DateTime<Utc>>) -> (Phase, DateTime<Utc>) {
        if let Some(at) = self.ended_at {
            return (Phase::Ended, at);
        }
        if self.stop_reason.is_some() || asked.is_some() {
            return (Phase::Stopping, asked.or(self.started_at).unwrap_or(self.claimed_at));
        }
        match (self.started_at, self.prepare_began_at, self.prepare_ended_at, self.launch_sent_at) {
            (Some(at), ..) => (Phase::Running, at),
            (None, Some(at), None, _) => (Phase::Pulling, at),
            (None, _, Some(at), _) => (Phase::Starting, at),
            (None, None, None, Some(at)) => (Phase::Starting, at),
            (None, None, None, None) => (Phase::Claimed, self.claimed_at),
        }
    }
}

/// `routing` tells which of them were refused by their place, and where the job went on.
pub(super) fn explain(attempts: &[AttemptFacts], routing: &[Decision]) -> Vec<Attempt> {
    let next = attempts.iter().skip(1).map(|attempt| Some(attempt.claimed_at)).chain([None]);
    let went_on = |attempt| routing.iter().find(|step| step.after_attempt == attempt).map(|step| step.executor);
    attempts.iter().zip(next).map(|(facts, retried_at)| tell(facts, retried_at, went_on(facts.attempt))).collect()
}

fn tell(facts: &AttemptFacts, retried_at: Option<DateTime<Utc>>, went_on: Option<ExecutorType>) -> Attempt {
    let prepared = facts.prepare_began_at.zip(facts.prepare_ended_at);
    #[expect(clippy::cast_precision_loss, reason = "a pull takes less than 2^52 ms")]
    let seconds = |from: DateTime<Utc>, to: DateTime<Utc>| (to - from).num_milliseconds() as f64 / 1_000.0;
    Attempt {
        attempt: facts.attempt,
        host: facts.host.clone(),
        phase: facts.phase(None).0,
        claimed_at: facts.claimed_at,
        prepare_seconds: prepared.map(|(from, to)| seconds(from, to)),
        started_at: facts.started_at,
        ended_at: facts.ended_at,
        stop_reason: facts.stop_reason,
        exit_code: facts.exit_code,
        failure_class: facts.failure_class,
        retried_by: facts.retried_by,
        retried_at,
        abandoned_by: facts.abandoned_by.clone(),
        standing: facts.standing.clone(),
        summary: summary(facts, went_on),
    }
}

fn summary(facts: &AttemptFacts, went_on: Option<ExecutorType>) -> String {
    if facts.ended_at.is_none() {
        return match (facts.phase(None).0, facts.stop_reason) {
            (_, Some(reason)) => format!("it is being stopped: {}", stop_words(reason)),
            (Phase::Running, _) => "its container runs".to_owned(),
            (Phase::Pulling, _) => "its image is being pulled".to_owned(),
            (Phase::Starting, _) => "its container was asked for".to_owned(),
            _ => "a worker has it".to_owned(),
        };
    }
    let end = match (facts.failure_class, facts.exit_code, &facts.message) {
        (None, ..) => "it completed".to_owned(),
        (Some(FailureClass::ExitNonzero), Some(code), _) => format!("it exited with code {code}"),
        (Some(class), _, Some(message)) => format!("{class}: {message}"),
        (Some(class), _, None) => class.to_string(),
    };
    let paid = match (facts.retried_by, went_on) {
        (None, _) => "".into(),
        (Some(Budget::User), _) => "; tried again by the job's retry policy".into(),
        (Some(Budget::Infrastructure), Some(executor)) => format!("; never launched there, it went on to {executor}"),
        (Some(Budget::Infrastructure), None) => "; tried again, because it was not the job's fault".into(),
        (Some(Budget::Operator), _) => "; tried again elsewhere, because an operator moved it".into(),
    };
    format!("{end}{paid}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, claimed, exited};
    use super::*;

    #[test]
    fn an_attempt_is_in_one_phase_since_one_time() {
        let launched = AttemptFacts { launch_sent_at: Some(at(11)), ..claimed(1) };
        let pulling = AttemptFacts { prepare_began_at: Some(at(12)), ..launched.clone() };
        let pulled = AttemptFacts { prepare_ended_at: Some(at(20)), ..pulling.clone() };
        let started = AttemptFacts { started_at: Some(at(21)), ..pulled.clone() };
        let stopped = AttemptFacts { stop_reason: Some(StopReason::Timeout), ..started.clone() };
        for (facts, asked, phase, since) in [
            (&claimed(1), None, Phase::Claimed, 10),
            (&launched, None, Phase::Starting, 11),
            (&pulling, None, Phase::Pulling, 12),
            (&pulled, None, Phase::Starting, 20),
            (&started, None, Phase::Running, 21),
            (&started, Some(at(30)), Phase::Stopping, 30),
            (&stopped, None, Phase::Stopping, 21),
            (&exited(1, 0), Some(at(30)), Phase::Ended, 40),
        ] {
            assert_eq!(facts.phase(asked), (phase, at(since)), "{facts:?}");
        }
        assert_eq!(tell(&started, None, None).prepare_seconds, Some(8.0));
    }

    #[test]
    fn each_end_says_what_it_was_and_who_paid_for_the_next() {
        let failed = |class, budget| AttemptFacts {
            failure_class: Some(class),
            exit_code: None,
            message: Some("gone".to_owned()),
            retried_by: budget,
            ..exited(1, 1)
        };
        for (facts, says) in [
            (exited(1, 0), "it completed"),
            (exited(1, 3), "it exited with code 3"),
            (
                AttemptFacts { retried_by: Some(Budget::User), ..exited(1, 3) },
                "code 3; tried again by the job's retry policy",
            ),
            (failed(FailureClass::Lost, Some(Budget::Infrastructure)), "lost: gone; tried again, because it was not"),
            (failed(FailureClass::BackendError, Some(Budget::Operator)), "because an operator moved it"),
            (failed(FailureClass::ImageNotFound, None), "image_not_found: gone"),
        ] {
            assert!(summary(&facts, None).contains(says), "{}", summary(&facts, None));
        }
        let told = explain(&[exited(1, 3), AttemptFacts { claimed_at: at(70), ..claimed(2) }], &[]);
        assert_eq!((told[0].retried_at, told[1].retried_at), (Some(at(70)), None));
        let refused = failed(FailureClass::NoCapacity, Some(Budget::Infrastructure));
        let step =
            |after_attempt, executor| Decision { after_attempt, executor, reason: String::new(), candidates: vec![] };
        let told = explain(&[refused], &[step(0, ExecutorType::Docker), step(1, ExecutorType::Fargate)]);
        assert!(
            told[0].summary.ends_with("no_capacity: gone; never launched there, it went on to fargate"),
            "{told:?}"
        );
    }
}
