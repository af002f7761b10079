//! A registry of the test's own, on loopback.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::query_parameters::{PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use futures::StreamExt;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::common::image;

pub(crate) struct Registry {
    pub(crate) address: String,
    log: PathBuf,
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

    /// Puts the test image there as `name`, and takes it from the engine. Returns the reference.
    pub(crate) async fn push(&self, docker: &Docker, name: &str) -> String {
        let repository = format!("{}/{name}", self.address);
        let tag = TagImageOptionsBuilder::new().repo(&repository).tag("1").build();
        docker.tag_image(&image(), Some(tag)).await.expect("tags");
        let options = PushImageOptionsBuilder::new().tag("1").build();
        let mut push = docker.push_image(&repository, Some(options), None);
        while let Some(step) = push.next().await {
            step.expect("pushes");
        }
        let reference = format!("{repository}:1");
        untag(docker, &reference).await;
        reference
    }

    /// How often the manifest of a pushed image was asked for by content or by head: once or twice a pull.
    pub(crate) fn pulls(&self, name: &str) -> usize {
        let request = format!("/v2/{name}/manifests/1");
        read(&self.log).lines().filter(|line| line.contains("\"GET ") && line.contains(&request)).count()
    }
}

/// Takes a name from the engine; its image stays under its others.
pub(crate) async fn untag(docker: &Docker, reference: &str) {
    let keep_others = RemoveImageOptionsBuilder::new().build();
    docker.remove_image(reference, Some(keep_others), None).await.expect("takes the tag away");
}

/// An address that nobody listens at.
pub(crate) async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("a bound socket has an address").to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
