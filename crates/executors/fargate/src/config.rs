//! The two JSON objects of a host's row that are this executor's own.

use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `executor_hosts.connection_config`: which cluster, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The AWS region, such as `eu-central-1`.
    pub region: String,
    /// The cluster, by its name or ARN. Default: `default`.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// The name of a secret of the worker, which is JSON: `{"access_key_id": …, "secret_access_key": …}`, with
    /// `session_token` if there is one. Default: what the AWS SDK finds (environment, profile, web identity, container
    /// or instance role).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Where ECS and CloudWatch Logs answer, if not at the region's own addresses: a VPC endpoint, a double.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_url: Option<String>,
}

/// `executor_hosts.executor_config`: how tasks run there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// What tasks run on. Default: `FARGATE`.
    #[serde(default)]
    pub launch_type: LaunchType,
    /// The network mode of tasks on EC2; those on Fargate are always `awsvpc`. Default: `awsvpc`.
    #[serde(default)]
    pub network_mode: NetworkMode,
    /// The subnets of `awsvpc` tasks: 1 to 16.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Their security groups, up to 5. Default: the VPC's own.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Whether they get a public address, without which a public subnet reaches no registry. Default: no.
    #[serde(default)]
    pub assign_public_ip: bool,
    /// The ARN of the role that pulls the image and writes the log. Required on Fargate with `awslogs` or ECR.
    #[serde(default)]
    pub execution_role: Option<String>,
    /// The ARN of the role that the container's own requests have. Default: none.
    #[serde(default)]
    pub task_role: Option<String>,
    /// The version of the Fargate platform. Default: `LATEST`.
    #[serde(default)]
    pub platform_version: Option<String>,
    /// Default: `X86_64`.
    #[serde(default)]
    pub cpu_architecture: Architecture,
    /// Disk of a Fargate task in GiB, 21 to 200. Default: Fargate's own 20.
    #[serde(default)]
    pub ephemeral_storage_gib: Option<u32>,
    /// CPUs of jobs that name none. Default: 0.25.
    #[serde(default = "default_cpus")]
    pub default_cpus: f64,
    /// Memory in MiB of jobs that name none. Default: 512.
    #[serde(default = "default_memory_mb")]
    pub default_memory_mb: u32,
    /// Seconds between SIGTERM and SIGKILL, 2 to 120. It is part of the task definition: ECS knows no other grace, so
    /// the worker's own setting does not count here. Default: 30.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout_seconds: u32,
    /// The CloudWatch log group. Default: `/gantry`.
    #[serde(default = "default_log_group")]
    pub log_group: String,
    /// What log streams begin with. Default: `gantry`.
    #[serde(default = "default_log_prefix")]
    pub log_prefix: String,
    /// Whether ECS makes the log group if it is not there, for which the execution role needs `logs:CreateLogGroup`.
    /// Default: no.
    #[serde(default)]
    pub create_log_group: bool,
    /// How long after a task's end its log may still grow, in seconds, 0 to 15. Default: 10.
    ///
    /// The `awslogs` driver sends what it has every five seconds and when the container ends, and CloudWatch shows it
    /// within a few more; nothing marks a log's last line. The time counts from when the worker first saw the end.
    #[serde(default = "default_log_settle")]
    pub log_settle_seconds: u64,
    /// How long ECS may take to show a task that it took, in seconds, up to 600. Default: 120.
    ///
    /// AWS' own advice is to wait from a couple of seconds up to five minutes. What is not there for so long, each
    /// time that it was asked for, is not there: a launch may be repeated then (under its token, so that one that
    /// was only slow to show is adopted), and a task that was known is lost.
    #[serde(default = "default_settle")]
    pub settle_seconds: u64,
    /// The part of the account's registration rate (a burst of 20, then one a second) that one worker process may use,
    /// 0.001 to 1: with N worker processes 1/N. Default: 1.
    ///
    /// Processes know nothing of each other. Together beyond the rate, AWS refuses some registrations, which are tried
    /// again a few times. The hosts of an account in a region should all say the same: those that do share one bucket.
    #[serde(default = "default_registration_share")]
    pub registration_share: f64,
}

/// What tasks run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LaunchType {
    /// AWS' own machines.
    #[default]
    Fargate,
    /// The same for less, with two minutes' notice of an interruption: by the cluster's capacity provider.
    FargateSpot,
    /// The cluster's own machines.
    Ec2,
}

/// How an EC2 task is on the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A network interface of its own.
    #[default]
    Awsvpc,
    /// Docker's bridge.
    Bridge,
    /// The machine's own.
    Host,
    /// None.
    None,
}

/// The machine's instruction set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// Intel and AMD.
    #[default]
    #[serde(rename = "X86_64")]
    X8664,
    /// Graviton.
    #[serde(rename = "ARM64")]
    Arm64,
}

fn default_cluster() -> String {
    "default".into()
}

fn default_cpus() -> f64 {
    0.25
}

fn default_memory_mb() -> u32 {
    512
}

fn default_stop_timeout() -> u32 {
    30
}

fn default_log_group() -> String {
    "/gantry".into()
}

fn default_log_prefix() -> String {
    "gantry".into()
}

fn default_log_settle() -> u64 {
    10
}

fn default_settle() -> u64 {
    120
}

fn default_registration_share() -> f64 {
    1.0
}

impl Connection {
    /// Reads a host's connection config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        let connection = Self::deserialize(&host.connection_config)
            .map_err(|error| misconfigured(host, "connection_config", &error.to_string()))?;
        for (key, value) in [("region", &connection.region), ("cluster", &connection.cluster)] {
            if value.is_empty() {
                return Err(misconfigured(host, "connection_config", &format!("`{key}` must not be empty")));
            }
        }
        if let Some(url) = &connection.endpoint_url
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            return Err(misconfigured(host, "connection_config", &format!("`endpoint_url` is {url:?}, not a URL")));
        }
        Ok(connection)
    }
}

