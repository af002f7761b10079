//! The two JSON objects of a host's row that are this executor's own.

use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `executor_hosts.connection_config`: which region of which project, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The project's id, such as `my-project`.
    pub project: String,
    /// The region, such as `europe-west1`.
    pub region: String,
    /// The worker's secret that is a service account's key, in JSON.
    /// Default: the application default credentials, which on Google's own
    /// machines are the machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Another address of Cloud Run's API, such as `https://europe-west1-run.googleapis.com`. Default: Google's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Another address of Cloud Logging's API. Default: Google's; that of `endpoint` if `anonymous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging_endpoint: Option<String>,
    /// Sends no credentials at all. For doubles only, and refused without an `endpoint`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
}

/// `executor_hosts.executor_config`: what containers get there. An empty object is the project's defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The service account that containers run as, by its e-mail address. Default: the project's.
    pub service_account: Option<String>,
    /// The sandbox that containers run in. Default: Cloud Run's own choice.
    pub execution_environment: Option<ExecutionEnvironment>,
    /// The network that containers reach. Default: none but the internet.
    pub vpc: Option<Vpc>,
    /// Put before images that name no registry: `europe-docker.pkg.dev/my-project/images` makes of `tool:1`
    /// `europe-docker.pkg.dev/my-project/images/tool:1`. Default: such images are Docker Hub's.
    pub image_registry: Option<String>,
    /// How many Jobs the region may have at once, whoever made them: the project's quota there. With so many of them the
    /// host has no room. At least 1. Default: 1,000, which Google grants a new project.
    pub jobs_quota: u32,
    /// How long Cloud Logging may take to show a line, in seconds. A running container's log is read up to so
    /// long ago, and an ended one's is complete so long after its end was seen. At most 15. Default: 5.
    pub log_delay_seconds: u32,
    /// How often Cloud Logging is asked in a minute, by this worker, for this host. A project may ask 60 times a minute
    /// unless its quota was raised: with several workers, hosts or readers on one project, share it. Default: 50.
    pub log_reads_per_minute: u32,
}

/// A generation of Cloud Run's sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutionEnvironment {
    /// The first.
    Gen1,
    /// The second.
    Gen2,
}

/// A way into a network: a connector, or an interface of its own in `network` or `subnetwork`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vpc {
    /// `projects/P/locations/R/connectors/C`.
    pub connector: Option<String>,
    /// The network's name.
    pub network: Option<String>,
    /// The subnetwork's name.
    pub subnetwork: Option<String>,
    /// Network tags of the interface.
    pub tags: Vec<String>,
    /// What goes this way. Default: Cloud Run's own, private addresses only.
    pub egress: Option<Egress>,
}

/// Which traffic goes into the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// All.
    AllTraffic,
    /// What goes to private addresses.
    PrivateRangesOnly,
}

/// The longest that a log may be waited for: a read of it has 20 seconds.
const LOG_DELAY_MAX: u32 = 15;

impl Default for Options {
    fn default() -> Self {
        Self {
            service_account: None,
            execution_environment: None,
            vpc: None,
            image_registry: None,
            jobs_quota: 1_000,
            log_delay_seconds: 5,
            log_reads_per_minute: 50,
        }
    }
}

impl Connection {
    /// Reads a host's connection config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        let connection = Self::deserialize(&host.connection_config).map_err(|error| error.to_string());
        connection
            .and_then(|connection| connection.check().map(|()| connection))
            .map_err(|error| misconfigured(host, "connection_config", &error))
    }

    fn check(&self) -> Result<(), String> {
        for (key, text) in [("project", &self.project), ("region", &self.region)] {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
            if text.is_empty() || !text.chars().all(plain) {
                return Err(format!("{key} {text:?} is not the id of one"));
            }
        }
        for (key, url) in [("endpoint", &self.endpoint), ("logging_endpoint", &self.logging_endpoint)] {
            match url {
                Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                    return Err(format!("{key} {url:?} is not a URL"));
                }
                // A bearer token would cross the network in plain text.
                Some(url) if url.starts_with("http://") && !self.anonymous => {
                    return Err(format!("{key} {url:?} is not https, and only an `anonymous` host may go without"));
                }
                _ => {}
            }
        }
        if self.anonymous && self.endpoint.is_none() {
            return Err("`anonymous` is for doubles: name its `endpoint`".into());
        }
        if self.anonymous && self.credentials.is_some() {
            return Err("`credentials` and `anonymous` contradict each other".into());
        }
        Ok(())
    }

    /// `projects/P/locations/R`.
    pub(crate) fn parent(&self) -> String {
        format!("projects/{}/locations/{}", self.project, self.region)
    }

    /// The full name of a Job.
    pub(crate) fn job(&self, id: &str) -> String {
        format!("{}/jobs/{id}", self.parent())
    }
}

