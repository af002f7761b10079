//! What a producer submits, and what a worker is told to run.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::env::{self, Environment};
use crate::gpus::{self, Gpus};
use crate::problem::{Code, Problem};
use crate::{ExecutorType, TenantId, lost, retry};

/// Limits on what one job may bring, so that every backend and the database can hold it.
pub mod limits {
    /// A submission, in bytes of JSON.
    pub const SUBMISSION_BYTES: usize = 256 * 1024;
    /// Jobs in one HTTP request.
    pub const JOBS_PER_REQUEST: usize = 1_000;
    /// A name, an image, a path: characters.
    pub const NAME: usize = 255;
    /// All arguments of a command together, in bytes.
    pub const COMMAND_BYTES: usize = 64 * 1024;
    /// All environment variables together, in bytes.
    pub const ENVIRONMENT_BYTES: usize = 64 * 1024;
    /// Labels of a job.
    pub const LABELS: usize = 64;
    /// The longest run deadline: a week, in seconds.
    pub const TIMEOUT_SECONDS: u32 = 7 * 24 * 3600;
    /// The longest time that `on_lost` may wait: a week, in seconds.
    pub const ON_LOST_SECONDS: u32 = 7 * 24 * 3600;
    /// The longest time in the queue: 30 days, in seconds.
    pub const QUEUE_TIMEOUT_SECONDS: u32 = 30 * 24 * 3600;
}

/// The run deadline of a job that names none, in seconds.
pub const DEFAULT_TIMEOUT_SECONDS: u32 = 3600;

/// The version of a submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SubmissionVersion {
    /// The only one so far.
    #[default]
    #[serde(rename = "1")]
    V1,
}

/// A job as a producer hands it in, over either door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Submission")]
pub struct Submission {
    /// The version of this format; `"1"` if absent.
    #[serde(default)]
    pub version: SubmissionVersion,
    /// A name for people, up to 255 characters. Default: the template's name, or the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The producer's own key for this job: the same key with the same body is the same job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The project's name; the tenant's `default` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The name of a container template. Exactly one of `template` and `spec` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The container, inline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ContainerSpec>,
    /// Where to run it; routed by template and available hosts if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_executor: Option<ExecutorType>,
    /// Replaces the template's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub override_command: Option<Vec<String>>,
    /// Laid over the template's environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub override_environment: Environment,
    /// Jobs of the tenant with the same key share a limit: one at a time, unless another limit is set for the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_key: Option<String>,
    /// -100 to 100; higher goes first.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i16,
    /// Labels: stored with the job and put on the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Not to be started before this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<DateTime<Utc>>,
    /// How long the job may wait for its first start, from when it may start, in seconds. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub queue_timeout_seconds: Option<u32>,
}

/// A container and how to run it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// The image reference.
    pub image: String,
    /// The command's words; the image's own command if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// The entrypoint's words; the image's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The working directory, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: Environment,
    /// CPUs, 0.01 to 9,999.99; unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 9999.99))]
    pub cpu_limit: Option<f64>,
    /// Memory in MiB, from 6 (Docker's own minimum); unlimited if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 6, max = 16_777_216))]
    pub memory_limit_mb: Option<u32>,
    /// The run deadline in seconds, counted from the container's start. Default 3,600, at most a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub timeout_seconds: Option<u32>,
    /// Directories of the host to see inside the container, where the host's config allows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// The name of the host's network to join; the host's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Whom it runs as, as `docker run --user`: a name or number, with `:group` if wanted; the image's own user if
    /// absent. Executors that cannot choose refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether its root file system is read-only. `/tmp` is then memory, and counts towards the memory limit.
    /// Executors that cannot do this refuse it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root: bool,
    /// GPUs: how many, or `"all"`; none if absent. Where the host's config allows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Gpus>,
    /// When to try again.
    #[serde(default)]
    pub retry: retry::Policy,
    /// What to do when its host does not come back. Default: wait.
    #[serde(default, skip_serializing_if = "lost::Policy::is_default")]
    pub on_lost: lost::Policy,
}

/// A bind mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// The absolute path on the host.
    pub source: String,
    /// The absolute path in the container.
    pub target: String,
    /// Whether the container may write there. Default: it may not.
    #[serde(default)]
    pub writable: bool,
}

/// A job as its worker runs it: template, layers and defaults resolved. Stored once, at admission.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResolvedSpec {
    /// The container; its environment is merged, its timeout set.
    #[serde(flatten)]
    pub container: ContainerSpec,
    /// The job's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The W3C trace context of the submission: one trace, from the producer's publish to the recorder's commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Whose job it is, and so whose secrets it may use. Not part of what is stored: the worker that claims the job sets
    /// it from the job's row.
    #[serde(skip)]
    pub tenant: Option<TenantId>,
}

