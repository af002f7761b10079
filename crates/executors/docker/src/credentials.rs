//! Which credentials a pull shows to a registry.
//!
//! They are bound to a registry by the host's configuration, never by a job: a job that could send its tenant's password
//! to a registry of its choice would have it.

use bollard::auth::DockerCredentials;
use gantry_core::{Failure, FailureClass, TenantId};
use gantry_worker::secrets::{ExposeSecret, SecretString, Secrets, Unresolved};
use serde::{Deserialize, Serialize};

/// Docker Hub, as references and configurations call it.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// A registry that wants credentials. Each is the name of a secret whose value is `user:password`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// The registry as images name it, with its port if they do: `ghcr.io`, `registry.example.com:5000`; `docker.io` for
    /// images that name none.
    pub server: String,
    /// The host's, for the jobs of all tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// The tenant's, looked up among the secrets of the job's tenant. A tenant that has none is served with the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_credentials: Option<String>,
}

/// What a pull shows, and what is to be said when it is refused.
pub(crate) struct Login {
    pub(crate) credentials: Option<DockerCredentials>,
    pub(crate) shown: String,
}

impl Registry {
    /// What a job of `tenant` shows to this registry.
    pub(crate) fn login(&self, tenant: Option<TenantId>, secrets: &Secrets) -> Result<Login, Failure> {
        let mut missing = None;
        if let (Some(name), Some(tenant)) = (&self.tenant_credentials, tenant) {
            match secrets.resolve_for(tenant, name) {
                Ok(value) => {
                    let shown = format!("with the tenant's credentials {name:?}");
                    return Ok(Login { credentials: Some(self.parse(name, &value)?), shown });
                }
                Err(Unresolved::Missing(why)) => missing = Some(why),
                Err(unusable @ Unresolved::Unusable(_)) => return Err(unusable.into()),
            }
        }
        Ok(match (&self.credentials, missing) {
            (Some(name), _) => {
                let credentials = self.parse(name, &secrets.resolve(name)?)?;
                Login { credentials: Some(credentials), shown: format!("with the host's credentials {name:?}") }
            }
            (None, Some(why)) => Login { credentials: None, shown: format!("without credentials: {why}") },
            (None, None) => Login { credentials: None, shown: "without credentials".into() },
        })
    }

    /// Whether the host's own credentials can be shown.
    pub(crate) fn check(&self, secrets: &Secrets) -> Result<(), Failure> {
        match &self.credentials {
            Some(name) => self.parse(name, &secrets.resolve(name)?).map(drop),
            None => Ok(()),
        }
    }

    fn parse(&self, name: &str, value: &SecretString) -> Result<DockerCredentials, Failure> {
        let Some((user, password)) = value.expose_secret().split_once(':') else {
            let message = format!("the secret {name:?} for the registry {} is not user:password", self.server);
            return Err(Failure::new(FailureClass::BackendError, message));
        };
        Ok(DockerCredentials {
            username: Some(user.into()),
            password: Some(password.into()),
            serveraddress: Some(self.server.clone()),
            ..Default::default()
        })
    }
}

/// The one of these registries that an image is in.
pub(crate) fn registry_of<'a>(registries: &'a [Registry], image: &str) -> Option<&'a Registry> {
    let wanted = server_of(image);
    registries.iter().find(|registry| canonical(&registry.server) == wanted)
}

/// The registry that an image names: the part before the first slash, if it looks like a server.
pub(crate) fn server_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((server, _)) if server.contains(['.', ':']) || server == "localhost" => canonical(server),
        _ => HUB[0],
    }
}

fn canonical(server: &str) -> &str {
    if HUB.contains(&server) { HUB[0] } else { server }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(server: &str) -> Registry {
        Registry { server: server.into(), credentials: None, tenant_credentials: None }
    }

    #[test]
    fn an_image_names_its_registry() {
        for (image, server) in [
            ("busybox", "docker.io"),
            ("acme/app:1", "docker.io"),
            ("docker.io/acme/app", "docker.io"),
            ("index.docker.io/acme/app", "docker.io"),
            ("ghcr.io/acme/app@sha256:0", "ghcr.io"),
            ("localhost/app", "localhost"),
            ("localhost:5000/app:1", "localhost:5000"),
        ] {
            assert_eq!(server_of(image), server, "{image}");
        }
        let registries = [registry("registry-1.docker.io"), registry("ghcr.io:443")];
        assert_eq!(registry_of(&registries, "busybox"), Some(&registries[0]));
        assert_eq!(registry_of(&registries, "ghcr.io/a"), None, "another name is another registry");
    }

    #[test]
    fn a_value_is_user_and_password() {
        let parse = |value: &str| registry("r").parse("hub", &value.into());
        let credentials = parse("me:a:b").expect("a password may have a colon");
        assert_eq!((credentials.username.as_deref(), credentials.password.as_deref()), (Some("me"), Some("a:b")));
        let failure = parse("secret-token").expect_err("no user");
        assert!(failure.message.contains("\"hub\"") && !failure.message.contains("secret-token"), "{failure}");
    }
}
