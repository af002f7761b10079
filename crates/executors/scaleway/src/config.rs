//! The two JSON objects of a host's row that are this executor's own.

use std::time::Duration;

use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `executor_hosts.connection_config`: which region of which project, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The region, such as `fr-par`.
    pub region: String,
    /// The project's id, a UUID.
    pub project: String,
    /// The name of the secret that is the secret part of an API key.
    pub credentials: String,
    /// Where the API is. Default: `https://api.scaleway.com`.
    #[serde(default = "api_url")]
    pub api_url: String,
    /// Where the logs are. Without it jobs run, and their logs stay in Cockpit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<Logs>,
    /// Within how many milliseconds the API shows a run that it has taken. Until then nothing is called absent.
    /// Default: 60,000.
    #[serde(default = "visible_within_millis")]
    pub visible_within_millis: u64,
}

/// Where and how logs are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// The URL of Cockpit's data source for the logs of Scaleway's own products, without a path.
    pub url: String,
    /// The name of the secret that is a token of Cockpit. Default: the API key's secret part is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// The header that carries the token. Default: `x-token`.
    #[serde(default)]
    pub header: TokenHeader,
    /// The LogQL query for one run; `{definition}` is the definition's name and `{run}` the run's id. The default is
    /// in this crate's documentation.
    #[serde(default = "query")]
    pub query: String,
    /// How many milliseconds late a line may be. Default: 5,000, at most 15,000.
    #[serde(default = "settle_millis")]
    pub settle_millis: u64,
}

/// How Cockpit is told who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenHeader {
    /// `X-Token`, for a token of Cockpit.
    #[default]
    XToken,
    /// `X-Auth-Token`, for the secret key of an API key.
    XAuthToken,
    /// `Authorization: Bearer`.
    Bearer,
}

/// `executor_hosts.executor_config`: what jobs get that ask for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The CPU of a job that names no limit at all, in thousandths of a vCPU. Default: 1,120, as the service's own. One
    /// that names memory alone gets the CPU that comes with it.
    pub cpu_limit: u32,
    /// The memory of a job that names no limit of it, in MiB. Default: 2,048, as the service's own.
    pub memory_limit: u32,
    /// The local storage of every job, in MiB, up to 10,000. Default: 1,000.
    pub local_storage_capacity: u32,
}

/// The most local storage of a run, in MiB (the service's own limit).
const MOST_STORAGE: u32 = 10_000;
/// The longest that lines may be waited for: a read of the log has 20 s.
const MOST_SETTLE: u64 = 15_000;

fn api_url() -> String {
    "https://api.scaleway.com".to_owned()
}

fn visible_within_millis() -> u64 {
    60_000
}

fn settle_millis() -> u64 {
    5_000
}

fn query() -> String {
    r#"{resource_type="serverless_job",job_definition_name="{definition}"} | resource_id="{run}" or resource_instance=~".*{run}.*""#
        .to_owned()
}

impl Default for Options {
    fn default() -> Self {
        Self { cpu_limit: 1_120, memory_limit: 2_048, local_storage_capacity: 1_000 }
    }
}

impl Connection {
    /// Reads a host's connection config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        Self::deserialize(&host.connection_config)
            .map_err(|error| error.to_string())
            .and_then(|connection| connection.check().map(|()| connection))
            .map_err(|message| misconfigured(host, "connection_config", &message))
    }

    fn check(&self) -> Result<(), String> {
        let plain = |text: &str, more: &str| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
            !text.is_empty() && text.chars().all(allowed)
        };
        if !plain(&self.region, "-") {
            return Err(format!("region: {:?} is not a region such as fr-par", self.region));
        }
        if !plain(&self.project, "-") {
            return Err(format!("project: {:?} is not the id of a project", self.project));
        }
        check_url("api_url", &self.api_url)?;
        let Some(logs) = &self.logs else { return Ok(()) };
        check_url("logs.url", &logs.url)?;
        if !logs.query.contains("{run}") {
            return Err("logs.query: without {run} it would give the lines of every run".to_owned());
        }
        if logs.settle_millis > MOST_SETTLE {
            return Err(format!("logs.settle_millis: at most {MOST_SETTLE}, not {}", logs.settle_millis));
        }
        Ok(())
    }

    pub(crate) fn visible_within(&self) -> Duration {
        Duration::from_millis(self.visible_within_millis)
    }
}

impl Logs {
    pub(crate) fn settle(&self) -> Duration {
        Duration::from_millis(self.settle_millis)
    }
}

impl Options {
    /// Reads a host's executor config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        if matches!(host.executor_config, Value::Null) {
            return Ok(Self::default());
        }
        let options = Self::deserialize(&host.executor_config)
            .map_err(|error| misconfigured(host, "executor_config", &error.to_string()))?;
        if options.local_storage_capacity > MOST_STORAGE {
            let message = format!("local_storage_capacity: at most {MOST_STORAGE} MiB");
            return Err(misconfigured(host, "executor_config", &message));
        }
        Ok(options)
    }
}

fn check_url(key: &str, url: &str) -> Result<(), String> {
    match url.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() && !rest.ends_with('/') => Ok(()),
        _ => Err(format!("{key}: {url:?} is not https://host without a slash at its end")),
    }
}

fn misconfigured(host: &Host, column: &str, message: &str) -> Failure {
    Failure::new(FailureClass::BackendError, format!("host {}: {column}: {message}", host.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{ExecutorType, HostId};
    use serde_json::json;

    fn host(connection: Value, executor: Value) -> Host {
        Host {
            id: HostId::new(),
            name: "h".into(),
            executor_type: ExecutorType::Scaleway,
            connection_config: connection,
            executor_config: executor,
        }
    }

    #[test]
    fn mistakes_are_named_by_their_key() {
        let refused = |connection: Value| Connection::of(&host(connection, Value::Null)).expect_err("refused").message;
        let least =
            Connection::of(&host(json!({"region": "fr-par", "project": "p", "credentials": "main"}), Value::Null));
        assert_eq!(least.expect("the least").api_url, "https://api.scaleway.com");
        for (key, wrong) in [
            ("region", json!("FR PAR")),
            ("project", json!("../x")),
            ("credentials", json!(1)),
            ("secret_key", json!("x")),
            ("api_url", json!("https://x/")),
            ("logs.query", json!({"url": "https://x", "query": "{}"})),
            ("logs.settle_millis", json!({"url": "https://x", "settle_millis": 20_000})),
        ] {
            let mut connection = json!({"region": "fr-par", "project": "p", "credentials": "main"});
            connection[key.split('.').next().unwrap_or(key)] = wrong;
            let message = refused(connection);
            assert!(key == "credentials" || message.contains(key), "{key}: {message}");
        }
    }

    #[test]
    fn options_have_the_services_defaults() {
        assert_eq!(Options::of(&host(Value::Null, json!({}))).expect("the default"), Options::default());
        let error = Options::of(&host(Value::Null, json!({"local_storage_capacity": 20_000}))).expect_err("too much");
        assert_eq!(error.class, FailureClass::BackendError);
    }
}
