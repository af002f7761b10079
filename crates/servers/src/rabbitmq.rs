//! A private RabbitMQ: one node, or a cluster.

mod cluster;
mod ctl;
mod node;

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::folder::{Account, Folder};
use crate::process::Server;
use crate::{Result, ports};

pub use cluster::RabbitCluster;
use node::{Node, Ports};

/// The Debian package that brings the server and makes its account.
const PACKAGE: &str = "rabbitmq-server";

/// A running private RabbitMQ node with its management API, with its data in `DATA/rabbitmq`.
///
/// Log in as `guest`, password `guest`.
#[derive(Debug)]
pub struct RabbitMq {
    server: Server,
    /// The Erlang port mapper. The node would start one that stays behind when it stops; this
    /// one is a child, and stops with it.
    epmd: Server,
    // Dropped last: the folder is free again only when the servers are.
    node: Node,
}

impl RabbitMq {
    /// Starts RabbitMQ in `data`, which is made when it does not exist. Later starts go on with
    /// the same queues and their messages.
    ///
    /// As root, the node runs as the account `rabbitmq`.
    pub async fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, &[]).await
    }

    /// The same with settings of RabbitMQ's own, in the terms of its `advanced.config`:
    /// `("consumer_timeout", 10_000)`.
    pub async fn start_with(data: &Path, settings: &[(&str, u64)]) -> Result<Self> {
        let account = Account::unless_unprivileged("rabbitmq", PACKAGE)?;
        let folder = Folder::open(data, "rabbitmq", account)?;
        node::stop_leftover(&folder).await;
        let [amqp, distribution, mapper, management] = ports::keep(&folder.join("ports"))?;
        let node = Node {
            // Its data belongs to this name, so it never changes; it need not differ between
            // folders, because each node has an epmd of its own.
            name: "gantry@localhost".to_owned(),
            ports: Ports { amqp, distribution, management },
            mapper,
            folder,
        };
        node.configure("", settings, &node::cookie(&node.folder)?)?;
        let epmd = node::start_epmd(&node.folder, mapper).await?;
        Ok(Self { server: node.start().await?, epmd, node })
    }

    /// The AMQP address of `vhost` (`/` is always there) for the user `guest`.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        self.node.amqp_url(vhost)
    }

    /// The address of the management HTTP API, with user and password, without a closing slash.
    #[must_use]
    pub fn management_url(&self) -> String {
        self.node.management_url()
    }

    /// The file that the node writes its log to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.node.log()
    }

    /// Stops the node and waits until it has written everything down.
    ///
    /// It takes some six seconds, five of which RabbitMQ's management agent spends on waiting
    /// for an answer that cannot come (it asks the process that is stopping it).
    pub async fn stop(self) -> Result<()> {
        self.server.stop().await?;
        self.epmd.stop().await
    }

    /// Kills the node (SIGKILL): what it had not written down is lost, as with a machine that fails.
    pub async fn crash(self) -> Result<()> {
        self.server.crash(Signal::KILL).await?;
        self.epmd.stop().await
    }
}
