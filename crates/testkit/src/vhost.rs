//! A vhost per test.

use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::environment;

/// A RabbitMQ vhost of this test's own, open to the user `guest`. Deleted with this value, with
/// its queues and connections.
#[derive(Debug)]
pub struct TestVhost {
    amqp: Url,
    management: Management,
    name: String,
}

impl TestVhost {
    /// Makes a vhost.
    pub async fn create() -> Self {
        let amqp = environment::address("GANTRY_TEST_AMQP_URL");
        let management = environment::address("GANTRY_TEST_RABBITMQ_MANAGEMENT_URL");
        Self::create_on(amqp.as_str(), management.as_str()).await
    }

    /// The same on a server of the test's own, by its AMQP address and that of its management API.
    pub async fn create_on(amqp: &str, management: &str) -> Self {
        let mut amqp = Url::parse(amqp).expect("the server's address");
        let management = Management::new(Url::parse(management).expect("the server's address"));
        let name = format!("gantry_test_{}", Uuid::now_v7().simple());
        amqp.set_path(&name);
        let vhost = Self { amqp, management, name };
        vhost.make().await;
        vhost
    }

    async fn make(&self) {
        self.management.call(Method::PUT, &["vhosts", &self.name], None).await.expect("a vhost can be made");
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        let given = self.management.call(Method::PUT, &["permissions", &self.name, "guest"], Some(all)).await;
        given.expect("permissions can be given");
    }

    /// Deletes the vhost with all that is in it, its connections included, and makes it again: a broker that lost its
    /// data.
    pub async fn reset(&self) {
        let deleted = self.management.call(Method::DELETE, &["vhosts", &self.name], None).await;
        deleted.expect("a vhost can be deleted");
        self.make().await;
    }

    /// Deletes every queue that is not exclusive to a connection, and every exchange whose name begins so. Connections
    /// stay.
    pub async fn delete_all(&self, exchanges: &str) {
        let queues = self.list("queues").await;
        for queue in queues.iter().filter(|queue| queue["exclusive"] != true) {
            self.delete("queues", queue).await;
        }
        let all = self.list("exchanges").await;
        let named = |exchange: &&Value| exchange["name"].as_str().is_some_and(|name| name.starts_with(exchanges));
        for exchange in all.iter().filter(named) {
            self.delete("exchanges", exchange).await;
        }
    }

    async fn list(&self, kind: &str) -> Vec<Value> {
        let listed = self.management.call(Method::GET, &[kind, &self.name], None).await;
        listed.expect("it can be listed").as_array().cloned().unwrap_or_default()
    }

    async fn delete(&self, kind: &str, what: &Value) {
        let name = what["name"].as_str().expect("it has a name");
        let deleted = self.management.call(Method::DELETE, &[kind, &self.name, name], None).await;
        deleted.expect("it can be deleted");
    }

    /// The vhost's AMQP address.
    #[must_use]
    pub fn amqp_url(&self) -> &str {
        self.amqp.as_str()
    }

    /// Throws away every message that is ready in any of the vhost's queues.
    pub async fn purge_all(&self) {
        let queues = self.management.call(Method::GET, &["queues", &self.name], None).await;
        let queues = queues.expect("queues can be listed");
        // A queue that is exclusive to a connection can be purged over that one only.
        for queue in queues.as_array().into_iter().flatten().filter(|queue| queue["exclusive"] != true) {
            let queue = queue["name"].as_str().expect("a queue has a name");
            self.management
                .call(Method::DELETE, &["queues", &self.name, queue, "contents"], None)
                .await
                .expect("a queue can be purged");
        }
    }
}

impl Drop for TestVhost {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // A client of its own: a connection belongs to the runtime that opened it.
        let management = Management::new(self.management.address.clone());
        environment::finish(async move {
            let _ = management.call(Method::DELETE, &["vhosts", &name], None).await;
        });
    }
}

/// RabbitMQ's management HTTP API.
#[derive(Debug)]
struct Management {
    address: Url,
    client: Client,
}

impl Management {
    fn new(address: Url) -> Self {
        // reqwest wants a TLS provider even where no TLS is spoken. An error: there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { address, client: Client::new() }
    }

    /// Calls `/api/PATH`; an answer without a body is `Value::Null`.
    async fn call(&self, method: Method, path: &[&str], body: Option<Value>) -> reqwest::Result<Value> {
        let mut url = self.address.clone();
        url.path_segments_mut().expect("the management API's address is http").push("api").extend(path);
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }
}
