//! Executor hosts.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::{ExecutorType, HostId};

/// What an operator allows on a host.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum State {
    /// New jobs are placed here.
    Active,
    /// No new jobs; the running ones go on.
    Cordoned,
    /// No new jobs, until it is empty.
    Draining,
    /// It does not come back: no new jobs, and the attempts there are given up.
    Lost,
}

/// A host as an executor needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// The id.
    pub id: HostId,
    /// The name, unique per owner.
    pub name: String,
    /// The kind of backend.
    pub executor_type: ExecutorType,
    /// How to reach it; its shape is the executor's own.
    pub connection_config: serde_json::Value,
    /// How to run things there; its shape is the executor's own.
    pub executor_config: serde_json::Value,
}
