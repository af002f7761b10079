//! As whom the service is asked. A host's config has the name of a key at most; the key lies in a file of the worker.

use gantry_core::{Failure, FailureClass};
use google_cloud_auth::credentials::{Builder, Credentials, anonymous, service_account};

use crate::config::Connection;

/// What the variables that name keys begin with.
const VARIABLE: &str = "GANTRY_GOOGLE_CREDENTIALS_";
/// Cloud Run and Cloud Logging; what the identity may do there is decided by its roles.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The credentials of a host. Must be called within a runtime: tokens are renewed in the background.
pub(crate) fn of(connection: &Connection) -> Result<Credentials, Failure> {
    if connection.anonymous {
        return Ok(anonymous::Builder::new().build());
    }
    match &connection.credentials {
        Some(name) => from_file(&variable(name)),
        None => Builder::default()
            .with_scopes([SCOPE])
            .build()
            .map_err(|error| failure(format!("the application default credentials: {error}"))),
    }
}

/// The variable that names the file with this key.
fn variable(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{VARIABLE}{}", name.chars().map(plain).collect::<String>())
}

fn from_file(variable: &str) -> Result<Credentials, Failure> {
    let path = std::env::var(variable)
        .map_err(|_| failure(format!("set {variable} on this worker to the path of the service account's key")))?;
    from_path(variable, &path)
}

fn from_path(variable: &str, path: &str) -> Result<Credentials, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| failure(format!("{variable}: {path}: {error}")))?;
    // What is wrong with a key may quote it: only where is told.
    let key = serde_json::from_str(&text).map_err(|error| {
        failure(format!("{variable}: {path} is not JSON, line {} column {}", error.line(), error.column()))
    })?;
    service_account::Builder::new(key)
        .with_access_specifier(service_account::AccessSpecifier::from_scopes([SCOPE]))
        .build()
        .map_err(|_| failure(format!("{variable}: {path} is not the key of a service account")))
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

    #[test]
    fn a_name_is_a_variable() {
        assert_eq!(variable("team-a.prod"), "GANTRY_GOOGLE_CREDENTIALS_TEAM_A_PROD");
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
    async fn a_key_from_a_file_is_an_identity() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let key = serde_json::json!({
            "type": "service_account", "project_id": "p", "client_email": "jobs@p.iam.gserviceaccount.com",
            "private_key_id": "1", "private_key": private_key(),
        });
        std::fs::write(file.path(), key.to_string()).expect("writes");
        let path = file.path().to_str().expect("a path of plain characters");
        let credentials = from_path("VARIABLE", path).expect("a key");
        let headers = credentials.headers(Default::default()).await.expect("a signed token");
        let CacheableResource::New { data, .. } = headers else { panic!("there was none before") };
        let token = data.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert!(token.starts_with("Bearer ey"), "{token}");
    }

    #[test]
    fn what_is_wrong_with_a_key_is_told_without_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, told) in
            [("{\"private_key\": \"secret", "not JSON"), ("{\"private_key\": \"secret\"}", "not the key")]
        {
            std::fs::write(file.path(), text).expect("writes");
            let failure = from_path("VARIABLE", file.path().to_str().expect("a path")).expect_err("no key");
            assert!(failure.message.contains(told) && !failure.message.contains("secret"), "{failure}");
        }
        let failure = from_path("VARIABLE", "/no/such/file").expect_err("no file");
        assert!(failure.message.contains("VARIABLE: /no/such/file"), "{failure}");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let failure = of(&named("nobody-set-this")).expect_err("it is not set");
        assert_eq!(failure.class, FailureClass::BackendError);
        assert!(failure.message.contains("GANTRY_GOOGLE_CREDENTIALS_NOBODY_SET_THIS"), "{failure}");
    }
}
