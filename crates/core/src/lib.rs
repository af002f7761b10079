//! What Gantry means by a job, without any I/O: ids, the spec, the state machine, failures, retries,
//! placement, routing, cost and the messages that travel between the parts.
//!
//! Everything here is a pure function or a value. Code that needs a clock, a database or a backend lives
//! in another crate and calls this one.

pub mod bulk;
pub mod capacity;
pub mod clock;
pub mod cost;
pub mod env;
pub mod executor;
pub mod failure;
pub mod fairness;
pub mod gpus;
pub mod host;
pub mod id;
pub mod letter;
pub mod limits;
pub mod lost;
pub mod message;
pub mod naming;
pub mod output;
pub mod placement;
pub mod problem;
pub mod retry;
pub mod routing;
pub mod schedule;
pub mod spec;
pub mod state;
pub mod text;
pub mod waiting;
pub mod why;

pub use executor::ExecutorType;
pub use failure::{Failure, FailureClass};
pub use id::{
    ApiKeyId, AuditId, BulkId, EventId, FleetId, HostId, JobId, LetterId, LetterRequestId, LimitId, OutboxId,
    ProjectId, ScheduleId, TemplateId, TenantId, WorkerId,
};
pub use problem::Problem;
pub use state::Status;
pub use waiting::WaitingReason;
