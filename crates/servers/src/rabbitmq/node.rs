//! One node: its configuration, its process, its addresses.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use rustix::process::Signal;
use tokio::net::TcpStream;

use super::PACKAGE;
use crate::folder::Folder;
use crate::process::Server;
use crate::{Error, Result, http, leftover, program};

/// What a node is called while it starts (scripts replace themselves) and when it runs.
const PROCESSES: [&str; 4] = ["rabbitmq-server", "erl", "erlexec", "beam.smp"];
/// `guest:guest`, RabbitMQ's own default, good for connections from this machine only.
const GUEST: &str = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n";
const COOKIE: &str = ".erlang.cookie";
/// Reached from this machine only; and a scheduler that has nothing to do sleeps instead of spinning, because it shares its
/// core with everything else here.
const ERLANG: &str = "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none";

/// Where a node listens on 127.0.0.1.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) distribution: u16,
    pub(super) management: u16,
}

/// A node that may run or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) folder: Folder,
    /// Its Erlang name.
    pub(super) name: String,
    pub(super) ports: Ports,
    /// The port of the epmd that it registers with.
    pub(super) mapper: u16,
}

impl Node {
    /// Writes its configuration; `conf` is added to `rabbitmq.conf`, `settings` are its `advanced.config`.
    pub(super) fn configure(&self, conf: &str, settings: &[(&str, u64)], cookie: &str) -> Result<()> {
        let Ports { amqp, management, .. } = self.ports;
        let conf = format!(
            "listeners.tcp.local = 127.0.0.1:{amqp}\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n\
             # Everything goes to one file, the one that an error message quotes.\n\
             log.file = false\n\
             log.console = true\n\
             log.console.level = info\n\
             log.console.use_colors = off\n\
             # What quorum queues have written goes from one log to files of theirs when it is full: in small pieces, or one of\n\
             # 512 MB takes both cores for a second, and one of 64 MB half a second.\n\
             raft.wal_max_size_bytes = 4000000\n\
             {conf}"
        );
        self.folder.write("rabbitmq.conf", &conf, 0o644)?;
        let settings: Vec<String> = settings.iter().map(|(name, value)| format!("{{{name}, {value}}}")).collect();
        let advanced = format!("[{{rabbit, [{}]}}].\n", settings.join(", "));
        self.folder.write("advanced.config", &advanced, 0o644)?;
        self.folder.write("enabled_plugins", "[rabbitmq_management].\n", 0o644)?;
        if !self.folder.join(COOKIE).exists() {
            // Erlang insists on a cookie that only its owner can read.
            self.folder.write(COOKIE, cookie, 0o400)?;
        }
        Ok(())
    }

    /// Whether it ran before.
    pub(super) fn has_data(&self) -> bool {
        self.folder.join("mnesia").exists()
    }

    /// Starts it and waits until it serves; its epmd must run.
    pub(super) async fn start(&self) -> Result<Server> {
        // Not Debian's wrapper of the same name in the search path: that one insists on the
        // account `rabbitmq` and the system's folders.
        let script = program::find("rabbitmq-server", &["/usr/lib/rabbitmq/bin"], PACKAGE)?;
        let Ports { amqp, distribution, management } = self.ports;
        let folder = &self.folder;
        let mut command = folder.command(script);
        command
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_NODE_PORT", amqp.to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", self.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ERLANG)
            .env("RABBITMQ_MNESIA_BASE", folder.make_dir("mnesia")?)
            .env("RABBITMQ_LOG_BASE", folder.make_dir("log")?)
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            // The system's settings are not this node's.
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // Makes the script become the node instead of watching over it.
            .env("detached", "true");
        let mut server = Server::spawn("RabbitMQ", command, self.log(), Signal::TERM)?;
        server.ready(async || connects(amqp).await && manages(management).await).await?;
        Ok(server)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("rabbitmq.log")
    }

    pub(super) fn amqp_url(&self, vhost: &str) -> String {
        let vhost = vhost.replace('%', "%25").replace('/', "%2f");
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.ports.amqp)
    }

    pub(super) fn management_url(&self) -> String {
        format!("http://guest:guest@127.0.0.1:{}", self.ports.management)
    }
}

/// Stops what a supervisor that was killed left running in a folder. Before anything else: it holds the ports.
pub(super) async fn stop_leftover(folder: &Folder) {
    leftover::stop(folder.path(), &PROCESSES, Signal::TERM).await;
    leftover::stop(folder.path(), &["epmd"], Signal::TERM).await;
}

/// Starts an Erlang port mapper in a folder.
pub(super) async fn start_epmd(folder: &Folder, port: u16) -> Result<Server> {
    let epmd = program::find("epmd", &[], "erlang-base")?;
    let mut command = folder.command(epmd);
    command.args(["-address", "127.0.0.1", "-port", &port.to_string()]);
    let mut epmd = Server::spawn("epmd", command, folder.join("epmd.log"), Signal::TERM)?;
    epmd.ready(async || connects(port).await).await?;
    Ok(epmd)
}

/// The cookie of the node in this folder, or a new one.
pub(super) fn cookie(folder: &Folder) -> Result<String> {
    let path = folder.join(COOKIE);
    if path.exists() {
        return fs::read_to_string(&path).map_err(Error::io("read", &path));
    }
    let secret = RandomState::new().hash_one(());
    Ok(format!("{secret:020}"))
}

async fn connects(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok()
}

async fn manages(port: u16) -> bool {
    match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
        Ok(connection) => http::answers(connection, "/api/vhosts", GUEST).await,
        Err(_) => false,
    }
}
