//! The job's state machine: one pure function that every writer of `container_jobs.status` asks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::failure::{Failure, FailureClass};
use crate::retry;

/// Where a job is. Terminal states never change.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    /// Accepted; no attempt owns it.
    Pending,
    /// An attempt owns it, from the worker's claim to the recorder's commit.
    Running,
    /// The container ended with exit code 0.
    Completed,
    /// It ended otherwise, or can never run.
    Failed,
    /// It ran longer than `timeout_seconds`, or waited longer than its queue deadline.
    Timeout,
    /// Somebody asked for its end.
    Cancelled,
}

impl Status {
    /// Whether the job has ended.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// The name used in messages and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why Gantry stops a container; committed before the stop is asked for.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum StopReason {
    /// The job's cancel was requested.
    Cancel,
    /// The run deadline passed.
    Timeout,
    /// Claimed, but not started in time: the place's fault, not the job's.
    LaunchDeadline,
    /// Its host is drained, and what runs there is moved: the job runs again elsewhere.
    Drain,
}

/// How an attempt ended, as its worker saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The container ran and ended by itself or was stopped; a signal is 128 + its number.
    Exited(i32),
    /// Anything else. `exit_code` may still be known (an OOM kill has 137).
    Failed(Failure),
}

impl Outcome {
    /// The failure behind the outcome; none for exit code 0.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => Some(Failure {
                exit_code: Some(*code),
                ..Failure::new(FailureClass::ExitNonzero, format!("the container exited with code {code}"))
            }),
            Self::Failed(failure) => Some(failure.clone()),
        }
    }

    /// The failure behind the outcome of a container that was stopped for this reason. Stopped before it started in
    /// time, whatever the backend says of the remains is not the job's exit: it is the place's failure.
    pub fn failure_after(&self, stop_reason: Option<StopReason>) -> Option<Failure> {
        // Whatever a container that was stopped for its place's sake exits with, it was not its job's end.
        let message = match stop_reason {
            Some(StopReason::LaunchDeadline) => "the container did not start before the launch deadline",
            Some(StopReason::Drain) => "its host was drained: it was stopped to run elsewhere",
            Some(StopReason::Cancel | StopReason::Timeout) | None => return self.failure(),
        };
        Some(Failure::new(FailureClass::BackendError, message))
    }
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A worker claims it.
    Claim,
    /// Somebody requests its end.
    Cancel,
    /// It waited past its queue deadline.
    QueueDeadline,
    /// It can never run; the failure says why.
    Unrunnable(Failure),
    /// Its attempt ended.
    AttemptEnded(AttemptEnded),
}

/// An attempt's end together with what the recorder read under lock.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnded {
    /// How it ended.
    pub outcome: Outcome,
    /// The stop that was committed before, if any: it decides the status.
    pub stop_reason: Option<StopReason>,
    /// A job with a cancel requested is never retried.
    pub cancel_requested: bool,
    /// What the retry budgets allow.
    pub retry: retry::Verdict,
}

/// The consequence of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The job is now running.
    Run,
    /// The job goes on as it was; the request is remembered and acted on by the worker.
    CancelRequested,
    /// The job waits for its next attempt.
    Retry(retry::Retry),
    /// The job ended.
    End {
        /// A terminal status.
        status: Status,
        /// Why, unless it completed.
        failure: Option<Failure>,
    },
}

/// An event that the state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {status} cannot take `{event}`")]
pub struct Illegal {
    /// The state.
    pub status: Status,
    /// The event's name.
    pub event: &'static str,
}

/// The transition table. Anything not listed is [`Illegal`].
pub fn next(status: Status, event: &Event) -> Result<Next, Illegal> {
    match (status, event) {
        (Status::Pending, Event::Claim) => Ok(Next::Run),
        (Status::Pending, Event::Cancel) => Ok(end(Status::Cancelled, Failure::cancelled())),
        (Status::Pending, Event::QueueDeadline) => {
            Ok(end(Status::Timeout, Failure::new(FailureClass::Timeout, "the job waited past its queue deadline")))
        }
        (Status::Pending, Event::Unrunnable(failure)) => Ok(end(Status::Failed, failure.clone())),
        (Status::Running, Event::Cancel) => Ok(Next::CancelRequested),
        (Status::Running, Event::AttemptEnded(ended)) => Ok(after_attempt(ended)),
        (_, event) => Err(Illegal { status, event: event.name() }),
    }
}

