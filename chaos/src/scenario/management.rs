//! RabbitMQ's management API: what the broker itself says of its clients and queues.

use std::collections::BTreeMap;

use reqwest::{Client, Method, Url};
use serde_json::{Value, json};

/// One node's API.
#[derive(Clone, Debug)]
pub(crate) struct Management {
    address: Url,
    client: Client,
}

impl Management {
    pub(crate) fn new(address: &str) -> anyhow::Result<Self> {
        Ok(Self { address: Url::parse(address)?, client: Client::new() })
    }

    async fn call(&self, method: Method, path: &[&str], body: Option<Value>) -> anyhow::Result<Value> {
        let mut url = self.address.clone();
        url.path_segments_mut().map_err(|()| anyhow::anyhow!("not an http address"))?.push("api").extend(path);
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }

    /// Makes a vhost that `guest` may use.
    pub(crate) async fn put_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.call(Method::PUT, &["vhosts", name], None).await?;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        self.call(Method::PUT, &["permissions", name, "guest"], Some(all)).await?;
        Ok(())
    }

    /// A queue of the default vhost; a quorum queue's `leader`, `members` and `online` are in it.
    pub(crate) async fn queue(&self, name: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, &["queues", "/", name], None).await
    }

    /// The names of the nodes that run.
    pub(crate) async fn running_nodes(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.call(Method::GET, &["nodes"], None).await?;
        let running = nodes.as_array().into_iter().flatten().filter(|node| node["running"] == true);
        Ok(running.filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect())
    }

    /// Of each connection of Gantry's its name (address and port of both ends), with its part and its node.
    pub(crate) async fn connections(&self) -> anyhow::Result<BTreeMap<String, (String, String)>> {
        let connections = self.call(Method::GET, &["connections"], None).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(connections
            .as_array()
            .into_iter()
            .flatten()
            .map(|found| {
                let part = text(&found["client_properties"]["connection_name"]);
                (text(&found["name"]), (part, text(&found["node"])))
            })
            .filter(|(_, (part, _))| part.starts_with("gantry-"))
            .collect())
    }
}
