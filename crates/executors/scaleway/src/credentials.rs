//! Secrets by name: a host's configuration names them, and only the worker that serves the host knows them.

use std::fmt;

use gantry_core::Failure;
use gantry_worker::secrets::{ExposeSecret as _, SecretString, Secrets};

use crate::config::Connection;

/// What the names in a connection config stand for.
#[derive(Clone)]
pub(crate) struct Credentials {
    /// The secret part of an API key.
    pub(crate) secret_key: SecretString,
    /// A token of Cockpit that may read logs. Without one the secret key is used.
    pub(crate) cockpit_token: Option<SecretString>,
}

impl Credentials {
    /// Resolves the names. What is missing is the place's fault (`backend_error`), and the message says where a worker
    /// looks.
    pub(crate) fn of(connection: &Connection, secrets: &Secrets) -> Result<Self, Failure> {
        let token = connection.logs.as_ref().and_then(|logs| logs.credentials.as_deref());
        Ok(Self {
            secret_key: secrets.resolve(&connection.credentials)?,
            cockpit_token: token.map(|name| secrets.resolve(name)).transpose()?,
        })
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        let token = |of: &Self| of.cockpit_token.as_ref().map(|token| token.expose_secret().to_owned());
        self.secret_key.expose_secret() == other.secret_key.expose_secret() && token(self) == token(other)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::FailureClass;
    use serde_json::json;

    fn of(connection: serde_json::Value) -> Result<Credentials, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, value) in [("main", "s3cret"), ("cockpit", "t0ken")] {
            std::fs::write(folder.path().join(name), value).expect("is written");
        }
        let connection: Connection = serde_json::from_value(connection).expect("a connection");
        Credentials::of(&connection, &Secrets::in_folder(folder.path()))
    }

    #[test]
    fn names_stand_for_secrets_of_the_worker() {
        let plain = json!({"region": "fr-par", "project": "p", "credentials": "main"});
        let found = of(plain.clone()).expect("it is there");
        assert_eq!((found.secret_key.expose_secret(), found.cockpit_token.is_none()), ("s3cret", true));
        assert!(!format!("{found:?}").contains("s3cret"), "{found:?}");
        let mut logged = plain;
        logged["logs"] = json!({"url": "https://x", "credentials": "cockpit"});
        let with_token = of(logged).expect("both are there");
        assert_ne!(found, with_token);
        assert_eq!(with_token.cockpit_token.expect("a token").expose_secret(), "t0ken");
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = of(json!({"region": "fr-par", "project": "p", "credentials": "other"})).expect_err("no key");
        assert_eq!(error.class, FailureClass::BackendError);
        assert!(error.message.contains("GANTRY_SECRET_OTHER"), "{error}");
    }
}
