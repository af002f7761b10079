//! What is wrong with an input, in a form that a program and a person can both use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};

/// The machine-readable reason for a refusal.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Display, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// A field is unknown, missing or of the wrong type.
    InvalidField,
    /// The message names a version that this Gantry does not read.
    UnsupportedVersion,
    /// The message is larger than the limit.
    TooLarge,
    /// No API key, or one that is unknown or revoked.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// The job, host or template does not exist, or belongs to another tenant.
    NotFound,
    /// The path exists, but not for this HTTP method.
    MethodNotAllowed,
    /// Neither an `idempotency_key` nor a `message_id`: redelivery could run the job twice.
    MissingIdempotencyKey,
    /// The same idempotency key came with a different job.
    IdempotencyConflict,
    /// The template does not exist in this tenant.
    UnknownTemplate,
    /// The project does not exist in this tenant.
    UnknownProject,
    /// The executor cannot run this job.
    UnsupportedExecutor,
    /// An environment text has a line that is not `KEY=value`.
    InvalidEnvironment,
    /// The name is taken, or the job has ended before.
    Conflict,
    /// The host answers: what runs there can be stopped, and need not be given up.
    HostReachable,
    /// What was asked for gives a promise up and must be confirmed.
    ConfirmationRequired,
    /// The log is not kept any more: its time was over.
    LogsExpired,
    /// As many jobs of the tenant wait as may.
    BacklogFull,
    /// Gantry cannot take the request now; the same request may be sent again.
    Unavailable,
    /// A fault of Gantry's own.
    Internal,
}

/// One refusal: what, where and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}{}", .field.as_ref().map(|f| format!(" (field `{f}`)")).unwrap_or_default())]
pub struct Problem {
    /// The reason, for programs.
    pub code: Code,
    /// The reason and the remedy, for people.
    pub message: String,
    /// The path of the field at fault, such as `spec.cpu_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    /// A refusal of the whole input.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None }
    }

    /// A refusal because of one field.
    pub fn field(code: Code, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: Some(field.into()) }
    }
}
