//! The one shape of an error.

use gantry_core::problem::Code;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of [`ProblemDetails`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error, by RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDetails {
    /// The kind of problem as a URI: `urn:gantry:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:gantry:problem:invalid_field")]
    pub kind: String,
    /// The kind of problem in words; the same for every problem of the kind.
    pub title: String,
    /// The HTTP status, also where the problem is about one item of an array.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong this time and what to do about it.
    pub detail: String,
    /// The kind of problem for programs: the same codes as over RabbitMQ.
    #[schema(value_type = super::schema::Code)]
    pub code: Code,
    /// The path of the field, parameter or header at fault, such as `spec.cpu_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl std::fmt::Display for ProblemDetails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.detail)?;
        match &self.field {
            Some(field) => write!(f, " (field `{field}`)"),
            None => Ok(()),
        }
    }
}
