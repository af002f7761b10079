//! What is done to many jobs at once: which jobs, what to each, and which of them cannot have it done.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::routing::{self, Question};
use crate::state::{self, Event, Next};
use crate::{BulkId, ExecutorType, Failure, JobId, Status, WaitingReason};

/// What is done to each job.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
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
#[schemars(rename = "BulkAction")]
pub enum Action {
    /// Its end is asked for.
    Cancel,
    /// A job that has ended is submitted anew, as a job of its own: an end is final.
    Retry,
    /// A pending job gets another priority.
    Prioritise,
    /// A pending job goes to another executor type.
    Move,
}

/// Whether an operation goes on.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
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
#[schemars(rename = "BulkState")]
pub enum State {
    /// Dispatchers work it off.
    Running,
    /// Every job was looked at.
    Done,
    /// Somebody stopped it; what was changed stays changed.
    Stopped,
}

/// An action with what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Ask for its end.
    Cancel,
    /// Submit it anew.
    Retry,
    /// Give it this priority.
    Prioritise(i16),
    /// Send it to this executor type.
    Move(ExecutorType),
}

impl Deed {
    /// In a word.
    pub fn action(self) -> Action {
        match self {
            Self::Cancel => Action::Cancel,
            Self::Retry => Action::Retry,
            Self::Prioritise(_) => Action::Prioritise,
            Self::Move(_) => Action::Move,
        }
    }

    /// The statuses that are meant where a filter names none.
    pub fn statuses(self) -> &'static [Status] {
        match self {
            Self::Cancel => &[Status::Pending, Status::Running],
            Self::Retry => &[Status::Failed, Status::Timeout, Status::Cancelled],
            Self::Prioritise(_) | Self::Move(_) => &[Status::Pending],
        }
    }
}

/// Which jobs: those that meet all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "BulkFilter")]
pub struct Filter {
    /// With one of these statuses. Empty means those that the action can change: `pending` and `running` to cancel;
    /// `failed`, `timeout` and `cancelled` to retry; else `pending`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<Status>,
    /// Made from the template of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// In the project of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// With all of these labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Routed to this executor type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor_type: Option<ExecutorType>,
    /// Accepted at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<DateTime<Utc>>,
    /// Accepted before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<DateTime<Utc>>,
    /// Waiting for this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_reason: Option<WaitingReason>,
    /// With a name that begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
}

impl Filter {
    /// Whether it names nothing: every job that the action can change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What decides about one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Where it stands.
    pub status: Status,
    /// Where it was routed.
    pub executor: ExecutorType,
    /// Its priority.
    pub priority: i16,
    /// Whether it is in the window: its next attempt may begin at any moment.
    pub dispatched: bool,
    /// Whether its end was asked for.
    pub cancel_requested: bool,
    /// What its template supports; empty for anything.
    pub supported: Vec<ExecutorType>,
}

/// What is to be done to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It ends at once.
    End {
        /// The terminal status.
        status: Status,
        /// Why.
        failure: Option<Failure>,
    },
    /// Its worker is asked to stop it.
    RequestEnd,
    /// A new job is made from its spec.
    Resubmit,
    /// It gets this priority.
    Priority(i16),
    /// It goes to this executor type.
    Executor(ExecutorType),
}

/// Why a job is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Skip {
    /// It has ended before.
    HasEnded,
    /// It has not ended.
    HasNotEnded,
    /// It is not pending any more.
    NotPending,
    /// Its end was asked for before.
    AlreadyAsked,
    /// It is in the window: a worker may take it at any moment.
    IsNext,
    /// There is nothing to change.
    Unchanged,
    /// Its template does not support the executor type.
    Unsupported,
    /// No active host of the executor type takes its tenant's jobs.
    NoHost,
    /// As many jobs of its tenant wait as may.
    BacklogFull,
    /// Its spec cannot be read by this version.
    Unreadable,
}

