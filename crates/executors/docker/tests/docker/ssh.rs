//! An engine that is reached over ssh.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_worker::executor::{Executor, Observed};
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::common::{endpoint, sh};
use crate::lab::Lab;
use crate::registry::free_address;
use crate::relay::{Relay, To};

/// A server of the test's own on loopback, and the secrets of one who may come in: `key` and `known`.
pub(crate) struct Sshd {
    relay: Relay,
    pub(crate) folder: TempDir,
    _server: Child,
}

impl Sshd {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        for key in ["host", "key", "other"] {
            keygen(&path.join(key)).await;
        }
        let address = free_address().await;
        let port = address.rsplit_once(':').expect("a port").1;
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {path}/host\nAuthorizedKeysFile {path}/key.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             PermitRootLogin prohibit-password\n",
            path = path.display()
        );
        std::fs::write(path.join("config"), config).expect("writes the config");
        // What the server needs of a machine where it never ran.
        std::fs::create_dir_all("/run/sshd").expect("makes the server's own folder");
        let server = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(path.join("config"))
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(path.join("log")).expect("makes the log"))
            .kill_on_drop(true)
            .spawn()
            .expect("sshd is installed (package openssh-server)");
        let began = Instant::now();
        while TcpStream::connect(&address).await.is_err() {
            let log = std::fs::read_to_string(path.join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(20), "{log}");
            // The pace of asking; the server does not tell when it is ready.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let relay = Relay::start(To::Address(address)).await;
        let sshd = Self { relay, folder, _server: server };
        sshd.know("host.pub");
        sshd
    }

    pub(crate) fn connection(&self) -> Value {
        self.connection_to(endpoint().trim_start_matches("unix://"))
    }

    /// As root, whose the engine is, and who runs these tests.
    pub(crate) fn connection_to(&self, socket: &str) -> Value {
        let address = &self.relay.address;
        json!({ "endpoint": format!("ssh://root@{address}{socket}"), "ssh": { "key": "key", "known_hosts": "known" } })
    }

    pub(crate) fn secrets(&self) -> Secrets {
        Secrets::in_folder(self.folder.path())
    }

    /// Makes the server known by this key.
    fn know(&self, public_key: &str) {
        let key = std::fs::read_to_string(self.folder.path().join(public_key)).expect("it was made");
        let (host, port) = self.relay.address.rsplit_once(':').expect("a port");
        std::fs::write(self.folder.path().join("known"), format!("[{host}]:{port} {key}")).expect("writes the secret");
    }
}

async fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().await;
    assert!(made.expect("ssh-keygen is installed (package openssh-client)").success());
}

#[tokio::test]
async fn an_ssh_host_is_the_same_engine_and_comes_back_after_a_cut() {
    let mut sshd = Sshd::start().await;
    let lab = Lab::to(sshd.connection(), json!({}), sshd.secrets());
    let known = Lab::new();
    let known = known.executor.check(&known.host).await.expect("the engine answers").identity;
    assert_eq!(lab.executor.check(&lab.host).await.expect("the engine answers").identity, known);
    let (id, end) = lab.run(sh("echo over ssh; exit 4")).await;
    assert_eq!(end.outcome, Outcome::Exited(4));
    assert_eq!(lab.read(&id, None, 4096).await.0, b"over ssh\n");

    let running = lab.start(sh("sleep 60")).await;
    sshd.relay.cut().await;
    let began = Instant::now();
    // The first look may still see the way that was cut; it is no state of a job.
    let state = loop {
        match lab.executor.observe(&lab.host, std::slice::from_ref(&running)).await {
            Ok(states) => break states.into_iter().next().expect("one was asked for").1,
            Err(failure) => assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}"),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it does not come back");
        // The pace of asking.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(state, Observed::Running);
}

#[tokio::test]
async fn neither_side_trusts_a_stranger() {
    let sshd = Sshd::start().await;
    let lab = Lab::to(sshd.connection(), json!({}), sshd.secrets());
    sshd.know("other.pub");
    let failure = lab.executor.check(&lab.host).await.expect_err("another server");
    assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}");
    assert!(failure.message.contains("Host key verification failed"), "{failure}");

    sshd.know("host.pub");
    std::fs::copy(sshd.folder.path().join("other"), sshd.folder.path().join("key")).expect("another key");
    let failure = lab.executor.check(&lab.host).await.expect_err("another client");
    assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}");
    assert!(failure.message.contains("Permission denied"), "{failure}");
}
