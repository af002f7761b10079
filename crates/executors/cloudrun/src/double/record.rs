//! What went over the wire, for those who hold it against the published schemas.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use gantry_double::Injected;
use serde::Serialize;
use serde_json::Value;

use super::answer::Refusal;

/// How many exchanges are kept: a double may serve for weeks.
const KEPT: usize = 5_000;
/// The largest body.
const MOST: usize = 16 << 20;

/// A request and its answer. A body that is not there, or not JSON, is null.
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

    /// Records a request with its answer, and gives the answer back as it was.
    async fn note(&self, asked: Asked, response: Response) -> Result<Response, StatusCode> {
        let (parts, body) = response.into_parts();
        let answered = to_bytes(body, usize::MAX).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or_default();
        let (request, response) = (json(&asked.body), json(&answered));
        let Asked { method, path, .. } = asked;
        self.push(Exchange { method, path, request, status: parts.status.as_u16(), response });
        Ok(Response::from_parts(parts, Body::from(answered)))
    }

    fn push(&self, exchange: Exchange) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(exchange);
    }
}

/// A request whose body has been read.
struct Asked {
    method: String,
    path: String,
    body: Bytes,
}

/// Around the double itself: what it does is recorded, whatever becomes of the answer on its way.
pub(super) async fn record_done(
    State(recorder): State<Recorder>,
    request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    let (asked, request) = read(request).await?;
    recorder.note(asked, next.run(request).await).await
}

/// Around the faults: what they answer themselves never comes to the double, and is recorded here. Only that: an answer
/// that is lost cannot be read.
pub(super) async fn record_injected(
    State(recorder): State<Recorder>,
    request: Request,
    next: Next,
) -> Result<Response, StatusCode> {
    let (asked, request) = read(request).await?;
    let response = next.run(request).await;
    let injected = response.extensions().get::<Injected>().copied();
    match injected {
        None => Ok(response),
        Some(Injected { has_body: true }) => recorder.note(asked, response).await,
        Some(Injected { has_body: false }) => {
            recorder.note(asked, Refusal::of(response.status()).into_response()).await
        }
    }
}

/// Reads a request, and gives it back as it was.
async fn read(request: Request) -> Result<(Asked, Request), StatusCode> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MOST).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let asked = Asked { method: parts.method.to_string(), path: parts.uri.to_string(), body: body.clone() };
    Ok((asked, Request::from_parts(parts, Body::from(body))))
}