impl Skip {
    /// The name used in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Decides about one job. `with_active_host` are the executor types that have an active host for its tenant.
pub fn decide(deed: Deed, job: &Job, with_active_host: &[ExecutorType]) -> Result<Change, Skip> {
    let waits = match (job.status, job.dispatched) {
        (Status::Pending, false) => Ok(()),
        (Status::Pending, true) => Err(Skip::IsNext),
        _ => Err(Skip::NotPending),
    };
    match deed {
        Deed::Cancel => match state::next(job.status, &Event::Cancel) {
            Ok(Next::End { status, failure }) => Ok(Change::End { status, failure }),
            Ok(_) if job.cancel_requested => Err(Skip::AlreadyAsked),
            Ok(_) => Ok(Change::RequestEnd),
            Err(_) => Err(Skip::HasEnded),
        },
        Deed::Retry if job.status.is_terminal() => Ok(Change::Resubmit),
        Deed::Retry => Err(Skip::HasNotEnded),
        Deed::Prioritise(priority) => {
            waits?;
            if job.priority == priority { Err(Skip::Unchanged) } else { Ok(Change::Priority(priority)) }
        }
        Deed::Move(executor) => {
            waits?;
            if job.executor == executor {
                return Err(Skip::Unchanged);
            }
            let question = Question { preferred: Some(executor), supported: &job.supported, with_active_host };
            let route = routing::route(&question).map_err(|_| Skip::Unsupported)?;
            if route.has_host { Ok(Change::Executor(route.executor)) } else { Err(Skip::NoHost) }
        }
    }
}

/// What an operation did to a job, as people see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "BulkChange")]
pub struct Done {
    /// The operation.
    pub operation: BulkId,
    /// What it did.
    pub action: Action,
    /// Who asked for it: `key:` and the id of the API key.
    pub actor: String,
    /// When it was done to this job.
    pub at: DateTime<Utc>,
    /// What was changed: `from` and `to`; of a retry the new job as `retried_as`, and there the old one as `retry_of`.
    pub detail: Value,
}

/// The key under which a retry submits: the same operation makes one job of each, however often it is tried.
pub fn retry_key(operation: BulkId, job: JobId) -> String {
    format!("bulk:{operation}:{job}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(status: Status) -> Job {
        let (executor, priority) = (ExecutorType::Docker, 0);
        Job { status, executor, priority, dispatched: false, cancel_requested: false, supported: Vec::new() }
    }

    #[test]
    fn each_action_changes_what_it_can_and_says_what_it_cannot() {
        use ExecutorType::{Docker, Fargate, Mock};
        let hosts = [Docker, Mock];
        let pending = || job(Status::Pending);
        let next = || Job { dispatched: true, ..pending() };
        let asked = || Job { cancel_requested: true, ..job(Status::Running) };
        let picky = || Job { supported: vec![Docker], ..pending() };
        let ended = Change::End { status: Status::Cancelled, failure: Some(Failure::cancelled()) };
        for (deed, job, decided) in [
            (Deed::Cancel, pending(), Ok(ended.clone())),
            (Deed::Cancel, next(), Ok(ended)),
            (Deed::Cancel, job(Status::Running), Ok(Change::RequestEnd)),
            (Deed::Cancel, asked(), Err(Skip::AlreadyAsked)),
            (Deed::Cancel, job(Status::Completed), Err(Skip::HasEnded)),
            (Deed::Retry, job(Status::Failed), Ok(Change::Resubmit)),
            (Deed::Retry, job(Status::Completed), Ok(Change::Resubmit)),
            (Deed::Retry, job(Status::Running), Err(Skip::HasNotEnded)),
            (Deed::Prioritise(5), pending(), Ok(Change::Priority(5))),
            (Deed::Prioritise(0), pending(), Err(Skip::Unchanged)),
            (Deed::Prioritise(5), next(), Err(Skip::IsNext)),
            (Deed::Prioritise(5), job(Status::Running), Err(Skip::NotPending)),
            (Deed::Move(Mock), pending(), Ok(Change::Executor(Mock))),
            (Deed::Move(Docker), pending(), Err(Skip::Unchanged)),
            (Deed::Move(Mock), next(), Err(Skip::IsNext)),
            (Deed::Move(Mock), job(Status::Failed), Err(Skip::NotPending)),
            (Deed::Move(Mock), picky(), Err(Skip::Unsupported)),
            (Deed::Move(Fargate), pending(), Err(Skip::NoHost)),
        ] {
            assert_eq!(decide(deed, &job, &hosts), decided, "{deed:?} of {job:?}");
        }
    }

    #[test]
    fn a_filter_without_statuses_means_those_that_can_be_changed() {
        for deed in [Deed::Cancel, Deed::Retry, Deed::Prioritise(1), Deed::Move(ExecutorType::Mock)] {
            for status in deed.statuses() {
                assert!(decide(deed, &job(*status), &[ExecutorType::Mock]).is_ok(), "{deed:?} of a {status} job");
            }
        }
        assert!(Filter::default().is_empty());
        assert!(!Filter { name_prefix: Some(String::new()), ..Filter::default() }.is_empty());
    }
}
