//! Every refusal and failure as problem details (RFC 9457).

use axum::Json;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use gantry_core::Problem;
use gantry_core::problem::Code;

use crate::wire::{PROBLEM_JSON, ProblemDetails};

/// What a handler returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not done. Failures are logged where they are turned into this, so that what is inside can be
/// shown to anyone.
#[derive(Debug)]
pub(crate) struct Error {
    status: StatusCode,
    problem: Problem,
}

/// Seconds after which a client may try again what failed with `unavailable`.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

impl Error {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Problem::new(code, message).into()
    }

    pub(crate) fn field(code: Code, field: impl Into<String>, message: impl Into<String>) -> Self {
        Problem::field(code, field, message).into()
    }

    /// Something exists at this path, but not for this method.
    pub(crate) fn method_not_allowed(message: impl Into<String>) -> Self {
        Self::new(Code::MethodNotAllowed, message)
    }

    /// Whether the same may work later.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.problem.code == Code::Unavailable
    }

    pub(crate) fn details(self) -> ProblemDetails {
        let Self { status, problem } = self;
        ProblemDetails {
            kind: format!("urn:gantry:problem:{}", problem.code),
            title: title(problem.code).into(),
            status: status.as_u16(),
            detail: problem.message,
            code: problem.code,
            field: problem.field,
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { status: status(problem.code), problem }
    }
}

impl From<gantry_store::Error> for Error {
    fn from(error: gantry_store::Error) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "a request failed: the database is away or overloaded");
            return Self::new(Code::Unavailable, "the database does not answer now; send the same request again later");
        }
        tracing::error!(%error, "a request failed in the database");
        Self::new(Code::Internal, "a fault of Gantry's own; its cause is in Gantry's log")
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code) = (self.status, self.problem.code);
        let mut response = (status, Json(self.details())).into_response();
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value| headers.insert(name, value);
        set(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        match code {
            Code::Unauthorized => set(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            Code::Unavailable => set(RETRY_AFTER, RETRY_AFTER_SECONDS),
            _ => None,
        };
        response
    }
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidJson
        | Code::InvalidField
        | Code::UnsupportedVersion
        | Code::MissingIdempotencyKey
        | Code::UnknownTemplate
        | Code::UnknownProject
        | Code::UnsupportedExecutor
        | Code::InvalidEnvironment
        | Code::ConfirmationRequired => StatusCode::BAD_REQUEST,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::IdempotencyConflict | Code::Conflict | Code::HostReachable => StatusCode::CONFLICT,
        Code::LogsExpired => StatusCode::GONE,
        Code::BacklogFull => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn title(code: Code) -> &'static str {
    match code {
        Code::InvalidJson => "The body is not JSON",
        Code::InvalidField => "A field or parameter is not valid",
        Code::UnsupportedVersion => "The version is not known here",
        Code::TooLarge => "The request is too large",
        Code::Unauthorized => "An API key is needed",
        Code::Forbidden => "The API key may not do this",
        Code::NotFound => "There is no such thing",
        Code::MethodNotAllowed => "Not for this method",
        Code::MissingIdempotencyKey => "An idempotency key is needed",
        Code::IdempotencyConflict => "The idempotency key was used for something else",
        Code::UnknownTemplate => "There is no such template",
        Code::UnknownProject => "There is no such project",
        Code::UnsupportedExecutor => "The executor cannot run this job",
        Code::InvalidEnvironment => "An environment is not valid",
        Code::Conflict => "It conflicts with what is there",
        Code::HostReachable => "The host answers",
        Code::ConfirmationRequired => "It must be confirmed",
        Code::LogsExpired => "The log is not kept any more",
        Code::BacklogFull => "As many jobs wait as may",
        Code::Unavailable => "Not available now",
        Code::Internal => "A fault of Gantry's own",
    }
}
