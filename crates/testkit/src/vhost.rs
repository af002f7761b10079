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
        let mut amqp = environment::address("GANTRY_TEST_AMQP_URL");
        let management = Management::new(environment::address("GANTRY_TEST_RABBITMQ_MANAGEMENT_URL"));
        let name = format!("gantry_test_{}", Uuid::now_v7().simple());
        amqp.set_path(&name);
        management.call(Method::PUT, &["vhosts", &name], None).await.expect("a vhost can be made");
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        management
            .call(Method::PUT, &["permissions", &name, "guest"], Some(all))
            .await
            .expect("permissions can be given");
        Self { amqp, management, name }
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
