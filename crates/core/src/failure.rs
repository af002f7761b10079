//! Why an attempt failed: one closed set for every backend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// The class of a failure. What it means for retries is decided in [`FailureClass::disposition`] alone.
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
pub enum FailureClass {
    /// The container ran and ended with another exit code than 0.
    ExitNonzero,
    /// The kernel killed it at its memory limit.
    OomKilled,
    /// It ran, or waited, too long.
    Timeout,
    /// Somebody asked for its end.
    Cancelled,
    /// The registry does not know the image.
    ImageNotFound,
    /// The registry refuses to give it.
    ImagePullDenied,
    /// The backend says that the spec can never run.
    InvalidSpec,
    /// The backend refused to start it.
    LaunchRejected,
    /// The place has no room.
    NoCapacity,
    /// The backend asked us to slow down.
    Throttled,
    /// The place could not be reached.
    HostUnreachable,
    /// Launched, and then nowhere to be found.
    Lost,
    /// The backend failed in another way.
    BackendError,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The job's own doing: the user's retry policy decides.
    Job,
    /// The place's or Gantry's: the infrastructure budget decides.
    Infrastructure,
    /// The same again would fail the same: never retried.
    Permanent,
}

impl FailureClass {
    /// Whose fault it is.
    pub fn disposition(self) -> Disposition {
        match self {
            Self::ExitNonzero | Self::OomKilled => Disposition::Job,
            Self::NoCapacity | Self::Throttled | Self::HostUnreachable | Self::Lost | Self::BackendError => {
                Disposition::Infrastructure
            }
            Self::Timeout
            | Self::Cancelled
            | Self::ImageNotFound
            | Self::ImagePullDenied
            | Self::InvalidSpec
            | Self::LaunchRejected => Disposition::Permanent,
        }
    }

    /// Whether the job had no part in it.
    pub fn is_infrastructure(self) -> bool {
        self.disposition() == Disposition::Infrastructure
    }

    /// The name used in messages and in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A failure as it is stored and reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{class}: {message}")]
pub struct Failure {
    /// The class.
    pub class: FailureClass,
    /// What happened, for a person.
    pub message: String,
    /// The container's exit code, where there was one. A failure of the infrastructure has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl Failure {
    /// A failure without an exit code.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), exit_code: None }
    }

    /// The failure of a cancelled job.
    pub fn cancelled() -> Self {
        Self::new(FailureClass::Cancelled, "the job was cancelled")
    }
}
