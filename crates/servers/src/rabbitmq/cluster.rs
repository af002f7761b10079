//! A cluster of three nodes on one machine.

use std::path::Path;

use rustix::process::Signal;

use super::PACKAGE;
use super::node::{self, Node, Ports};
use crate::folder::{Account, Folder};
use crate::process::Server;
use crate::{Result, ports};

/// The least that lose one and go on.
const NODES: usize = 3;

/// Three running private RabbitMQ nodes that form a cluster, with their data in
/// `DATA/rabbitmq-cluster`.
///
/// Log in as `guest`, password `guest`, at any of them.
#[derive(Debug)]
pub struct RabbitCluster {
    servers: [Option<Server>; NODES],
    /// One port mapper for all: it is how the nodes find each other.
    epmd: Server,
    nodes: [Node; NODES],
    // Dropped last: the folder is free again only when the servers are.
    _folder: Folder,
}

impl RabbitCluster {
    /// Starts the cluster in `data`, which is made when it does not exist. Later starts go on
    /// with the same queues and their messages.
    pub async fn start(data: &Path) -> Result<Self> {
        const FOLDER: &str = "rabbitmq-cluster";
        let account = Account::unless_unprivileged("rabbitmq", PACKAGE)?;
        let folder = Folder::open(data, FOLDER, account)?;
        let folders = [
            Folder::open(folder.path(), "1", account)?,
            Folder::open(folder.path(), "2", account)?,
            Folder::open(folder.path(), "3", account)?,
        ];
        for folder in folders.iter().chain([&folder]) {
            node::stop_leftover(folder).await;
        }
        let [mapper, ports @ ..]: [u16; 1 + 3 * NODES] = ports::keep(&folder.join("ports"))?;
        let mut index = 0;
        let nodes = folders.map(|folder| {
            let [amqp, distribution, management] = [0, 1, 2].map(|port| ports[3 * index + port]);
            let name = name(index);
            index += 1;
            Node { folder, name, ports: Ports { amqp, distribution, management }, mapper }
        });
        let cookie = node::cookie(&nodes[0].folder)?;
        for (index, node) in nodes.iter().enumerate() {
            node.configure(&formation(index), &[], &cookie)?;
        }
        let epmd = node::start_epmd(&folder, mapper).await?;
        // The first alone, for the others to join: of nodes that all look for each other, two
        // may found a cluster each. After a stop this order does not matter, only that they come
        // together: a node waits for the one that stopped last.
        let (first, second, third) = if nodes[0].has_data() {
            let (first, second, third) = tokio::join!(nodes[0].start(), nodes[1].start(), nodes[2].start());
            (first?, second?, third?)
        } else {
            let first = nodes[0].start().await?;
            let (second, third) = tokio::join!(nodes[1].start(), nodes[2].start());
            (first, second?, third?)
        };
        Ok(Self { servers: [Some(first), Some(second), Some(third)], epmd, nodes, _folder: folder })
    }

    /// The AMQP addresses of `vhost` (`/` is always there) at each node, for the user `guest`.
    #[must_use]
    pub fn amqp_urls(&self, vhost: &str) -> [String; NODES] {
        self.nodes.each_ref().map(|node| node.amqp_url(vhost))
    }

    /// The addresses of each node's management HTTP API, with user and password, without a
    /// closing slash.
    #[must_use]
    pub fn management_urls(&self) -> [String; NODES] {
        self.nodes.each_ref().map(Node::management_url)
    }

    /// The nodes' Erlang names, by which the management API calls them.
    #[must_use]
    pub fn names(&self) -> [String; NODES] {
        self.nodes.each_ref().map(|node| node.name.clone())
    }

    /// Ends a node with SIGKILL. Nothing happens if it does not run.
    ///
    /// # Panics
    /// When there is no such node.
    pub async fn kill(&mut self, node: usize) -> Result<()> {
        match self.servers[node].take() {
            Some(server) => server.crash(Signal::KILL).await,
            None => Ok(()),
        }
    }

    /// Starts a node that was killed, and waits until it serves as a member again.
    ///
    /// # Panics
    /// When there is no such node.
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        self.kill(node).await?;
        node::stop_leftover(&self.nodes[node].folder).await;
        self.servers[node] = Some(self.nodes[node].start().await?);
        Ok(())
    }

    /// Stops all nodes and waits until they have written everything down.
    pub async fn stop(self) -> Result<()> {
        let [first, second, third] = self.servers.map(|server| async {
            match server {
                Some(server) => server.stop().await,
                None => Ok(()),
            }
        });
        let stopped = tokio::join!(first, second, third);
        stopped.0.and(stopped.1).and(stopped.2)?;
        self.epmd.stop().await
    }
}

fn name(index: usize) -> String {
    format!("gantry-{}@localhost", index + 1)
}

/// Where a new node looks for its cluster: the first founds it.
fn formation(index: usize) -> String {
    if index == 0 {
        return String::new();
    }
    format!(
        "cluster_formation.peer_discovery_backend = classic_config\n\
         cluster_formation.classic_config.nodes.1 = {}\n\
         cluster_formation.classic_config.nodes.2 = {}\n",
        name(0),
        name(index)
    )
}
