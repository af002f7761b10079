//! As whom the service is asked. A host's config has the name of a key at most; the key is a secret of the worker.

use gantry_core::{Failure, FailureClass};
use gantry_worker::secrets::{ExposeSecret, SecretString, Secrets};
use google_cloud_auth::credentials::{Builder, Credentials, anonymous, service_account};

use crate::config::Connection;

/// Cloud Run and Cloud Logging; what the identity may do there is decided by its roles.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The credentials of a host. Must be called within a runtime: tokens are renewed in the background.
pub(crate) fn of(connection: &Connection, secrets: &Secrets) -> Result<Credentials, Failure> {
    if connection.anonymous {
        return Ok(anonymous::Builder::new().build());
    }
    match &connection.credentials {
        Some(name) => from_key(name, &secrets.resolve(name)?),
        None => Builder::default()
            .with_scopes([SCOPE])
            .build()
            .map_err(|error| failure(format!("the application default credentials: {error}"))),
    }
}

fn from_key(name: &str, key: &SecretString) -> Result<Credentials, Failure> {
    // What is wrong with a key may quote it: only where is told.
    let key = serde_json::from_str(key.expose_secret()).map_err(|error| {
        failure(format!("the secret {name:?} is not JSON, line {} column {}", error.line(), error.column()))
    })?;
    service_account::Builder::new(key)
        .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]))
        .build()
        .map_err(|_| failure(format!("the secret {name:?} is not the key of a service account")))
}

fn failure(message: String) -> Failure {
    Failure::new(FailureClass::BackendError, format!("credentials: {message}"))
}

#[cfg(test)]
mod tests {
    use google_cloud_auth::credentials::CacheableResource;

    use super::*;

    fn named(name: &str) -> Connection {
        let json = serde_json::json!({ "project": "p", "region": "r", "credentials": name });
        serde_json::from_value(json).expect("a connection")
    }

    /// A key that was made for this test.
    fn private_key() -> String {
        let home = std::env::var("GANTRY_PYTHON").expect("GANTRY_PYTHON: `deploy/scripts/install.sh python` makes it");
        let script = "from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import serialization as s
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
print(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode())";
        let made = std::process::Command::new(format!("{home}/bin/python")).args(["-c", script]).output();
        String::from_utf8(made.expect("Python runs").stdout).expect("text")
    }

    /// A service account's key signs with this process's own cryptography (ring); no server is asked for a token.
    #[tokio::test]
    async fn a_key_is_an_identity() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a folder");
        let key = serde_json::json!({
            "type": "service_account", "project_id": "p", "client_email": "jobs@p.iam.gserviceaccount.com",
            "private_key_id": "1", "private_key": private_key(),
        });
        std::fs::write(folder.path().join("team-a"), key.to_string()).expect("writes");
        let credentials = of(&named("team-a"), &Secrets::in_folder(folder.path())).expect("a key");
        let headers = credentials.headers(Default::default()).await.expect("a signed token");
        let CacheableResource::New { data, .. } = headers else { panic!("there was none before") };
        let token = data.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(token.starts_with("Bearer ey"), "{token}");
    }

    #[test]
    fn what_is_wrong_with_a_key_is_told_without_it() {
        for (text, told) in
            [("{\"private_key\": \"secret", "not JSON"), ("{\"private_key\": \"secret\"}", "not the key")]
        {
            let failure = from_key("team-a", &SecretString::from(text)).expect_err("no key");
            assert!(failure.message.contains(told) && !failure.message.contains("private"), "{failure}");
            assert!(failure.message.contains("team-a"), "{failure}");
        }
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let failure = of(&named("nobody-set-this"), &Secrets::from_environment()).expect_err("it is not set");
        assert_eq!(failure.class, FailureClass::BackendError);
        assert!(failure.message.contains("GANTRY_SECRET_NOBODY_SET_THIS"), "{failure}");
    }
}
