//! An API of the test's own, and clients of it.

use std::net::SocketAddr;
use std::time::Duration;

use gantry_api::{Http, Nudges, Service};
use gantry_runtime::Shutdown;
use gantry_store::{Config, Store, tenants};
use gantry_testkit::TestDb;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The API on a free port, with a database of its own.
pub(crate) struct Api {
    pub(crate) fleet: Store,
    address: SocketAddr,
    http: reqwest::Client,
    shutdown: Shutdown,
    served: JoinHandle<std::io::Result<()>>,
    _db: Option<TestDb>,
}

/// An answer, with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// Somebody with a key.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(Nudges::default()).await
    }

    pub(crate) async fn start_with(nudges: Nudges) -> Self {
        let db = TestDb::create().await;
        let url = db.api_url();
        Self::start_at(db, &url, nudges).await
    }

    /// One whose database is reached over `url`.
    pub(crate) async fn start_at(db: TestDb, url: &str, nudges: Nudges) -> Self {
        // reqwest wants a TLS provider even where no TLS is spoken.
        gantry_runtime::process::install_tls();
        let fleet = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let store = Store::new(&Config::new(url), "gantry-api").expect("an address");
        let listen = Http { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let (service, address) = Service::bind(&listen, store, nudges).await.expect("a free port");
        let shutdown = Shutdown::new();
        let served = tokio::spawn(service.run(shutdown.clone()));
        Self { fleet, address, http: reqwest::Client::new(), shutdown, served, _db: Some(db) }
    }

    /// A client without a key.
    pub(crate) fn stranger(&self) -> Client {
        Client { http: self.http.clone(), base: format!("http://{}", self.address), key: None }
    }

    /// A client of a tenant, made if need be.
    pub(crate) async fn tenant(&self, name: &str) -> Client {
        self.key_of(name, false).await
    }

    /// A client with an operator's key.
    pub(crate) async fn operator(&self, name: &str) -> Client {
        self.key_of(name, true).await
    }

    async fn key_of(&self, name: &str, operator: bool) -> Client {
        let tenant = tenants::put_tenant(&self.fleet, name).await.expect("stored");
        let key = format!("{name}-{operator}");
        tenants::put_key(&self.fleet, tenant, "test", &key, operator).await.expect("stored");
        Client { key: Some(key), ..self.stranger() }
    }

    /// Asks the API to stop.
    pub(crate) fn stop(&self) {
        self.shutdown.request();
    }

    /// Resolves when it has stopped.
    pub(crate) async fn stopped(self) {
        let served = tokio::time::timeout(PATIENCE, self.served).await;
        served.expect("it stops").expect("it does not panic").expect("it served");
    }
}

impl Client {
    /// Somebody with this key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Submits one job that must be accepted, and returns its id.
    pub(crate) async fn submit(&self, body: &Value) -> String {
        let answer = self.post("/v1/jobs", body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.body["id"].as_str().expect("an id").to_owned()
    }
}

impl Answer {
    /// The status, code and field of a problem, after its form was checked.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, &str, Option<&str>) {
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], json!(self.status.as_u16()), "{self:?}");
        for text in ["title", "detail"] {
            assert!(self.body[text].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
        }
        let code = self.body["code"].as_str().expect("a code");
        assert_eq!(self.body["type"], json!(format!("urn:gantry:problem:{code}")));
        (self.status.as_u16(), code, self.body["field"].as_str())
    }
}

/// Sends a request; a body that is no JSON is the text itself.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.expect("a body");
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

/// The smallest job.
pub(crate) fn job() -> Value {
    json!({"spec": {"image": "busybox"}, "preferred_executor": "mock"})
}
