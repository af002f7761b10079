//! What went over the wire, for those who hold it against the published schemas.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

/// How many exchanges are kept: a double may serve for weeks.
const KEPT: usize = 5_000;
/// The largest body.
const MOST: usize = 16 << 20;

/// A request that the double did, and its answer. A body that is not there, or not JSON, is null.
#[derive(Clone, Debug, Serialize)]
pub struct Exchange {
    /// The HTTP method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The request's body.
    pub request: Value,
    /// The HTTP status.
    pub status: u16,
    /// The answer's body.
    pub response: Value,
}

#[derive(Clone, Default)]
pub(super) struct Recorder(Arc<Mutex<VecDeque<Exchange>>>);

impl Recorder {
    pub(super) fn exchanges(&self) -> Vec<Exchange> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, exchange: Exchange) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(exchange);
    }
}

/// Around every request.
pub(super) async fn record(State(recorder): State<Recorder>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(sent) = to_bytes(body, MOST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let (method, path) = (parts.method.to_string(), parts.uri.to_string());
    let response = next.run(Request::from_parts(parts, Body::from(sent.clone()))).await;
    let (parts, body) = response.into_parts();
    let Ok(answered) = to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_default();
    let (request, response) = (json(&sent), json(&answered));
    recorder.push(Exchange { method, path, request, status: parts.status.as_u16(), response });
    Response::from_parts(parts, Body::from(answered))
}
