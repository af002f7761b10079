//! Dead letters: messages that could not be processed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// What has become of a dead letter.
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
#[schemars(rename = "LetterState")]
pub enum State {
    /// For somebody to decide about it.
    Waiting,
    /// Its replay was asked for, and is not done yet.
    Replaying,
    /// It was handed over again.
    Replayed,
    /// It is not wanted any more.
    Dropped,
}