impl ResolvedSpec {
    /// The run deadline in seconds.
    pub fn timeout_seconds(&self) -> u32 {
        self.container.timeout_seconds.unwrap_or(DEFAULT_TIMEOUT_SECONDS)
    }
}

impl Submission {
    /// Decodes one submission. Every refusal names its field.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        if bytes.len() > limits::SUBMISSION_BYTES {
            let message =
                format!("a submission has at most {} bytes, this one {}", limits::SUBMISSION_BYTES, bytes.len());
            return Err(Problem::new(Code::TooLarge, message));
        }
        let value = serde_json::from_slice(bytes)
            .map_err(|error| Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}")))?;
        Self::from_value(value)
    }

    /// [`Submission::decode`] for JSON that was parsed before.
    pub fn from_value(value: serde_json::Value) -> Result<Self, Problem> {
        if !value.is_object() {
            return Err(Problem::new(Code::InvalidField, "a submission is a JSON object"));
        }
        let version = value.get("version").unwrap_or(&serde_json::Value::Null);
        if !version.is_null() && version != "1" {
            let message = format!("version {version} is not known here; this Gantry reads version \"1\"");
            return Err(Problem::field(Code::UnsupportedVersion, "version", message));
        }
        let submission: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let message = error.inner().to_string();
            if path == "." {
                Problem::new(Code::InvalidField, message)
            } else {
                Problem::field(Code::InvalidField, path, message)
            }
        })?;
        submission.validate()?;
        Ok(submission)
    }

    /// Checks what the types do not say.
    pub fn validate(&self) -> Result<(), Problem> {
        let invalid = |field: &str, message: String| Err(Problem::field(Code::InvalidField, field, message));
        match (&self.template, &self.spec) {
            (None, None) => return invalid("spec", "name a `template` or give a `spec`".into()),
            (Some(_), Some(_)) => return invalid("template", "give either `template` or `spec`, not both".into()),
            (Some(template), None) => check_text("template", template, limits::NAME)?,
            (None, Some(spec)) => spec.validate("spec.")?,
        }
        for (field, text) in [
            ("name", &self.name),
            ("idempotency_key", &self.idempotency_key),
            ("project", &self.project),
            ("concurrency_key", &self.concurrency_key),
        ] {
            if let Some(text) = text {
                check_text(field, text, limits::NAME)?;
            }
        }
        if let Some(command) = &self.override_command {
            check_words("override_command", command)?;
        }
        check_environment("override_environment", &self.override_environment)?;
        if !(-100..=100).contains(&self.priority) {
            return invalid("priority", format!("a priority is -100 to 100, not {}", self.priority));
        }
        if self.labels.len() > limits::LABELS {
            return invalid("labels", format!("a job has at most {} labels", limits::LABELS));
        }
        for (key, value) in &self.labels {
            check_text("labels", key, limits::NAME)?;
            check_no_nul(&format!("labels.{key}"), value)?;
            if value.len() > 4 * limits::NAME {
                return invalid(&format!("labels.{key}"), format!("a label has at most {} bytes", 4 * limits::NAME));
            }
        }
        match self.queue_timeout_seconds {
            Some(seconds) if !(1..=limits::QUEUE_TIMEOUT_SECONDS).contains(&seconds) => {
                invalid("queue_timeout_seconds", format!("must be 1 to {}", limits::QUEUE_TIMEOUT_SECONDS))
            }
            _ => Ok(()),
        }
    }
}

