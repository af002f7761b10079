//! Identifiers: a newtype each over UUIDv7, so that a tenant's id cannot be passed where a job's is meant.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id; ids made later sort later (UUIDv7).
            #[expect(clippy::new_without_default, reason = "every call makes another id, which Default would hide")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID, for the database's and the wire's sake.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    )+};
}

ids! {
    /// A job, from its admission on.
    JobId,
    /// Who owns jobs, templates and keys.
    TenantId,
    /// A group of jobs inside a tenant.
    ProjectId,
    /// A place that runs containers.
    HostId,
    /// One run of a worker process; a restarted worker has another.
    WorkerId,
    /// A container template.
    TemplateId,
    /// A limit on running jobs.
    LimitId,
    /// A public event.
    EventId,
    /// A row of the outbox: the events of one transaction.
    OutboxId,
    /// An API key (not its secret).
    ApiKeyId,
    /// An entry of the audit log.
    AuditId,
    /// A dead letter.
    LetterId,
    /// A request about many dead letters: the subject of its entry in the audit log.
    LetterRequestId,
    /// A schedule.
    ScheduleId,
    /// An operation on many jobs.
    BulkId,
    /// The fleet: one per database.
    FleetId,
}
