//! A registry of the test's own, on loopback.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Who may use a locked registry, as a line of its `htpasswd` file: `gantry`, with the password `open:sesame`.
const HTPASSWD: &str = "gantry:$2y$04$abcdefghijklmnopqrstuu2GbQLdjwBFdH8CcOE866nGziodmvO8K\n";

pub(crate) struct Registry {
    pub(crate) address: String,
    pub(crate) log: PathBuf,
    _child: Child,
    _folder: TempDir,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// One that gives nothing to strangers.
    pub(crate) async fn locked() -> Self {
        Self::start_with("auth: {htpasswd: {realm: test, path: FOLDER/htpasswd}}\n").await
    }

    async fn start_with(auth: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = free_address().await;
        let path = folder.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nhttp: {{addr: '{address}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{path}'}}}}\n{}",
            auth.replace("FOLDER", &path.to_string())
        );
        std::fs::write(folder.path().join("htpasswd"), HTPASSWD).expect("writes the passwords");
        let config_file = folder.path().join("config.yml");
        std::fs::write(&config_file, config).expect("writes the config");
        let log = folder.path().join("log");
        let output = std::fs::File::create(&log).expect("makes the log");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config_file)
            .stdout(output.try_clone().expect("the same file"))
            .stderr(output)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("docker-registry is installed (package docker-registry)");
        let registry = Self { address, log, _child: child, _folder: folder };
        registry.ready().await;
        registry
    }

    async fn ready(&self) {
        let began = Instant::now();
        while TcpStream::connect(&self.address).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", read(&self.log));
            // The pace of asking; the registry does not tell when it is ready.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An address that nobody listens at.
pub(crate) async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("a bound socket has an address").to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
