//! A private RabbitMQ.

use std::hash::{BuildHasher, RandomState};
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::folder::{Account, Folder};
use crate::process::Server;
use crate::{Result, http, leftover, ports, program};

/// The node's name. Its data belongs to this name, so it never changes; it need not differ
/// between folders, because each node has an epmd of its own.
const NODE: &str = "gantry@localhost";
/// What a node is called while it starts (scripts replace themselves) and when it runs.
const NODE_PROCESSES: [&str; 4] = ["rabbitmq-server", "erl", "erlexec", "beam.smp"];
/// `guest:guest`, RabbitMQ's own default, good for connections from this machine only.
const GUEST: &str = "Authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n";

/// A running private RabbitMQ node with its management API, with its data in `DATA/rabbitmq`.
///
/// Log in as `guest`, password `guest`.
#[derive(Debug)]
pub struct RabbitMq {
    node: Server,
    /// The Erlang port mapper. The node would start one that stays behind when it stops; this
    /// one is a child, and stops with it.
    epmd: Server,
    amqp: u16,
    management: u16,
    // Dropped last: the folder is free again only when the servers are.
    _folder: Folder,
}

impl RabbitMq {
    /// Starts RabbitMQ in `data`, which is made when it does not exist. Later starts go on with
    /// the same queues and their messages.
    ///
    /// As root, the node runs as the account `rabbitmq`.
    pub async fn start(data: &Path) -> Result<Self> {
        const PACKAGE: &str = "rabbitmq-server";
        // Not Debian's wrapper of the same name in the search path: that one insists on the
        // account `rabbitmq` and the system's folders.
        let script = program::find("rabbitmq-server", &["/usr/lib/rabbitmq/bin"], PACKAGE)?;
        let epmd = program::find("epmd", &[], "erlang-base")?;
        let account = Account::unless_unprivileged("rabbitmq", PACKAGE)?;
        let folder = Folder::open(data, "rabbitmq", account)?;
        leftover::stop(folder.path(), &NODE_PROCESSES, Signal::TERM).await;
        leftover::stop(folder.path(), &["epmd"], Signal::TERM).await;
        let [amqp, distribution, mapper, management] = ports::keep(&folder.join("ports"))?;

        let mut command = folder.command(epmd);
        command.args(["-address", "127.0.0.1", "-port", &mapper.to_string()]);
        let log = folder.join("epmd.log");
        let mut epmd = Server::spawn("epmd", command, log, Signal::TERM)?;
        epmd.ready(async || connects(mapper).await).await?;

        configure(&folder, amqp, management)?;
        let mut command = folder.command(script);
        command
            .env("RABBITMQ_NODENAME", NODE)
            .env("RABBITMQ_NODE_PORT", amqp.to_string())
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}")
            .env("RABBITMQ_MNESIA_BASE", folder.make_dir("mnesia")?)
            .env("RABBITMQ_LOG_BASE", folder.make_dir("log")?)
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", folder.join("pid"))
            // The system's settings are not this node's.
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            // Makes the script become the node instead of watching over it.
            .env("detached", "true");
        let log = folder.join("rabbitmq.log");
        let mut node = Server::spawn("RabbitMQ", command, log, Signal::TERM)?;
        node.ready(async || connects(amqp).await && manages(management).await).await?;
        Ok(Self { node, epmd, amqp, management, _folder: folder })
    }

    /// The AMQP address of `vhost` (`/` is always there) for the user `guest`.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        let vhost = vhost.replace('%', "%25").replace('/', "%2f");
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.amqp)
    }

    /// The address of the management HTTP API, with user and password, without a closing slash.
    #[must_use]
    pub fn management_url(&self) -> String {
        format!("http://guest:guest@127.0.0.1:{}", self.management)
    }

    /// Stops the node and waits until it has written everything down.
    ///
    /// It takes some six seconds, five of which RabbitMQ's management agent spends on waiting
    /// for an answer that cannot come (it asks the process that is stopping it).
    pub async fn stop(self) -> Result<()> {
        self.node.stop().await?;
        self.epmd.stop().await
    }
}

fn configure(folder: &Folder, amqp: u16, management: u16) -> Result<()> {
    let conf = format!(
        "listeners.tcp.local = 127.0.0.1:{amqp}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {management}\n\
         # Everything goes to one file, the one that an error message quotes.\n\
         log.file = false\n\
         log.console = true\n\
         log.console.level = info\n\
         log.console.use_colors = off\n"
    );
    folder.write("rabbitmq.conf", &conf, 0o644)?;
    folder.write("enabled_plugins", "[rabbitmq_management].\n", 0o644)?;
    if !folder.join(".erlang.cookie").exists() {
        // Erlang insists on a cookie that only its owner can read.
        let secret = RandomState::new().hash_one(());
        folder.write(".erlang.cookie", &format!("{secret:020}"), 0o400)?;
    }
    Ok(())
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
