//! A host's `executor_config`: what containers may have there, and what they all get.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};

use gantry_core::gpus::Gpus;
use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::allow;
use crate::credentials::Registry;

/// What the engine takes as the name of a limit.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

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
    /// Whom containers run as that name no user, as `docker run --user`. Default: the image's own user.
    pub user: Option<String>,
    /// Whether containers may run as root, which is what most images do. Default: true. If not, each runs as a user
    /// given by a number other than 0, by the job or by `user`: a name means what the image says, and may be root.
    pub allow_root: bool,
    /// Resource limits (`ulimit`) of every container, such as `{"nofile": 65536}` or
    /// `{"core": {"soft": 0, "hard": 0}}`. Default: the engine's.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Labels of every container, over the job's of the same name.
    pub labels: BTreeMap<String, String>,
    /// The most GPUs that a job may ask for: a number, or `"all"`. Default: none. The engine needs a driver for them (the
    /// NVIDIA container toolkit), and does not keep two containers from using the same ones.
    pub gpus: Option<Gpus>,
    /// When to pull. Default: `missing`.
    pub pull_policy: PullPolicy,
    /// Registries that want credentials.
    pub registries: Vec<Registry>,
    /// With less free space than this where the engine keeps its images and containers, in MiB, the host gets no jobs.
    /// Default: 1,024; 0 is never. It can be seen where the engine's folder (`/var/lib/docker`) is on the worker's own
    /// machine, and mounted into the worker's container if it runs in one.
    pub min_free_disk_mb: u64,
}

/// A resource limit: one number for both, or each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a limit is a number, or {\"soft\": a number, \"hard\": a number}; -1 is unlimited")]
pub enum Ulimit {
    /// Both.
    Both(i64),
    /// Each.
    #[expect(missing_docs, reason = "as setrlimit(2) calls them")]
    Each { soft: i64, hard: i64 },
}

impl Ulimit {
    /// Soft and hard.
    pub(crate) fn values(self) -> (i64, i64) {
        match self {
            Self::Both(value) => (value, value),
            Self::Each { soft, hard } => (soft, hard),
        }
    }
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
            user: None,
            allow_root: true,
            ulimits: BTreeMap::new(),
            labels: BTreeMap::new(),
            gpus: None,
            pull_policy: PullPolicy::default(),
            registries: Vec::new(),
            min_free_disk_mb: 1_024,
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
        options.and_then(|options| options.check().map(|()| options)).map_err(|error| {
            let message = format!("host {}: executor_config: {error}", host.name);
            Failure::new(FailureClass::BackendError, message)
        })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_mounts()?;
        if let Some(user) = self.user.as_deref()
            && !self.allow_root
            && !allow::is_not_root(user)
        {
            return Err(format!("user: {user:?} may be root, and `allow_root` is false"));
        }
        for (name, limit) in &self.ulimits {
            let (soft, hard) = limit.values();
            if !ULIMITS.contains(&name.as_str()) {
                return Err(format!("ulimits: {name:?} is none of {}", ULIMITS.join(", ")));
            }
            if soft < -1 || hard < -1 || hard != -1 && (soft == -1 || soft > hard) {
                return Err(format!("ulimits: {name}: soft ({soft}) is more than hard ({hard}), or less than -1"));
            }
        }
        if let Some(label) = self.labels.keys().find(|label| label.is_empty() || label.starts_with("gantry.")) {
            return Err(format!("labels: {label:?} is not free to choose"));
        }
        if let Some(Gpus::Count(0)) = self.gpus {
            return Err("gpus: a number from 1, or \"all\"; leave it out for none".into());
        }
        let mut servers = HashSet::new();
        for Registry { server, credentials, tenant_credentials } in &self.registries {
            if server.is_empty() || server.contains('/') {
                return Err(format!("registries: {server:?} is not a server as images name it, such as ghcr.io"));
            }
            if credentials.is_none() && tenant_credentials.is_none() {
                return Err(format!("registries: {server}: name `credentials`, `tenant_credentials`, or both"));
            }
            if !servers.insert(server) {
                return Err(format!("registries: {server} is there twice"));
            }
        }
        Ok(())
    }

    fn check_mounts(&self) -> Result<(), String> {
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
}

pub(crate) fn is_plain(path: &Path) -> bool {
    !path.components().any(|part| matches!(part, Component::ParentDir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{ExecutorType, HostId};
    use serde_json::json;

    fn options(executor_config: Value) -> Result<Options, Failure> {
        Options::of(&Host {
            id: HostId::new(),
            name: "h".into(),
            executor_type: ExecutorType::Docker,
            connection_config: Value::Null,
            executor_config,
        })
    }

    #[test]
    fn only_known_keys_are_read() {
        let error = options(json!({"privileged": true})).expect_err("not an option");
        assert_eq!(error.class, FailureClass::BackendError);
        assert!(error.message.contains("privileged"), "{error}");
        assert_eq!(options(json!({})).expect("the default"), Options::default());
        assert_eq!(options(Value::Null).expect("the default"), Options::default());
    }

    #[test]
    fn a_mistake_is_told_with_its_key() {
        for (config, key) in [
            (json!({"ulimits": {"files": 1}}), "files"),
            (json!({"ulimits": {"nofile": "many"}}), "a limit is a number"),
            (json!({"ulimits": {"nofile": {"soft": 2, "hard": 1}}}), "nofile"),
            (json!({"ulimits": {"nofile": {"soft": -1, "hard": 1}}}), "nofile"),
            (json!({"labels": {"gantry.job": "x"}}), "gantry.job"),
            (json!({"gpus": 0}), "gpus"),
            (json!({"gpus": "some"}), "\"all\""),
            (json!({"allow_root": false, "user": "root"}), "allow_root"),
            (json!({"registries": [{"server": "https://ghcr.io", "credentials": "c"}]}), "ghcr.io"),
            (json!({"registries": [{"server": "ghcr.io"}]}), "tenant_credentials"),
            (
                json!({"registries": [{"server": "r", "credentials": "c"}, {"server": "r", "credentials": "d"}]}),
                "twice",
            ),
        ] {
            let failure = options(config.clone()).expect_err("a mistake");
            assert!(failure.message.contains(key), "{config}: {failure}");
        }
        for config in [
            json!({"ulimits": {"nofile": 65536, "core": {"soft": 0, "hard": 0}, "memlock": -1}}),
            json!({"allow_root": false, "user": "1000:0"}),
            json!({"gpus": "all"}),
            json!({"registries": [{"server": "ghcr.io", "credentials": "c", "tenant_credentials": "t"}]}),
        ] {
            assert!(options(config.clone()).is_ok(), "{config}");
        }
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
}
