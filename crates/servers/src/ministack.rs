//! ministack, an ECS and CloudWatch Logs that nobody here wrote, with containers of a Docker Engine behind it.

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::folder::Folder;
use crate::process::Server;
use crate::{Error, Result, http, leftover, ports};

/// Where the environment with the counterparts that are written in Python is.
const PYTHON: &str = "GANTRY_PYTHON";
/// What is run: ministack, with what it leaves out of ECS put right.
const PROGRAM: &str = include_str!("ministack_server.py");

/// A running ministack that serves ECS and CloudWatch Logs on 127.0.0.1. Tasks are containers of the given engine,
/// tasks and logs are in memory. Nothing is pulled; images of `denied.invalid/` are refused by their registry, and
/// those of `never-starts.invalid/` fail to start without a container.
#[derive(Debug)]
pub struct Ministack {
    server: Server,
    port: u16,
    // Dropped last: the folder is free again only when the server is.
    _folder: Folder,
}

impl Ministack {
    /// Starts ministack in `data`; `docker_host` (`unix://` or `tcp://`) runs its containers.
    ///
    /// # Errors
    /// [`Error::NoPython`] where `GANTRY_PYTHON` does not name an environment that has ministack.
    pub async fn start(data: &Path, docker_host: &str) -> Result<Self> {
        let python = python()?;
        let folder = Folder::open(data, "ministack", None)?;
        leftover::stop(folder.path(), &["python", "python3", "python3.11"], Signal::TERM).await;
        let program = folder.write("ministack_server.py", PROGRAM, 0o644)?;
        let [port] = ports::keep(&folder.join("port"))?;
        let mut command = folder.command(python);
        command
            .arg(program)
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", port.to_string())
            .env("DOCKER_HOST", docker_host)
            .env("SERVICES", "ecs,logs")
            // Another listener, which does not heed BIND_HOST.
            .env("IOT_MTLS_ENABLED", "0")
            // Stopping a container takes as long as its grace.
            .env("MINISTACK_DOCKER_TIMEOUT", "150")
            .env("LOG_LEVEL", "WARNING")
            .env("TMPDIR", folder.path());
        let mut server = Server::spawn("ministack", command, folder.join("ministack.log"), Signal::TERM)?;
        server.ready(async || answers(port).await).await?;
        Ok(Self { server, port, _folder: folder })
    }

    /// Where ECS and CloudWatch Logs answer.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops it, and with it its containers.
    pub async fn stop(self) -> Result<()> {
        self.server.stop().await
    }
}

/// The environment's interpreter.
fn python() -> Result<PathBuf> {
    let folder = std::env::var_os(PYTHON).map(PathBuf::from).ok_or(Error::NoPython { variable: PYTHON })?;
    let python = folder.join("bin/python");
    let ministack = folder.join("bin/ministack");
    if python.is_file() && ministack.is_file() { Ok(python) } else { Err(Error::NoPython { variable: PYTHON }) }
}

async fn answers(port: u16) -> bool {
    match TcpStream::connect(("127.0.0.1", port)).await {
        Ok(connection) => http::answers(connection, "/_ministack/health", "").await,
        Err(_) => false,
    }
}
