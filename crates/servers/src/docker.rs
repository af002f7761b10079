//! A private Docker Engine, and the image that tests run.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::folder::Folder;
use crate::process::{self, Server};
use crate::{Error, Result, http, leftover, program};

/// The image that [`DockerEngine::import_test_image`] makes.
pub const TEST_IMAGE: &str = "gantry/busybox:1";

/// The longest path of a unix socket, without its closing zero byte.
const SOCKET_PATH_LIMIT: usize = 107;
/// Images and containers. The engine mounts this folder on itself, and takes the mount away again when it stops, unless
/// it was left by an engine that was killed.
const DATA: &str = "data";
/// Where the engine looks whether its containerd still runs. It takes whatever process has that number for it, also
/// one that is dead and that nobody has waited for yet.
const CONTAINERD_PID_FILE: &str = "exec/containerd/containerd.pid";
/// The longest socket path that the engine makes below its folder.
const LONGEST_SOCKET: &str = "exec/containerd/containerd-debug.sock";

/// A running private Docker Engine (with a containerd of its own), with its data in
/// `DATA/docker`.
///
/// It has no bridge and leaves the machine's firewall alone: containers have the network modes
/// `none` and `host`. Stopping it ends its containers.
#[derive(Debug)]
pub struct DockerEngine {
    server: Server,
    socket: PathBuf,
    folder: Folder,
}

impl DockerEngine {
    /// Starts a Docker Engine in `data`, which is made when it does not exist. Later starts go
    /// on with the same images and (ended) containers.
    ///
    /// # Errors
    /// [`Error::NeedsRoot`] for any other user.
    pub async fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, &[]).await
    }

    /// The same with more of `dockerd`'s own arguments, such as another `--host`.
    ///
    /// # Errors
    /// [`Error::NeedsRoot`] for any other user.
    pub async fn start_with(data: &Path, arguments: &[String]) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NeedsRoot);
        }
        let dockerd = program::find("dockerd", &["/usr/sbin"], "docker.io")?;
        program::find("iptables", &["/usr/sbin", "/sbin"], "iptables")?;
        let folder = Folder::open(data, "docker", None)?;
        let longest = folder.join(LONGEST_SOCKET);
        if longest.as_os_str().as_bytes().len() > SOCKET_PATH_LIMIT {
            return Err(Error::PathTooLong { path: longest, limit: SOCKET_PATH_LIMIT });
        }
        leftover::stop(folder.path(), &["dockerd"], Signal::TERM).await;
        leftover::stop(folder.path(), &["containerd"], Signal::TERM).await;
        let pid_file = folder.join("dockerd.pid");
        for stale in [&pid_file, &folder.join(CONTAINERD_PID_FILE)] {
            if stale.exists() {
                // Nothing runs here any more, whoever has the old number by now.
                fs::remove_file(stale).map_err(Error::io("remove", stale))?;
            }
        }

        let socket = folder.join("docker.sock");
        let mut command = folder.command(dockerd);
        command
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            // Not the machine's own configuration.
            .arg("--config-file")
            .arg(folder.write("daemon.json", "{}\n", 0o644)?)
            .arg("--data-root")
            .arg(folder.join(DATA))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(pid_file)
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--group=root"])
            .args(arguments);
        let log = folder.join("dockerd.log");
        let mut server = Server::spawn("Docker Engine", command, log, Signal::TERM)?;
        server.ready(async || pings(&socket).await).await?;
        Ok(Self { server, socket, folder })
    }

    /// The engine's socket; as `DOCKER_HOST` with `unix://` before it.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket
    }

    /// Makes the image [`TEST_IMAGE`] on this engine, unless it has it: a static busybox with a
    /// link for every applet, `/tmp`, and the accounts root and nobody. Nothing is pulled.
    pub async fn import_test_image(&self) -> Result<()> {
        if process::run(self.docker(["image", "inspect", TEST_IMAGE])?).await.is_ok() {
            return Ok(());
        }
        let root = self.folder.join("test-image");
        make_root(&root).await?;
        let mut tar = Command::new("tar");
        tar.args(["--create", "--owner=0", "--group=0", "--directory"]).arg(&root).arg(".");
        let mut tar =
            tar.stdout(Stdio::piped()).kill_on_drop(true).spawn().map_err(Error::io("start", Path::new("tar")))?;
        let archive = tar.stdout.take().expect("stdout was piped above");
        let archive: Stdio = archive.try_into().map_err(Error::io("read from", Path::new("tar")))?;
        let mut import = self.docker(["import", "-", TEST_IMAGE])?;
        import.stdin(archive);
        process::run(import).await?;
        let status = tar.wait().await.map_err(Error::io("wait for", Path::new("tar")))?;
        process::succeeded(Path::new("tar"), status, b"")
    }

    /// Stops the engine and every container on it, and waits until they have ended.
    pub async fn stop(self) -> Result<()> {
        // The engine would give each container its ten seconds to end after SIGTERM.
        let running = process::run(self.docker(["ps", "--quiet"])?).await?;
        if !running.is_empty() {
            let mut kill = self.docker(["kill"])?;
            kill.args(running.lines());
            // A container that ended by itself in between makes this fail; no matter.
            let _ = process::run(kill).await;
        }
        self.server.stop().await?;
        unmount_below(self.folder.path()).await
    }

    /// Stops the engine as its service manager does (SIGTERM), and waits until it has ended: it takes no new connections
    /// from then on, and stops its containers itself, each with ten seconds after SIGTERM.
    pub async fn terminate(self) -> Result<()> {
        self.server.stop().await
    }

    /// Kills the engine (SIGKILL). Its containers run on, until the next start ends them.
    pub async fn crash(self) -> Result<()> {
        self.server.crash(Signal::KILL).await
    }

    fn docker<const N: usize>(&self, arguments: [&str; N]) -> Result<Command> {
        let mut command = self.folder.command(program::find("docker", &[], "docker.io")?);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket.display())).args(arguments);
        Ok(command)
    }
}

