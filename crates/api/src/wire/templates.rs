//! Container templates and environment templates.

use chrono::{DateTime, Utc};
use gantry_core::env::Environment;
use gantry_core::{ExecutorType, TemplateId, lost, retry};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schema;

/// A container template to be made, or to replace the one of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTemplate {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The image reference.
    pub image: String,
    /// The command's words; the image's own command if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The working directory, absolute; the image's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// The name of the environment template to build on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_template: Option<String>,
    /// Variables, laid over those of the environment template.
    #[serde(default, skip_serializing_if = "Environment::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub environment: Environment,
    /// CPUs, 0.01 to 9,999.99; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<f64>,
    /// Memory in MiB, from 6; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit_mb: Option<u32>,
    /// The run deadline in seconds, counted from the container's start. Default 3,600, at most a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Where it may run, in order of preference; anywhere if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<schema::ExecutorType>)]
    pub supported_executors: Vec<ExecutorType>,
    /// When to try again, as in a job's spec.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub retry: retry::Policy,
    /// What to do when its host does not come back, as in a job's spec.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub on_lost: lost::Policy,
}

/// A container template.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// The id.
    #[schema(value_type = Uuid)]
    pub id: TemplateId,
    /// The name, unique in the tenant.
    pub name: String,
    /// What jobs are made of.
    #[serde(flatten)]
    pub container: NewTemplate,
    /// Who made it: `key:` and the id of the API key.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A page of templates, by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TemplateList {
    /// The templates.
    pub templates: Vec<Template>,
    /// `after` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// An environment template to be made, or to replace the one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnvironment {
    /// The variables.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub environment: Environment,
}

/// An environment template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentTemplate {
    /// The name, unique in the tenant.
    pub name: String,
    /// The variables.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub environment: Environment,
    /// Who made it: `key:` and the id of the API key.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// A page of environment templates, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EnvironmentList {
    /// The environment templates.
    pub environments: Vec<EnvironmentTemplate>,
    /// `after` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
