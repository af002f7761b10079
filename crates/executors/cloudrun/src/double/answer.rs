//! Answers in Google's form: a resource, or an error with its code and status.

use std::collections::HashMap;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

/// What a request comes to.
pub(super) type Answer = Result<Json<Value>, Refusal>;

/// The query of a request.
pub(super) type Query = axum::extract::Query<HashMap<String, String>>;

/// An error of the service.
#[derive(Debug)]
pub(super) struct Refusal {
    code: StatusCode,
    status: &'static str,
    message: String,
    details: Vec<Value>,
}

impl Refusal {
    fn new(code: StatusCode, status: &'static str, message: impl Into<String>) -> Self {
        Self { code, status, message: message.into(), details: Vec::new() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
    }

    pub(super) fn not_found(kind: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("Resource '{name}' of kind '{kind}' does not exist."))
    }

    pub(super) fn exists(name: &str) -> Self {
        let message = format!("Resource '{name}' already exists.");
        Self::new(StatusCode::CONFLICT, "ALREADY_EXISTS", message)
    }

    pub(super) fn changed(name: &str) -> Self {
        let message = format!("Conflict for resource '{name}': its etag is another one.");
        Self::new(StatusCode::CONFLICT, "ABORTED", message)
    }

    pub(super) fn denied(permission: &str) -> Self {
        let message = format!("Permission '{permission}' denied on resource (or it may not exist).");
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
    }

    pub(super) fn over(name: &str) -> Self {
        let message = format!("Execution '{name}' has already completed.");
        Self::new(StatusCode::BAD_REQUEST, "FAILED_PRECONDITION", message)
    }

    pub(super) fn no_room(location: &str, what: &str) -> Self {
        let description = format!("Quota exceeded for total allowable {what} per project per region.");
        let violation = json!({ "subject": format!("location:{location}"), "description": description });
        let details = json!({ "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation] });
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", description);
        Self { details: vec![details], ..refusal }
    }

    /// What the service says to this status, for a fault that has no words of its own. Source: "HTTP Mapping" of each
    /// `google.rpc.Code`.
    pub(super) fn of(code: StatusCode) -> Self {
        let status = match code.as_u16() {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ABORTED",
            429 => "RESOURCE_EXHAUSTED",
            499 => "CANCELLED",
            500 => "INTERNAL",
            501 => "UNIMPLEMENTED",
            503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            _ => "UNKNOWN",
        };
        Self::new(code, status, code.canonical_reason().unwrap_or("The request failed."))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code.as_u16(), "message": self.message, "status": self.status });
        if !self.details.is_empty() {
            error["details"] = self.details.into();
        }
        (self.code, Json(json!({ "error": error }))).into_response()
    }
}

/// One page of `items` under `key`, by the query's `pageSize` and `pageToken`.
pub(super) fn page(key: &str, items: Vec<Value>, query: &HashMap<String, String>) -> Answer {
    let number = |key: &str| match query.get(key).map(String::as_str) {
        None | Some("") => Ok(0),
        Some(text) => text.parse::<usize>().map_err(|_| Refusal::invalid(format!("{key}: {text:?}"))),
    };
    let (size, from) = (number("pageSize")?, number("pageToken")?);
    Ok(Json(part(key, items, size, from)))
}

/// The part of `items` from `from` on, and how to go on after it.
pub(super) fn part(key: &str, items: Vec<Value>, size: usize, from: usize) -> Value {
    /// What a page has at most, and if nobody says.
    const MOST: usize = 100;
    let size = if size == 0 { MOST } else { size.min(MOST) };
    let total = items.len();
    let taken: Vec<Value> = items.into_iter().skip(from).take(size).collect();
    let next = from + taken.len();
    let mut page = Map::new();
    if !taken.is_empty() {
        page.insert(key.into(), taken.into());
    }
    if next < total {
        page.insert("nextPageToken".into(), next.to_string().into());
    }
    page.into()
}