impl ContainerSpec {
    /// An image as it is, with every default.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            command: None,
            entrypoint: None,
            working_dir: None,
            environment: Environment::new(),
            cpu_limit: None,
            memory_limit_mb: None,
            timeout_seconds: None,
            mounts: Vec::new(),
            network: None,
            user: None,
            read_only_root: false,
            gpus: None,
            retry: retry::Policy::default(),
            on_lost: lost::Policy::default(),
        }
    }

    /// Checks what the types do not say; `prefix` leads the field names of the refusals.
    pub fn validate(&self, prefix: &str) -> Result<(), Problem> {
        let name = |field: &str| format!("{prefix}{field}");
        let invalid = |field: &str, message: String| Err(Problem::field(Code::InvalidField, name(field), message));
        check_text(&name("image"), &self.image, limits::NAME)?;
        if self.image.chars().any(char::is_whitespace) {
            return invalid("image", format!("{:?} is not an image reference: it contains white space", self.image));
        }
        for (field, words) in [("command", &self.command), ("entrypoint", &self.entrypoint)] {
            if let Some(words) = words {
                check_words(&name(field), words)?;
            }
        }
        if let Some(dir) = &self.working_dir {
            check_path(&name("working_dir"), dir)?;
        }
        check_environment(&name("environment"), &self.environment)?;
        match self.cpu_limit {
            Some(cpus) if !(0.01..=9999.99).contains(&cpus) => {
                return invalid("cpu_limit", format!("a cpu limit is 0.01 to 9999.99 CPUs, not {cpus}"));
            }
            _ => {}
        }
        match self.memory_limit_mb {
            Some(mb) if !(6..=16_777_216).contains(&mb) => {
                return invalid("memory_limit_mb", format!("a memory limit is 6 to 16777216 MiB, not {mb}"));
            }
            _ => {}
        }
        match self.timeout_seconds {
            Some(seconds) if !(1..=limits::TIMEOUT_SECONDS).contains(&seconds) => {
                return invalid(
                    "timeout_seconds",
                    format!("a timeout is 1 to {} seconds, not {seconds}", limits::TIMEOUT_SECONDS),
                );
            }
            _ => {}
        }
        for (index, mount) in self.mounts.iter().enumerate() {
            check_path(&name(&format!("mounts[{index}].source")), &mount.source)?;
            check_path(&name(&format!("mounts[{index}].target")), &mount.target)?;
        }
        if let Some(network) = &self.network {
            check_text(&name("network"), network, limits::NAME)?;
        }
        if let Some(user) = &self.user
            && !is_user(user)
        {
            let message = format!("{user:?} is not a user: it is a name or number, with `:group` if wanted");
            return invalid("user", message);
        }
        match self.gpus {
            Some(Gpus::Count(count)) if !(1..=gpus::MOST).contains(&count) => {
                return invalid("gpus", format!("must be 1 to {}, or \"all\", not {count}", gpus::MOST));
            }
            _ => {}
        }
        if !(10..=limits::ON_LOST_SECONDS).contains(&self.on_lost.after_seconds) {
            let (most, given) = (limits::ON_LOST_SECONDS, self.on_lost.after_seconds);
            return invalid("on_lost.after_seconds", format!("must be 10 to {most}, not {given}"));
        }
        self.retry.validate(&name("retry."))
    }
}

impl retry::Policy {
    fn validate(&self, prefix: &str) -> Result<(), Problem> {
        let checks = [
            ("max_attempts", self.max_attempts, 1, 100),
            ("backoff_seconds", self.backoff_seconds, 0, 86_400),
            ("max_backoff_seconds", self.max_backoff_seconds, 1, 86_400),
        ];
        for (field, value, min, max) in checks {
            if !(min..=max).contains(&value) {
                return Err(Problem::field(
                    Code::InvalidField,
                    format!("{prefix}{field}"),
                    format!("must be {min} to {max}, not {value}"),
                ));
            }
        }
        Ok(())
    }
}

fn check_no_nul(field: &str, text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::field(Code::InvalidField, field, "text cannot contain NUL"));
    }
    Ok(())
}

fn check_text(field: &str, text: &str, max: usize) -> Result<(), Problem> {
    check_no_nul(field, text)?;
    match text.chars().count() {
        0 => Err(Problem::field(Code::InvalidField, field, "must not be empty")),
        n if n > max => {
            Err(Problem::field(Code::InvalidField, field, format!("has at most {max} characters, not {n}")))
        }
        _ => Ok(()),
    }
}

/// `user` or `user:group`, each a name or a number.
fn is_user(text: &str) -> bool {
    let word = |word: &str| {
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        (1..=32).contains(&word.len()) && !word.starts_with('-') && word.bytes().all(rest)
    };
    match text.split_once(':') {
        Some((user, group)) => word(user) && word(group),
        None => word(text),
    }
}

fn check_path(field: &str, path: &str) -> Result<(), Problem> {
    check_text(field, path, 4096)?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(Problem::field(
            Code::InvalidField,
            field,
            format!("{path:?} is not an absolute path without `..`"),
        ));
    }
    Ok(())
}

fn check_words(field: &str, words: &[String]) -> Result<(), Problem> {
    for (index, word) in words.iter().enumerate() {
        check_no_nul(&format!("{field}[{index}]"), word)?;
    }
    let size: usize = words.iter().map(|word| word.len() + 1).sum();
    if size > limits::COMMAND_BYTES {
        let message = format!("a command has at most {} bytes, this one {size}", limits::COMMAND_BYTES);
        return Err(Problem::field(Code::TooLarge, field, message));
    }
    Ok(())
}

