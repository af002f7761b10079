//! The HTTP API as any program uses it.

use std::time::Duration;

use anyhow::ensure;
use gantry_core::JobId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fleet::KEY;

/// Before a request is given up, and made again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client with the tenant's key.
pub(crate) struct Http {
    client: reqwest::Client,
    base: String,
}

impl Http {
    pub(crate) fn new(base: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        Ok(Self { client, base: base.to_owned() })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<(StatusCode, Value)> {
        let mut request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(KEY);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        // Not now is no answer.
        ensure!(!status.is_server_error(), "{status}");
        Ok((status, response.json().await?))
    }

    /// Hands in a job. The answer has the shape of an answer over AMQP.
    pub(crate) async fn submit(&self, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = self.call(Method::POST, "/v1/jobs", Some(body)).await?;
        Ok(if status.is_success() {
            json!({ "result": "accepted", "job_id": answer["id"] })
        } else {
            json!({ "result": "rejected", "problem": answer })
        })
    }

    /// Whether a job's container was seen running. (A job is `running` from its claim on.)
    pub(crate) async fn has_started(&self, job: JobId) -> anyhow::Result<bool> {
        let (status, answer) = self.call(Method::GET, &format!("/v1/jobs/{job}"), None).await?;
        ensure!(status.is_success(), "{status}: {answer}");
        Ok(!answer["started_at"].is_null())
    }

    /// Asks for a job's end. One that is over already is no error.
    pub(crate) async fn cancel(&self, job: JobId) -> anyhow::Result<()> {
        self.call(Method::POST, &format!("/v1/jobs/{job}/cancel"), None).await?;
        Ok(())
    }
}