async fn pings(socket: &Path) -> bool {
    match UnixStream::connect(socket).await {
        Ok(connection) => http::answers(connection, "/_ping", "").await,
        Err(_) => false,
    }
}

/// Takes away whatever is mounted below a folder. An engine leaves the namespace of its first container with the
/// network mode `host` mounted, and one that was started after a kill its [`DATA`].
async fn unmount_below(folder: &Path) -> Result<()> {
    let list = Path::new("/proc/self/mounts");
    let mounts = fs::read_to_string(list).map_err(Error::io("read", list))?;
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1).map(Path::new));
    let below: Vec<_> = targets.filter(|target| target.starts_with(folder)).collect();
    // What was mounted last may lie on what was mounted before it.
    for target in below.into_iter().rev() {
        let mut umount = Command::new("umount");
        umount.arg(target);
        process::run(umount).await?;
    }
    Ok(())
}

/// Lays out the test image's root folder.
async fn make_root(root: &Path) -> Result<()> {
    let busybox = program::find("busybox", &["/bin"], "busybox-static")?;
    let applets = process::run({
        let mut list = Command::new(&busybox);
        list.arg("--list");
        list
    })
    .await?;
    if root.exists() {
        fs::remove_dir_all(root).map_err(Error::io("remove", root))?;
    }
    for folder in ["bin", "etc", "tmp"] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).map_err(Error::io("make the folder", &folder))?;
    }
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).map_err(Error::io("set the permissions of", &tmp))?;
    let passwd = root.join("etc/passwd");
    fs::write(&passwd, "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        .map_err(Error::io("write", &passwd))?;
    let target = root.join("bin/busybox");
    fs::copy(&busybox, &target).map_err(Error::io("copy", &busybox))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let link = root.join("bin").join(applet);
        symlink("busybox", &link).map_err(Error::io("make the link", &link))?;
    }
    Ok(())
}