/// Checks names, values and size of a set of variables.
pub fn check_environment(field: &str, variables: &Environment) -> Result<(), Problem> {
    for (key, value) in variables {
        env::check_key(key)
            .map_err(|(_, reason)| Problem::field(Code::InvalidField, format!("{field}.{key}"), reason))?;
        check_no_nul(&format!("{field}.{key}"), value)?;
    }
    let size = env::size(variables);
    if size > limits::ENVIRONMENT_BYTES {
        let message = format!("an environment has at most {} bytes, this one {size}", limits::ENVIRONMENT_BYTES);
        return Err(Problem::field(Code::TooLarge, field, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn problem(value: Value) -> (Code, Option<String>) {
        let problem = Submission::from_value(value).expect_err("must be refused");
        (problem.code, problem.field)
    }

    fn at(field: &str) -> (Code, Option<String>) {
        (Code::InvalidField, Some(field.to_owned()))
    }

    #[test]
    fn the_smallest_submission() {
        let submission = Submission::decode(br#"{"spec": {"image": "busybox"}}"#).expect("valid");
        assert_eq!(submission.spec.expect("inline").retry.max_attempts, 1);
    }

    #[test]
    fn every_refusal_names_its_field() {
        assert_eq!(problem(json!({})), at("spec"));
        assert_eq!(problem(json!({"template": "t", "spec": {"image": "i"}})), at("template"));
        assert_eq!(problem(json!({"spec": {"image": ""}})), at("spec.image"));
        assert_eq!(problem(json!({"spec": {"image": "a b"}})), at("spec.image"));
        assert_eq!(problem(json!({"spec": {"image": 1}})), at("spec.image"));
        assert_eq!(problem(json!({"spec": {"image": "i", "imagee": 1}})), at("spec.imagee"));
        assert_eq!(problem(json!({"spec": {"image": "i", "cpu_limit": 0}})), at("spec.cpu_limit"));
        assert_eq!(problem(json!({"spec": {"image": "i", "timeout_seconds": 0}})), at("spec.timeout_seconds"));
        assert_eq!(problem(json!({"spec": {"image": "i", "command": ["a", "b\u{0}"]}})), at("spec.command[1]"));
        assert_eq!(problem(json!({"spec": {"image": "i", "environment": {"1A": "x"}}})), at("spec.environment.1A"));
        assert_eq!(
            problem(json!({"spec": {"image": "i", "environment": {"GANTRY_X": "x"}}})),
            at("spec.environment.GANTRY_X")
        );
        assert_eq!(
            problem(json!({"spec": {"image": "i", "mounts": [{"source": "etc", "target": "/x"}]}})),
            at("spec.mounts[0].source")
        );
        assert_eq!(
            problem(json!({"spec": {"image": "i", "retry": {"max_attempts": 0}}})),
            at("spec.retry.max_attempts")
        );
        for user in ["", "-x", "a b", "1:", ":1", "1:2:3"] {
            assert_eq!(problem(json!({"spec": {"image": "i", "user": user}})), at("spec.user"), "{user:?}");
        }
        for gpus in [json!(0), json!(65), json!("some")] {
            assert_eq!(problem(json!({"spec": {"image": "i", "gpus": gpus}})), at("spec.gpus"), "{gpus}");
        }
        let on_lost = |policy: Value| problem(json!({"spec": {"image": "i", "on_lost": policy}}));
        assert_eq!(on_lost(json!({"action": "retry", "after_seconds": 9})), at("spec.on_lost.after_seconds"));
        assert_eq!(on_lost(json!({"action": "hope"})), at("spec.on_lost.action"));
        assert_eq!(problem(json!({"spec": {"image": "i"}, "priority": 101})), at("priority"));
        assert_eq!(problem(json!({"spec": {"image": "i"}, "preferred_executor": "lambda"})), at("preferred_executor"));
        assert_eq!(problem(json!({"spec": {"image": "i"}, "name": "n\u{0}"})), at("name"));
        assert_eq!(problem(json!({"version": "2"})), (Code::UnsupportedVersion, Some("version".into())));
        assert_eq!(problem(json!([])), (Code::InvalidField, None));
    }

    #[test]
    fn sizes_are_limited() {
        let command = json!({"spec": {"image": "i", "command": ["x".repeat(limits::COMMAND_BYTES)]}});
        assert_eq!(problem(command), (Code::TooLarge, Some("spec.command".into())));
        let environment = json!({"spec": {"image": "i", "environment": {"A": "x".repeat(limits::ENVIRONMENT_BYTES)}}});
        assert_eq!(problem(environment), (Code::TooLarge, Some("spec.environment".into())));
        let body = vec![b' '; limits::SUBMISSION_BYTES + 1];
        assert_eq!(Submission::decode(&body).expect_err("too large").code, Code::TooLarge);
        assert_eq!(Submission::decode(b"{").expect_err("broken").code, Code::InvalidJson);
    }
}
