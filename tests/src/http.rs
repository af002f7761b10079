//! The HTTP API as any program uses it.

use std::net::SocketAddr;

use gantry_core::JobId;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

/// A client with a key.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// An answer, its body read; a body that is no JSON is its text.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, key: &str) -> Self {
        // reqwest wants a TLS provider even where no TLS is spoken.
        gantry_runtime::process::install_tls();
        Self { http: reqwest::Client::new(), base: format!("http://{address}"), key: Some(key.to_owned()) }
    }

    /// The same with another key, or with none.
    #[must_use]
    pub fn with_key(&self, key: Option<&str>) -> Self {
        Self { key: key.map(str::to_owned), ..self.clone() }
    }

    /// The same at another address: a proxy's.
    #[must_use]
    pub fn at(&self, base: &str) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    /// POST with this body, JSON or not.
    pub async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        Answer::of(self.request(Method::POST, path).body(body.into())).await
    }

    /// Hands in a job that must be accepted.
    pub async fn submit(&self, body: &Value) -> JobId {
        let answer = self.post("/v1/jobs", body.to_string()).await;
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        answer.body["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
    }

    /// Hands in jobs that must all be accepted, in one request.
    pub async fn submit_all(&self, bodies: &[Value]) -> Vec<JobId> {
        let answer = self.post("/v1/jobs", Value::from(bodies.to_vec()).to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let results = answer.body.as_array().expect("an array").iter();
        results
            .map(|result| {
                assert_eq!(result["result"], "accepted", "{result}");
                result["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
            })
            .collect()
    }

    /// The job.
    pub async fn job(&self, id: JobId) -> Value {
        let answer = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Asks for its end.
    pub async fn cancel(&self, id: JobId) -> Answer {
        self.post(&format!("/v1/jobs/{id}/cancel"), "").await
    }
}

impl Answer {
    async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Self { status, headers, body }
    }
}
