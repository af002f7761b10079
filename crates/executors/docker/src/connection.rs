//! A host's `connection_config`: where its engine listens, and by which secrets it is reached.

use gantry_core::host::Host;
use gantry_core::{Failure, FailureClass};
use serde::{Deserialize, Serialize};

/// The socket of an engine that is reached over ssh, unless the endpoint names another.
const SOCKET: &str = "/var/run/docker.sock";

/// `executor_hosts.connection_config`: where the engine listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// `unix:///path/to/docker.sock`, `tcp://host:port`, or `ssh://user@host:port/path/to/docker.sock`, where user, port
    /// and path may be left out.
    pub endpoint: String,
    /// With `tcp`: the engine is spoken to over TLS, and both sides show a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// With `ssh`: instead of what the worker's own user has in `~/.ssh`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
}

/// The names of three secrets, each in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authority that has signed the engine's certificate; no other is trusted.
    pub ca: String,
    /// The worker's certificate, with those between it and an authority that the engine trusts.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// The names of two secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ssh {
    /// A private key without a passphrase, as `ssh-keygen` writes it. Default: what the worker's user has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Lines as `ssh-keyscan` prints them. Default: what the worker's user has. A host that is not there is not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_hosts: Option<String>,
}

/// An endpoint, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint<'a> {
    /// A socket on this machine.
    Unix(&'a str),
    /// `host:port`.
    Tcp(&'a str),
    /// Over ssh.
    Ssh(Address<'a>),
}

/// Where ssh goes, and what it opens there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) host: &'a str,
    pub(crate) port: Option<u16>,
    pub(crate) socket: &'a str,
}

impl Connection {
    /// Reads a host's connection config. A mistake in it is the place's fault, not the job's (`backend_error`).
    pub fn of(host: &Host) -> Result<Self, Failure> {
        let connection = Self::deserialize(&host.connection_config).map_err(|error| error.to_string());
        connection.and_then(|connection| connection.check().map(|()| connection)).map_err(|error| {
            let message = format!("host {}: connection_config: {error}", host.name);
            Failure::new(FailureClass::BackendError, message)
        })
    }

    fn check(&self) -> Result<(), String> {
        match self.endpoint()? {
            Endpoint::Unix(_) | Endpoint::Ssh(_) if self.tls.is_some() => Err("tls: only with tcp://".into()),
            Endpoint::Unix(_) | Endpoint::Tcp(_) if self.ssh.is_some() => Err("ssh: only with ssh://".into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint<'_>, String> {
        let parsed = match self.endpoint.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Some(Endpoint::Unix(path)),
            Some(("tcp", address)) if has_port(address) => Some(Endpoint::Tcp(address)),
            Some(("ssh", address)) => Address::parse(address).map(Endpoint::Ssh),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!(
                "endpoint: {:?} is neither unix:///path, nor tcp://host:port, nor ssh://user@host:port/path",
                self.endpoint
            )
        })
    }
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

impl<'a> Address<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (at, socket) = match text.find('/') {
            Some(path) if text[path..].len() > 1 => text.split_at(path),
            Some(path) => (&text[..path], SOCKET),
            None => (text, SOCKET),
        };
        let (user, place) = match at.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, at),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':')?)),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = port.map(str::parse).transpose().ok()?;
        // ssh takes a word that begins with a hyphen for an option, and a colon in a path for the end of it.
        let word = |word: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
            !word.is_empty() && !word.starts_with('-') && word.bytes().all(good)
        };
        let good = word(host) && user.is_none_or(word) && !socket.contains(':');
        good.then_some(Self { user, host, port, socket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn connection(value: Value) -> Result<Connection, String> {
        let connection = Connection::deserialize(value).map_err(|error| error.to_string())?;
        connection.check().map(|()| connection)
    }

    #[test]
    fn only_known_keys_and_endpoints_are_read() {
        let names = json!({"ca": "a", "certificate": "b", "key": "c"});
        for good in [
            json!({"endpoint": "unix:///var/run/docker.sock"}),
            json!({"endpoint": "tcp://10.0.0.1:2375"}),
            json!({"endpoint": "tcp://[::1]:2376", "tls": names}),
            json!({"endpoint": "ssh://x"}),
            json!({"endpoint": "ssh://u@x:22", "ssh": {"key": "k"}}),
        ] {
            assert!(connection(good.clone()).is_ok(), "{good}");
        }
        for bad in [
            json!({}),
            json!({"endpoint": "unix://"}),
            json!({"endpoint": "unix://relative"}),
            json!({"endpoint": "tcp://10.0.0.1"}),
            json!({"endpoint": "http://x:1"}),
            json!({"endpoint": "tcp://x:1", "tls": true}),
            json!({"endpoint": "tcp://x:1", "tls": {"ca": "a"}}),
            json!({"endpoint": "unix:///x", "tls": names}),
            json!({"endpoint": "tcp://x:1", "ssh": {}}),
            json!({"endpoint": "ssh://x", "ssh": {"password": "p"}}),
        ] {
            assert!(connection(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn ssh_addresses_are_taken_apart() {
        let parse = |text| Address::parse(text);
        let address = |user, host, port, socket| Some(Address { user, host, port, socket });
        assert_eq!(parse("x"), address(None, "x", None, SOCKET));
        assert_eq!(parse("u@x:2222"), address(Some("u"), "x", Some(2222), SOCKET));
        assert_eq!(parse("u@[::1]:22/"), address(Some("u"), "::1", Some(22), SOCKET));
        assert_eq!(parse("[::1]/run/d.sock"), address(None, "::1", None, "/run/d.sock"));
        for bad in ["", "-oProxyCommand=x", "u@-x", "-u@x", "x:y", "u@", "x y", "x/a:b", "x:99999", "[::1]22"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
