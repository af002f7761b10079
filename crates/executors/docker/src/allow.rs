//! What a job asks for, against what its host allows.

use std::path::Path;

use gantry_core::spec::{ContainerSpec, Mount};
use gantry_core::{Failure, FailureClass};

use crate::config::{Options, is_plain};

impl Options {
    /// Refuses what a job asks for and this host does not allow. Every refusal names the spec's field and the key that
    /// would allow it.
    pub(crate) fn validate(&self, spec: &ContainerSpec) -> Result<(), Failure> {
        let refused = |message: String| Err(Failure::new(FailureClass::InvalidSpec, message));
        for (index, mount) in spec.mounts.iter().enumerate() {
            if !self.allows(mount) {
                let (how, key) = match mount.writable {
                    true => ("writable", "writable_mounts"),
                    false => ("read-only", "allowed_mounts"),
                };
                let source = &mount.source;
                return refused(format!(
                    "mounts[{index}]: this host does not allow {source} as a {how} mount; its `{key}` would say so"
                ));
            }
        }
        if let Some(network) = &spec.network
            && !self.allows_network(network)
        {
            return refused(format!(
                "network: this host does not allow {network:?}; its `allowed_networks` would say so"
            ));
        }
        if let Some(gpus) = spec.gpus
            && !self.gpus.is_some_and(|most| most.covers(gpus))
        {
            let most = self.gpus.map_or("none".to_owned(), |most| most.to_string());
            return refused(format!("gpus: this host allows {most} to a job, not {gpus}; its `gpus` says so"));
        }
        if !self.allow_root && !self.user_of(spec).is_some_and(is_not_root) {
            return refused(
                "user: this host runs nothing as root (`allow_root`): name a user by a number other than 0, such as 1000"
                    .into(),
            );
        }
        // An id reaches every image that the host has, whoever pulled it.
        if spec.image.starts_with("sha256:") && self.registries.iter().any(|with| with.tenant_credentials.is_some()) {
            return refused("image: this host keeps tenants' images apart: name the image, not its id".into());
        }
        Ok(())
    }

    /// Whom the container runs as; none if the image decides.
    pub(crate) fn user_of<'a>(&'a self, spec: &'a ContainerSpec) -> Option<&'a str> {
        spec.user.as_deref().or(self.user.as_deref())
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

/// Whether this is certainly not root, whatever the image says.
pub(crate) fn is_not_root(user: &str) -> bool {
    let user = user.split_once(':').map_or(user, |(user, _)| user);
    user.parse::<u32>().is_ok_and(|number| number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::gpus::Gpus;
    use serde_json::{Value, json};

    fn mount(source: &str, writable: bool) -> Mount {
        Mount { source: source.into(), target: "/in".into(), writable }
    }

    fn refusal(options: Value, spec: Value) -> Option<String> {
        let options: Options = serde_json::from_value(options).expect("options");
        let mut whole = json!({"image": "i"});
        whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        let spec: ContainerSpec = serde_json::from_value(whole).expect("a spec");
        let failure = options.validate(&spec).err()?;
        assert_eq!(failure.class, FailureClass::InvalidSpec);
        Some(failure.message)
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

    #[test]
    fn gpus_are_for_those_that_the_host_lets_have_them() {
        let (one, all) = (json!({"gpus": 1}), json!({"gpus": "all"}));
        assert!(refusal(json!({}), one.clone()).is_some_and(|message| message.starts_with("gpus: ")));
        assert_eq!(refusal(json!({"gpus": 1}), one.clone()), None);
        assert_eq!(refusal(json!({"gpus": "all"}), all.clone()), None);
        assert!(refusal(json!({"gpus": 1}), all).is_some());
        assert_eq!(Options { gpus: Some(Gpus::Count(1)), ..Options::default() }.check(), Ok(()));
    }

    #[test]
    fn nothing_is_root_where_root_is_not_allowed() {
        let host = json!({"allow_root": false});
        for user in ["0", "0:5", "root", "app", "00"] {
            assert!(refusal(host.clone(), json!({"user": user})).is_some(), "{user}");
        }
        assert!(refusal(host.clone(), json!({})).is_some(), "the image decides");
        assert_eq!(refusal(host, json!({"user": "1000:0"})), None);
        assert_eq!(refusal(json!({"allow_root": false, "user": "1000"}), json!({})), None);
        assert_eq!(refusal(json!({}), json!({"user": "root"})), None);
    }

    #[test]
    fn an_id_reaches_no_other_tenants_image() {
        let apart = json!({"registries": [{"server": "r", "tenant_credentials": "t"}]});
        assert!(refusal(apart, json!({"image": "sha256:abc"})).is_some());
        assert_eq!(refusal(json!({}), json!({"image": "sha256:abc"})), None);
    }
}
