//! The closed set of places a job can run in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// A kind of backend. The order is the order of preference when neither job nor template names one.
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
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
// Other crates get on with one that they have not heard of.
#[non_exhaustive]
pub enum ExecutorType {
    /// A Docker Engine, by socket or TCP.
    Docker,
    /// Google Cloud Run Jobs.
    Cloudrun,
    /// AWS ECS, Fargate or EC2.
    Fargate,
    /// Scaleway Serverless Jobs.
    Scaleway,
    /// Containers that are only simulated: for load and for producers' own tests.
    Mock,
}

impl ExecutorType {
    /// Every executor type, in order of preference.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// The name used in messages, in the database and in queue names.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Whether a job that names no executor may be sent here. A simulated container is never a surprise.
    pub fn is_default_choice(self) -> bool {
        // Without a wildcard: whoever adds a kind decides.
        match self {
            Self::Docker | Self::Cloudrun | Self::Fargate | Self::Scaleway => true,
            Self::Mock => false,
        }
    }
}