impl Options {
    /// Reads a host's executor config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        let config = match &host.executor_config {
            Value::Null => Value::Object(serde_json::Map::new()),
            config => config.clone(),
        };
        let options = serde_json::from_value::<Self>(config).map_err(|error| error.to_string());
        options
            .and_then(|options| options.check().map(|()| options))
            .map_err(|error| misconfigured(host, "executor_config", &error))
    }

    /// Whether tasks have a network interface of their own.
    pub(crate) fn has_own_interface(&self) -> bool {
        self.is_fargate() || self.network_mode == NetworkMode::Awsvpc
    }

    /// Whether tasks run on AWS' machines, whose sizes are fixed.
    pub(crate) fn is_fargate(&self) -> bool {
        self.launch_type != LaunchType::Ec2
    }

    fn check(&self) -> Result<(), String> {
        let between = |key: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("`{key}` is {value}, it must be {least} to {most}"))
            }
        };
        between("stop_timeout_seconds", self.stop_timeout_seconds.into(), 2, 120)?;
        between("log_settle_seconds", self.log_settle_seconds, 0, 15)?;
        between("settle_seconds", self.settle_seconds, 1, 600)?;
        between("security_groups", self.security_groups.len() as u64, 0, 5)?;
        between("default_memory_mb", self.default_memory_mb.into(), 6, u64::from(u32::MAX))?;
        if !(0.01..=9999.99).contains(&self.default_cpus) {
            return Err(format!("`default_cpus` is {}, it must be 0.01 to 9999.99", self.default_cpus));
        }
        if !(0.001..=1.0).contains(&self.registration_share) {
            return Err(format!("`registration_share` is {}, it must be 0.001 to 1", self.registration_share));
        }
        if self.has_own_interface() {
            between("subnets", self.subnets.len() as u64, 1, 16)
                .map_err(|error| format!("{error} names: tasks have network interfaces of their own"))?;
        } else if !self.subnets.is_empty() || !self.security_groups.is_empty() || self.assign_public_ip {
            return Err("`subnets`, `security_groups` and `assign_public_ip` are of the network mode `awsvpc`".into());
        }
        if let Some(gib) = self.ephemeral_storage_gib {
            between("ephemeral_storage_gib", gib.into(), 21, 200)?;
        }
        if self.is_fargate() && self.network_mode != NetworkMode::Awsvpc {
            return Err("`network_mode` is `awsvpc` on Fargate".into());
        }
        if !self.is_fargate() && (self.platform_version.is_some() || self.ephemeral_storage_gib.is_some()) {
            return Err("`platform_version` and `ephemeral_storage_gib` are Fargate's".into());
        }
        Ok(())
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
        let (id, executor_type) = (HostId::new(), ExecutorType::Fargate);
        Host { id, name: "aws".into(), executor_type, connection_config, executor_config }
    }

    #[test]
    fn every_mistake_names_its_key() {
        let mistakes = [
            (json!({}), "subnets"),
            (json!({"subnets": ["a"], "subnet": 1}), "subnet"),
            (json!({"subnets": ["a"], "stop_timeout_seconds": 121}), "stop_timeout_seconds"),
            (json!({"subnets": ["a"], "log_settle_seconds": 16}), "log_settle_seconds"),
            (json!({"subnets": ["a"], "settle_seconds": 0}), "settle_seconds"),
            (json!({"subnets": ["a"], "network_mode": "host"}), "network_mode"),
            (json!({"subnets": ["a"], "ephemeral_storage_gib": 20}), "ephemeral_storage_gib"),
            (json!({"subnets": ["a"], "security_groups": ["1", "2", "3", "4", "5", "6"]}), "security_groups"),
            (json!({"subnets": ["a"], "launch_type": "EXTERNAL"}), "EXTERNAL"),
            (json!({"subnets": ["a"], "default_cpus": 0}), "default_cpus"),
            (json!({"subnets": ["a"], "registration_share": 0}), "registration_share"),
            (json!({"subnets": ["a"], "registration_share": 1.5}), "registration_share"),
            (json!({"launch_type": "EC2", "network_mode": "host", "subnets": ["a"]}), "subnets"),
            (json!({"launch_type": "EC2", "network_mode": "host", "platform_version": "1.4.0"}), "platform_version"),
        ];
        for (config, key) in mistakes {
            let failure = Options::of(&host(json!({}), config.clone())).expect_err("a mistake");
            assert_eq!(failure.class, FailureClass::BackendError);
            assert!(failure.message.contains(key) && failure.message.contains("aws"), "{config}: {failure}");
        }
        for (config, key) in [
            (json!({}), "region"),
            (json!({"region": "r", "keys": "k"}), "keys"),
            (json!({"region": ""}), "region"),
            (json!({"region": "r", "endpoint_url": "x"}), "endpoint_url"),
        ] {
            let failure = Connection::of(&host(config, json!({}))).expect_err("a mistake");
            assert!(failure.message.contains(key), "{failure}");
        }
    }

    #[test]
    fn the_least_is_enough() {
        let host = host(json!({"region": "eu-central-1"}), json!({"subnets": ["subnet-1"]}));
        assert_eq!(Connection::of(&host).expect("valid").cluster, "default");
        let options = Options::of(&host).expect("valid");
        assert_eq!((options.launch_type, options.default_memory_mb), (LaunchType::Fargate, 512));
        assert!(!options.assign_public_ip && !options.create_log_group && options.registration_share == 1.0);
    }
}
