//! An engine that is reached over ssh: the machine's own `ssh` holds one connection, and passes every connection to a
//! socket here on to the engine's socket there. Nothing of Docker's is needed on the way, only that the user may open the
//! socket.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gantry_core::{Failure, FailureClass};
use gantry_worker::secrets::{ExposeSecret, Secrets};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::connection::{Address, Ssh};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// The pace of looking whether it is there.
const LOOK: Duration = Duration::from_millis(20);
/// How much is told of what ssh said last.
const SAID_BYTES: u64 = 1_000;

/// A connection that is open. It ends with its value; a worker that is killed leaves it to the end of its container or
/// service.
pub(crate) struct Tunnel {
    ssh: Child,
    folder: TempDir,
}

impl Tunnel {
    /// Connects, and returns once the socket here takes connections.
    ///
    /// # Errors
    /// `host_unreachable` with what ssh says, or `backend_error` where a secret or ssh itself is missing.
    pub(crate) async fn open(address: &Address<'_>, ssh: &Ssh, secrets: &Secrets) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("gantry-ssh-").tempdir().map_err(|error| own_fault(&error))?;
        let key = ssh.key.as_deref().map(|name| Handed::over(&folder, "key", name, secrets)).transpose()?;
        let known = ssh.known_hosts.as_deref().map(|name| Handed::over(&folder, "known_hosts", name, secrets));
        let known = known.transpose()?;
        let said = private(&folder.path().join("said")).map_err(|error| own_fault(&error))?;
        let mut command = Command::new("ssh");
        command.args(arguments(address, &socket(&folder), key.as_ref(), known.as_ref()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).kill_on_drop(true);
        let ssh = command.spawn().map_err(|error| {
            let message = format!("ssh cannot be started on this worker (package openssh-client): {error}");
            Failure::new(FailureClass::BackendError, message)
        })?;
        let mut tunnel = Self { ssh, folder };
        match tokio::time::timeout(CONNECT, tunnel.opened()).await {
            Ok(true) => Ok(tunnel),
            Ok(false) => Err(unreachable(address, &tunnel.said())),
            Err(_) => Err(unreachable(address, &format!("no connection within {CONNECT:?}"))),
        }
    }

    /// Whether it is still open, as far as ssh knows.
    pub(crate) fn is_open(&mut self) -> bool {
        matches!(self.ssh.try_wait(), Ok(None))
    }

    /// The socket here.
    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    async fn opened(&mut self) -> bool {
        while self.is_open() {
            // Made after the key was accepted; ssh tells nobody when.
            if UnixStream::connect(self.socket()).await.is_ok() {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    fn said(&self) -> String {
        let mut said = Vec::new();
        let read = File::open(self.folder.path().join("said")).and_then(|mut file| {
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(end.saturating_sub(SAID_BYTES)))?;
            file.take(SAID_BYTES).read_to_end(&mut said)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("docker.sock")
}

fn arguments(address: &Address<'_>, socket: &Path, key: Option<&Handed>, known: Option<&Handed>) -> Vec<String> {
    let mut options = vec![
        // Nobody is there to answer a question, and a host that is not known is not trusted.
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".into(),
        "ExitOnForwardFailure=yes".into(),
        // A way that is dead shows within 15 seconds.
        "ServerAliveInterval=5".into(),
        "ServerAliveCountMax=3".into(),
        format!("ConnectTimeout={}", CONNECT.as_secs()),
        "LogLevel=ERROR".into(),
        // A connection of its own, which ends with this process.
        "ControlMaster=no".into(),
        "ControlPath=none".into(),
    ];
    if let Some(known) = known {
        options.push(format!("UserKnownHostsFile={}", known.0.display()));
        options.push("GlobalKnownHostsFile=/dev/null".into());
    }
    if let Some(key) = key {
        options.push(format!("IdentityFile={}", key.0.display()));
        options.push("IdentitiesOnly=yes".into());
    }
    let mut arguments: Vec<String> = options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect();
    arguments.extend(address.port.map(|port| format!("-p{port}")));
    arguments.extend(address.user.map(|user| format!("-l{user}")));
    arguments.extend(["-NT".to_owned(), format!("-L{}:{}", socket.display(), address.socket)]);
    arguments.extend(["--".to_owned(), address.host.to_owned()]);
    arguments
}

/// A secret as a file that only this user can read, for as long as ssh needs it: it has read them when it is connected.
struct Handed(PathBuf);

impl Handed {
    fn over(folder: &TempDir, file: &str, name: &str, secrets: &Secrets) -> Result<Self, Failure> {
        let secret = secrets.resolve(name)?;
        let handed = Self(folder.path().join(file));
        // With its last line break: without it ssh does not know a key for one.
        let written = private(&handed.0).and_then(|mut file| writeln!(file, "{}", secret.expose_secret()));
        written.map_err(|error| own_fault(&error))?;
        Ok(handed)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        // The folder goes later, and with it what could not be removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

fn own_fault(error: &std::io::Error) -> Failure {
    let folder = std::env::temp_dir();
    let message = format!("ssh: no file can be written in {}: {error}", folder.display());
    Failure::new(FailureClass::BackendError, message)
}

fn unreachable(address: &Address<'_>, why: &str) -> Failure {
    Failure::new(FailureClass::HostUnreachable, format!("ssh to {}: {why}", address.host))
}