fn after_attempt(ended: &AttemptEnded) -> Next {
    let exit_code = match &ended.outcome {
        Outcome::Exited(code) => Some(*code),
        Outcome::Failed(failure) => failure.exit_code,
    };
    match ended.stop_reason {
        Some(StopReason::Cancel) => return end(Status::Cancelled, Failure { exit_code, ..Failure::cancelled() }),
        Some(StopReason::Timeout) => {
            let failure = Failure::new(FailureClass::Timeout, "the job ran longer than its timeout and was stopped");
            return end(Status::Timeout, Failure { exit_code, ..failure });
        }
        Some(StopReason::LaunchDeadline | StopReason::Drain) | None => {}
    }
    let Some(failure) = ended.outcome.failure_after(ended.stop_reason) else {
        return Next::End { status: Status::Completed, failure: None };
    };
    if ended.cancel_requested {
        return if failure.class.is_infrastructure() {
            end(Status::Cancelled, Failure { exit_code, ..Failure::cancelled() })
        } else {
            end(Status::Failed, failure)
        };
    }
    match &ended.retry {
        retry::Verdict::Retry(retry) => Next::Retry(retry.clone()),
        retry::Verdict::GiveUp => end(Status::Failed, failure),
    }
}

fn end(status: Status, failure: Failure) -> Next {
    Next::End { status, failure: Some(failure) }
}

impl Event {
    /// The event's name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Cancel => "cancel",
            Self::QueueDeadline => "queue deadline",
            Self::Unrunnable(_) => "unrunnable",
            Self::AttemptEnded(_) => "attempt ended",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_status() -> impl Strategy<Value = Status> {
        proptest::sample::select(Status::VARIANTS)
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (0..=255).prop_map(Outcome::Exited),
            proptest::sample::select(FailureClass::VARIANTS)
                .prop_map(|class| Outcome::Failed(Failure::new(class, "because"))),
        ]
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Claim),
            Just(Event::Cancel),
            Just(Event::QueueDeadline),
            Just(Event::Unrunnable(Failure::new(FailureClass::InvalidSpec, "never"))),
            (
                any_outcome(),
                proptest::option::of(proptest::sample::select(StopReason::VARIANTS)),
                any::<bool>(),
                any::<bool>()
            )
                .prop_map(|(outcome, stop_reason, cancel_requested, retry)| {
                    let retry = if retry {
                        retry::Verdict::Retry(retry::Retry { budget: retry::Budget::User, delay: Default::default() })
                    } else {
                        retry::Verdict::GiveUp
                    };
                    Event::AttemptEnded(AttemptEnded { outcome, stop_reason, cancel_requested, retry })
                }),
        ]
    }

    proptest! {
        #[test]
        fn terminal_states_never_change(status in any_status(), event in any_event()) {
            if status.is_terminal() {
                prop_assert_eq!(next(status, &event), Err(Illegal { status, event: event.name() }));
            }
        }

        #[test]
        fn exactly_the_listed_pairs_are_legal(status in any_status(), event in any_event()) {
            let legal = matches!(
                (status, &event),
                (Status::Pending, Event::Claim | Event::Cancel | Event::QueueDeadline | Event::Unrunnable(_))
                    | (Status::Running, Event::Cancel | Event::AttemptEnded(_))
            );
            prop_assert_eq!(next(status, &event).is_ok(), legal);
        }

        #[test]
        fn an_end_is_terminal_and_only_completed_has_no_failure(status in any_status(), event in any_event()) {
            if let Ok(Next::End { status, failure }) = next(status, &event) {
                prop_assert!(status.is_terminal());
                prop_assert_eq!(status == Status::Completed, failure.is_none());
            }
        }

        #[test]
        fn a_cancel_is_never_retried_and_a_stop_decides(event in any_event()) {
            if let Event::AttemptEnded(ended) = &event {
                let next = next(Status::Running, &event).expect("running takes every end");
                if ended.cancel_requested || matches!(ended.stop_reason, Some(StopReason::Cancel | StopReason::Timeout)) {
                    prop_assert!(!matches!(next, Next::Retry(_)));
                }
                let status = match next { Next::End { status, .. } => Some(status), _ => None };
                match ended.stop_reason {
                    Some(StopReason::Cancel) => prop_assert_eq!(status, Some(Status::Cancelled)),
                    Some(StopReason::Timeout) => prop_assert_eq!(status, Some(Status::Timeout)),
                    Some(StopReason::LaunchDeadline | StopReason::Drain) => prop_assert_ne!(status, Some(Status::Timeout)),
                    None => prop_assert_ne!(status, Some(Status::Timeout)),
                }
            }
        }
    }
}