impl Options {
    /// Reads a host's executor config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        if matches!(host.executor_config, Value::Null) {
            return Ok(Self::default());
        }
        let options = Self::deserialize(&host.executor_config).map_err(|error| error.to_string());
        options
            .and_then(|options| options.check().map(|()| options))
            .map_err(|error| misconfigured(host, "executor_config", &error))
    }

    fn check(&self) -> Result<(), String> {
        if self.jobs_quota == 0 {
            return Err("jobs_quota is at least 1; a host that is to get no jobs is drained or disabled".into());
        }
        if self.log_delay_seconds > LOG_DELAY_MAX {
            return Err(format!("log_delay_seconds is at most {LOG_DELAY_MAX}, not {}", self.log_delay_seconds));
        }
        if self.log_reads_per_minute == 0 {
            return Err("log_reads_per_minute is at least 1".into());
        }
        if self.image_registry.as_ref().is_some_and(|registry| registry.is_empty() || registry.ends_with('/')) {
            return Err("image_registry is a registry and a path, without a slash at its end".into());
        }
        match &self.vpc {
            Some(Vpc { connector: Some(_), network, subnetwork, tags, .. })
                if network.is_some() || subnetwork.is_some() || !tags.is_empty() =>
            {
                Err("vpc: name a `connector`, or `network`, `subnetwork` and `tags`, not both".into())
            }
            Some(Vpc { connector: None, network: None, subnetwork: None, .. }) => {
                Err("vpc: name a `connector`, a `network` or a `subnetwork`".into())
            }
            _ => Ok(()),
        }
    }
}

fn misconfigured(host: &Host, object: &str, error: &str) -> Failure {
    Failure::new(FailureClass::BackendError, format!("host {}: {object}: {error}", host.name))
}

#[cfg(test)]
mod tests {
    use gantry_core::{ExecutorType, HostId};
    use serde_json::json;

    use super::*;

    fn host(connection_config: Value, executor_config: Value) -> Host {
        let (id, name) = (HostId::new(), "europe".into());
        Host { id, name, executor_type: ExecutorType::Cloudrun, connection_config, executor_config }
    }

    #[test]
    fn a_connection_names_a_region() {
        let least = json!({ "project": "my-project", "region": "europe-west1" });
        let connection = Connection::of(&host(least, json!({}))).expect("valid");
        assert_eq!(connection.job("j"), "projects/my-project/locations/europe-west1/jobs/j");
    }

    #[test]
    fn a_mistake_in_a_connection_is_named() {
        for (given, named) in [
            (json!({ "project": "p" }), "region"),
            (json!({ "project": "p/q", "region": "r" }), "project"),
            (json!({ "project": "p", "region": "r", "zone": "a" }), "zone"),
            (json!({ "project": "p", "region": "r", "anonymous": true }), "endpoint"),
            (json!({ "project": "p", "region": "r", "endpoint": "localhost" }), "endpoint"),
            (json!({ "project": "p", "region": "r", "endpoint": "http://127.0.0.1:1" }), "https"),
            (
                json!({ "project": "p", "region": "r", "endpoint": "http://h", "anonymous": true, "credentials": "c" }),
                "credentials",
            ),
        ] {
            let failure = Connection::of(&host(given, json!({}))).expect_err("a mistake");
            assert_eq!(failure.class, FailureClass::BackendError);
            assert!(failure.message.contains(named) && failure.message.contains("europe"), "{failure}");
        }
    }

    #[test]
    fn a_mistake_in_the_options_is_named() {
        for (given, named) in [
            (json!({ "jobs_quota": 0 }), "jobs_quota"),
            (json!({ "log_delay_seconds": 16 }), "log_delay_seconds"),
            (json!({ "log_reads_per_minute": 0 }), "log_reads_per_minute"),
            (json!({ "image_registry": "a/" }), "image_registry"),
            (json!({ "vpc": {} }), "vpc"),
            (json!({ "vpc": { "connector": "c", "network": "n" } }), "vpc"),
            (json!({ "execution_environment": "gen3" }), "gen3"),
            (json!({ "servise_account": "a" }), "servise_account"),
        ] {
            let failure = Options::of(&host(json!({}), given)).expect_err("a mistake");
            assert!(failure.message.contains(named), "{failure}");
        }
        let options = Options::of(&host(json!({}), Value::Null)).expect("the defaults");
        assert_eq!(options, Options::default());
    }
}
