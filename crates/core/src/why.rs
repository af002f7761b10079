//! Why a job is where it is: one pure function from what the database holds to an explanation.
//!
//! A pending job is told what it waits for, since when, what would let it run and when that may be; a running one where
//! it is; one that has ended why it ended so. Whoever asks gets facts about shared hosts as counts only: nothing here
//! names another tenant or a job of one.

mod attempts;
mod ended;
mod pending;
mod running;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bulk;
use crate::lost::Condition;
use crate::retry;
use crate::routing::failover::Decision;
use crate::state::StopReason;
use crate::{ExecutorType, FailureClass, JobId, LimitId, Status, WaitingReason};

pub use attempts::{Attempt, AttemptFacts};
pub use pending::Backlog;

/// Rows of the line that are counted at most; beyond it there are "more than" so many.
pub const COUNTED: i64 = 10_000;

/// What the database holds of a job.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The time of the database.
    pub now: DateTime<Utc>,
    /// The job.
    pub job: Job,
    /// Its attempts, first to last.
    pub attempts: Vec<AttemptFacts>,
    /// What a pending job waits among; none for others.
    pub backlog: Option<Backlog>,
    /// What operations on many jobs did to it.
    pub changes: Vec<bulk::Done>,
    /// How it got to its executor, first to last.
    pub routing: Vec<Decision>,
}

/// The job's own row.
#[derive(Clone, Debug)]
pub struct Job {
    /// The id.
    pub id: JobId,
    /// Where it stands.
    pub status: Status,
    /// Where it was routed.
    pub executor: ExecutorType,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its end was recorded.
    pub completed_at: Option<DateTime<Utc>>,
    /// When its end was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// The reason that is stored, if the row is parked.
    pub waiting_reason: Option<WaitingReason>,
    /// Until when it is parked at most.
    pub parked_until: Option<DateTime<Utc>>,
    /// Since when it is in the window.
    pub dispatched_at: Option<DateTime<Utc>>,
    /// Why it did not complete.
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    pub error_message: Option<String>,
    /// Exit code of its last attempt.
    pub exit_code: Option<i32>,
    /// Its retry policy.
    pub retry: retry::Policy,
    /// What its retries were paid from.
    pub used: retry::Used,
}

/// The explanation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Why {
    /// The job.
    pub id: JobId,
    /// Where it stands.
    pub status: Status,
    /// Where it is, more finely.
    pub phase: Phase,
    /// Since when it is there; of a waiting job, since when its reason holds, as far as that is known.
    pub since: DateTime<Utc>,
    /// Why, in one sentence.
    pub summary: String,
    /// What would let it go on, in one sentence, with the command to run where there is one. Absent if nothing needs
    /// to be done, or nothing can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What a pending job waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Where it was routed last.
    pub executor: ExecutorType,
    /// How it got there: why it was sent to its first executor, and each refusal that sent it on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routing: Vec<Decision>,
    /// Its attempts, first to last.
    pub attempts: Vec<Attempt>,
    /// What operations on many jobs did to it, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<bulk::Done>,
}

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "WhyPhase")]
pub enum Phase {
    /// Pending.
    Waiting,
    /// A worker has it, and has not asked for its container yet.
    Claimed,
    /// Its image is pulled, or whatever else its backend needs before a launch.
    Pulling,
    /// Its container was asked for, and has not been seen running.
    Starting,
    /// Its container runs.
    Running,
    /// Its container is being stopped.
    Stopping,
    /// It has ended.
    Ended,
}

/// What a pending job waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhyWaiting")]
pub struct Waiting {
    /// In a word.
    pub reason: WaitingReason,
    /// When it is looked at again at the latest, if that is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// The hosts of its executor type that take this tenant's jobs.
    pub hosts: Hosts,
    /// The limit that it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// Who goes before it. Absent while it is not in line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Ahead>,
    /// When it starts, roughly: from the jobs before it, the slots, and how long jobs have held a slot lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated_start: Option<DateTime<Utc>>,
    /// How that is known, or why it is not.
    pub estimate: String,
}

/// Hosts, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhyHosts")]
pub struct Hosts {
    /// All of them.
    pub total: i64,
    /// Those that take new jobs, as far as operators are concerned.
    pub active: i64,
    /// Cordoned.
    pub cordoned: i64,
    /// Draining.
    pub draining: i64,
    /// Declared lost.
    pub lost: i64,
    /// Switched off.
    pub inactive: i64,
    /// Active ones that a live worker reaches.
    pub served: i64,
    /// Slots of those.
    pub slots: i64,
    /// Free slots of those.
    pub free: i64,
    /// Live workers of the executor type.
    pub workers: i64,
}

