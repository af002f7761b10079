//! A private Postgres.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::folder::{Account, Folder};
use crate::process::{self, Server};
use crate::{Error, Result, leftover, ports, program};

/// The superuser that the cluster is made with; logs in without a password.
const SUPERUSER: &str = "postgres";

/// A running private Postgres, with its data in `DATA/postgres`.
///
/// Durable as in production (fsync and synchronous commit are on), reached over TCP on
/// 127.0.0.1 only. It has no unix socket: the length of a socket's path is limited, and the
/// folder's is not ours to choose.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    port: u16,
    // Dropped last: the folder is free again only when the server is.
    _folder: Folder,
}

impl Postgres {
    /// Starts Postgres in `data`, which is made when it does not exist. The first start makes a
    /// new cluster (UTF-8, C locale); later ones go on with it, also after a crash.
    ///
    /// As root, the server runs as the account `postgres`.
    pub async fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, &[]).await
    }

    /// The same with further settings, `name=value` each, until it is started again.
    pub async fn start_with(data: &Path, settings: &[&str]) -> Result<Self> {
        let bin = program::postgres().await?;
        let account = Account::unless_unprivileged("postgres", "postgresql")?;
        let folder = Folder::open(data, "postgres", account)?;
        let cluster = folder.join("cluster");

        // Fast shutdown; backends that outlive a killed master count, too: two masters on one
        // cluster would destroy it.
        leftover::stop(&cluster, &["postgres"], Signal::INT).await;
        let pid_file = cluster.join("postmaster.pid");
        if pid_file.exists() {
            // Nothing runs here any more. Postgres would see that itself, unless another
            // process has the old number by now.
            fs::remove_file(&pid_file).map_err(Error::io("remove", &pid_file))?;
        }
        if !cluster.exists() {
            make_cluster(&folder, &bin, &cluster).await?;
        }

        let [port] = ports::keep(&folder.join("port"))?;
        let mut command = folder.command(bin.join("postgres"));
        command.arg("-D").arg(&cluster);
        let port_setting = format!("port={port}");
        let own = [
            port_setting.as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=300",
            "log_line_prefix=%m [%p] %d ",
        ];
        for setting in own.iter().chain(settings) {
            command.arg("-c").arg(setting);
        }
        let log = folder.join("postgres.log");
        // SIGINT is the fast shutdown: it does not wait for clients to go.
        let mut server = Server::spawn("Postgres", command, log, Signal::INT)?;
        // The eighth line of this file is the server's own word on its state.
        server
            .ready(async || {
                fs::read_to_string(&pid_file).is_ok_and(|text| text.lines().nth(7).is_some_and(|l| l.trim() == "ready"))
            })
            .await?;
        Ok(Self { server, port, _folder: folder })
    }

    /// The address of `database` for `user`; neither is checked to exist. `postgres` is both the
    /// superuser and the name of a database that is always there.
    #[must_use]
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port)
    }

    /// Stops the server (clients are cut off) and waits until it has written everything down.
    pub async fn stop(self) -> Result<()> {
        self.server.stop().await
    }

    /// Postgres' immediate shutdown: clients are cut off, nothing is written down, and the next start recovers as
    /// after a crash.
    pub async fn crash(self) -> Result<()> {
        self.server.crash(Signal::QUIT).await
    }
}

async fn make_cluster(folder: &Folder, bin: &Path, cluster: &Path) -> Result<()> {
    // Made under another name and moved when complete, so that one half made by a run that was
    // interrupted is never taken for a cluster.
    let unfinished = folder.join("cluster.unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(Error::io("remove", &unfinished))?;
    }
    let mut initdb = folder.command(bin.join("initdb"));
    initdb
        .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER])
        .arg("--pgdata")
        .arg(&unfinished);
    process::run(initdb).await?;
    fs::rename(&unfinished, cluster).map_err(Error::io("rename", &unfinished))
}
