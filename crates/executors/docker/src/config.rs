//! The two JSON objects of a host's row that are this executor's own, and what they allow.

use std::path::{Component, Path, PathBuf};

use gantry_core::host::Host;
use gantry_core::spec::{ContainerSpec, Mount};
use gantry_core::{Failure, FailureClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `executor_hosts.connection_config`: where the engine listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// `unix:///path/to/docker.sock` or `tcp://host:port`.
    pub endpoint: String,
}

/// `executor_hosts.executor_config`: what containers may have there. An empty object is the safe default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Linux capabilities that containers get, such as `CHOWN`. Default: none at all.
    pub capabilities: Vec<String>,
    /// The most processes and threads of one container. Default: 512.
    pub pids_limit: u32,
    /// Directories that containers may see, each with everything below it, read-only.
    pub allowed_mounts: Vec<PathBuf>,
    /// Directories that containers may write to. A job mounts exactly one of these, nothing below it: a
    /// container that can write to a directory can put a link there, and a later mount of that link would
    /// lead anywhere on the host. For the same reason none may lie inside another mount, or around it.
    pub writable_mounts: Vec<PathBuf>,
    /// The network of containers that name none. Default: the engine's own default.
    pub network: Option<String>,
    /// Networks that a job may name besides that one, `none`, `bridge` and `default`.
    pub allowed_networks: Vec<String>,
    /// When to pull. Default: `missing`.
    pub pull_policy: PullPolicy,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// If the host does not have it.
    #[default]
    Missing,
    /// Before every launch; launches at the same time share one pull.
    Always,
    /// Never: what the host does not have cannot run there.
    Never,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capabilities: Vec::new(),
            pids_limit: 512,
            allowed_mounts: Vec::new(),
            writable_mounts: Vec::new(),
            network: None,
            allowed_networks: Vec::new(),
            pull_policy: PullPolicy::default(),
        }
    }
}

impl Connection {
    /// Reads a host's connection config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        let connection = Self::deserialize(&host.connection_config)
            .map_err(|error| misconfigured(host, "connection_config", &error.to_string()))?;
        match connection.endpoint.split_once("://") {
            Some(("unix" | "tcp", address)) if !address.is_empty() => Ok(connection),
            _ => {
                let message = format!("endpoint {:?} is neither unix:///path nor tcp://host:port", connection.endpoint);
                Err(misconfigured(host, "connection_config", &message))
            }
        }
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
        let all = || self.allowed_mounts.iter().chain(&self.writable_mounts);
        if let Some(path) = all().find(|path| !path.is_absolute() || !is_plain(path)) {
            return Err(format!("{} is not an absolute path without `..`", path.display()));
        }
        for (index, writable) in self.writable_mounts.iter().enumerate() {
            let others = all().enumerate().filter(|(other, _)| *other != self.allowed_mounts.len() + index);
            for (_, other) in others {
                if writable.starts_with(other) || other.starts_with(writable) {
                    return Err(format!("the writable mount {} overlaps with {}", writable.display(), other.display()));
                }
            }
        }
        Ok(())
    }

    /// Refuses what a job asks for and this host does not allow.
    pub(crate) fn validate(&self, spec: &ContainerSpec) -> Result<(), Failure> {
        for (index, mount) in spec.mounts.iter().enumerate() {
            if !self.allows(mount) {
                let how = if mount.writable { "writable" } else { "read-only" };
                let message = format!("mounts[{index}]: this host does not allow {} as a {how} mount", mount.source);
                return Err(Failure::new(FailureClass::InvalidSpec, message));
            }
        }
        match &spec.network {
            Some(network) if !self.allows_network(network) => {
                let message = format!("network: this host does not allow {network:?}");
                Err(Failure::new(FailureClass::InvalidSpec, message))
            }
            _ => Ok(()),
        }
    }

    fn allows(&self, mount: &Mount) -> bool {
        // By component, so that `/data` does not allow `/database`.
        let source = Path::new(&mount.source);
        let exact = self.writable_mounts.iter().any(|path| source == path);
        let below = || self.allowed_mounts.iter().any(|path| source.starts_with(path));
        source.is_absolute() && is_plain(source) && (exact || !mount.writable && below())
    }

    fn allows_network(&self, network: &str) -> bool {
        // `host` and `container:…` would put the job into somebody else's network namespace.
        matches!(network, "none" | "bridge" | "default")
            || self.network.as_deref() == Some(network)
            || self.allowed_networks.iter().any(|allowed| allowed == network)
    }
}

fn is_plain(path: &Path) -> bool {
    !path.components().any(|part| matches!(part, Component::ParentDir))
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
            executor_type: ExecutorType::Docker,
            connection_config: connection,
            executor_config: executor,
        }
    }

    fn mount(source: &str, writable: bool) -> Mount {
        Mount { source: source.into(), target: "/in".into(), writable }
    }

    #[test]
    fn only_known_keys_and_endpoints_are_read() {
        let refused = |connection: Value| Connection::of(&host(connection, Value::Null)).is_err();
        assert!(!refused(json!({"endpoint": "unix:///var/run/docker.sock"})));
        assert!(!refused(json!({"endpoint": "tcp://10.0.0.1:2375"})));
        assert!(refused(json!({"endpoint": "ssh://x"})));
        assert!(refused(json!({"endpoint": "unix://"})));
        assert!(refused(json!({"endpoint": "tcp://x:1", "tls": true})));
        assert!(refused(json!({})));
        let error = Options::of(&host(Value::Null, json!({"privileged": true}))).expect_err("not an option");
        assert_eq!(error.class, FailureClass::BackendError);
        assert!(error.message.contains("privileged"), "{error}");
        assert_eq!(Options::of(&host(Value::Null, json!({}))).expect("the default"), Options::default());
    }

    #[test]
    fn mounts_are_allowed_by_component() {
        let options = Options {
            allowed_mounts: vec!["/data".into()],
            writable_mounts: vec!["/scratch/".into()],
            ..Options::default()
        };
        assert!(options.check().is_ok());
        for source in ["/data", "/data/", "/data/a", "/data//a", "/scratch"] {
            assert!(options.allows(&mount(source, false)), "{source}");
        }
        for source in ["/", "/database", "/data/../etc", "data", "/etc", "/scratch/a"] {
            assert!(!options.allows(&mount(source, false)), "{source}");
        }
        assert!(options.allows(&mount("/scratch", true)));
        assert!(!options.allows(&mount("/data", true)));
        assert!(!options.allows(&mount("/scratch/a", true)));
    }

    #[test]
    fn a_writable_mount_stands_alone() {
        let check = |allowed: &[&str], writable: &[&str]| {
            let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
            Options { allowed_mounts: paths(allowed), writable_mounts: paths(writable), ..Options::default() }.check()
        };
        assert!(check(&["/data"], &["/scratch"]).is_ok());
        assert!(check(&["/data"], &["/data/out"]).is_err());
        assert!(check(&["/data/in"], &["/data"]).is_err());
        assert!(check(&[], &["/s", "/s/x"]).is_err());
        assert!(check(&["relative"], &[]).is_err());
        assert!(check(&["/a/../b"], &[]).is_err());
    }

    #[test]
    fn a_job_stays_out_of_other_network_namespaces() {
        let options =
            Options { network: Some("jobs".into()), allowed_networks: vec!["db".into()], ..Options::default() };
        for allowed in ["none", "bridge", "jobs", "db"] {
            assert!(options.allows_network(allowed));
        }
        for refused in ["host", "container:abc", "other"] {
            assert!(!options.allows_network(refused));
        }
    }
}
