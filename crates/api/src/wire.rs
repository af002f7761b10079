//! What travels over HTTP, for the API and its clients alike: every request and response body.
//!
//! A job is submitted as a [`gantry_core::spec::Submission`], the same document as over RabbitMQ. Times are
//! RFC 3339 in UTC, durations and sizes carry their unit in the field's name, money is a decimal in a string.
//! Optional fields are left out while they have no value. A client must ignore fields that it does not know.

mod bulk;
mod costs;
mod dead_letters;
mod hosts;
mod jobs;
mod limits;
mod logs;
mod lost;
mod overview;
mod problem;
mod route;
mod schedules;
pub(crate) mod schema;
mod steering;
mod templates;
mod why;

pub use bulk::{BulkChange, BulkCount, BulkList, BulkOperation, BulkReply, BulkRequest};
pub use costs::{Cost, CostList};
pub use dead_letters::{DropRequest, Letter, LetterDetail, LetterFilter, LetterList, LettersReply, ReplayRequest};
pub use hosts::{Host, HostCreated, HostList, NewHost};
pub use jobs::{Accepted, Attempt, CancelReply, CancelResult, Job, JobDetail, JobList, SubmitReply, SubmitResult};
pub use limits::{Limit, LimitList, LimitRequest};
pub use logs::{
    Cursor, Data, END_EVENT, ERROR_EVENT, InvalidCursor, LogChunk, LogEnd, LogPage, STDERR_EVENT, STDOUT_EVENT, Stream,
};
pub use lost::{AbandonReply, AbandonRequest, Abandoned, AuditEntry, AuditList, HostLostRequest, Standing};
pub use overview::{BacklogGroup, Overview, OverviewRates, Rates, RecentEnd, RunningGroup};
pub use problem::{PROBLEM_JSON, ProblemDetails};
pub use route::{BacklogCap, RouteExplanation, RoutingCandidate, RoutingDecision, RoutingVerdict};
pub use schedules::{NewSchedule, Schedule, ScheduleList, ScheduleRun, ScheduleRunList};
pub use steering::{DrainRequest, HostPatch, HostReply, Slot, SlotList};
pub use templates::{EnvironmentList, EnvironmentTemplate, NewEnvironment, NewTemplate, Template, TemplateList};
pub use why::Why;