/// A limit on how many jobs run at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhyLimit")]
pub struct Limit {
    /// Its id.
    pub id: LimitId,
    /// The name of the template, or the concurrency key; absent where it counts the whole tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many may run; none if it was lifted meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<i32>,
    /// How many run.
    pub running: i32,
}

/// The jobs before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhyAhead")]
pub struct Ahead {
    /// All of them, by priority and by the tenants' shares; exact up to 10,000.
    pub jobs: i64,
    /// Those of this tenant among them.
    pub own: i64,
    /// Whether there are more than that.
    pub more: bool,
}

/// Who looks after an open attempt, and if nobody can, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WhyStanding")]
pub struct Standing {
    /// In a word.
    pub condition: Condition,
    /// Since when it has been out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Why it is; empty for one that is owned.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}

/// Explains where a job is.
pub fn explain(facts: &Facts) -> Why {
    match facts.job.status {
        Status::Pending => pending::explain(facts),
        Status::Running => running::explain(facts),
        Status::Completed | Status::Failed | Status::Timeout | Status::Cancelled => ended::explain(facts),
    }
}

impl Facts {
    fn why(&self, phase: Phase, since: DateTime<Utc>, summary: String, remedy: Option<String>) -> Why {
        Why {
            id: self.job.id,
            status: self.job.status,
            phase,
            since,
            summary,
            remedy,
            waiting: None,
            executor: self.job.executor,
            routing: self.routing.clone(),
            attempts: attempts::explain(&self.attempts, &self.routing),
            changes: self.changes.clone(),
        }
    }
}

/// `1 job`, `2 jobs`.
fn count(number: i64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

fn stop_words(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Cancel => "its end was asked for",
        StopReason::Timeout => "it ran longer than its timeout",
        StopReason::LaunchDeadline => "it did not start before the launch deadline",
        StopReason::Drain => "its host is drained, and it runs again elsewhere",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_226_000 + seconds, 0).expect("a time")
    }

    /// A job that was accepted at 0 and is looked at 60 s later.
    pub(super) fn facts(status: Status) -> Facts {
        let job = Job {
            id: JobId::new(),
            status,
            executor: ExecutorType::Docker,
            created_at: at(0),
            completed_at: status.is_terminal().then(|| at(50)),
            cancel_requested_at: None,
            waiting_reason: None,
            parked_until: None,
            dispatched_at: None,
            failure_class: None,
            error_message: None,
            exit_code: None,
            retry: retry::Policy::default(),
            used: retry::Used::default(),
        };
        Facts { now: at(60), job, attempts: Vec::new(), backlog: None, changes: Vec::new(), routing: Vec::new() }
    }

    /// An attempt that was claimed at 10 and has not come further.
    pub(super) fn claimed(attempt: i32) -> AttemptFacts {
        AttemptFacts {
            attempt,
            host: "rack1".to_owned(),
            claimed_at: at(10),
            prepare_began_at: None,
            prepare_ended_at: None,
            launch_sent_at: None,
            started_at: None,
            ended_at: None,
            stop_reason: None,
            exit_code: None,
            failure_class: None,
            message: None,
            retried_by: None,
            abandoned_by: None,
            standing: Some(Standing { condition: Condition::Owned, since: None, cause: String::new() }),
        }
    }

    /// The same, ended at 40 with this exit code.
    pub(super) fn exited(attempt: i32, code: i32) -> AttemptFacts {
        AttemptFacts {
            started_at: Some(at(12)),
            ended_at: Some(at(40)),
            exit_code: Some(code),
            failure_class: (code != 0).then_some(FailureClass::ExitNonzero),
            message: (code != 0).then(|| format!("the container exited with code {code}")),
            standing: None,
            ..claimed(attempt)
        }
    }

    #[test]
    fn each_status_is_explained_in_a_sentence() {
        for status in <Status as strum::VariantArray>::VARIANTS {
            let mut facts = facts(*status);
            if *status == Status::Running {
                facts.attempts = vec![claimed(1)];
            }
            let why = explain(&facts);
            assert_eq!((why.id, why.status), (facts.job.id, *status));
            assert!(!why.summary.is_empty() && !why.summary.ends_with('.'), "{why:?}");
            assert_eq!(why.waiting.is_some(), *status == Status::Pending);
        }
    }
}
