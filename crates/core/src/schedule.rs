//! Schedules: the calendar that says when one is due, and what becomes of due times that come late or at once.
//!
//! Everything is computed from a time that the caller passes in, which is the database's: dispatchers whose own clocks
//! disagree still agree about what is due.

mod calendar;
mod plan;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

pub use calendar::Calendar;
pub use plan::{ON_TIME, Plan, Skipped, plan};

/// What becomes of due times that nobody looked at within [`ON_TIME`], because the fleet was down.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
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
pub enum Missed {
    /// No job.
    Skip,
    /// One job for all of them together: the one of the latest due time.
    #[default]
    One,
    /// A job for each, oldest first.
    All,
}

/// What becomes of a due time while a job of the same schedule is pending or running.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
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
pub enum Overlap {
    /// A job beside the other one.
    #[default]
    Allow,
    /// No job.
    Skip,
    /// A job after the other one has ended.
    Queue,
}

/// What became of a due time.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, Display, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// It made a job.
    Submitted,
    /// It came too late, and the policy for missed due times makes no job of it.
    SkippedMissed,
    /// A job of the schedule was open, and the policy for overlap makes no job of it.
    SkippedOverlap,
    /// It waits for an open job of the schedule to end.
    QueuedOverlap,
    /// The submission was refused.
    Refused,
}
