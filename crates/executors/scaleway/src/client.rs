//! Requests to the API, and what comes of them.

use std::time::Duration;

use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::LaunchError;
use gantry_worker::secrets::{ExposeSecret as _, SecretString};
use reqwest::{Client, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long a connection may take, and a request altogether: less than what the engine gives a read.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// The largest answer that is read, in bytes.
const MOST: usize = 32 << 20;

/// The API of one region.
pub(crate) struct Api {
    http: Client,
    /// For starts alone: each on a connection of its own, so that not even a client's own repetition of a request that
    /// met a closing connection can start a run twice.
    once: Client,
    base: String,
    token: SecretString,
}

/// Why a request gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// There was no connection: the request was never sent.
    #[error("{0}")]
    NotSent(String),
    /// No answer, half an answer, or one that is none.
    #[error("{0}")]
    NoAnswer(String),
    /// The service answered with an error.
    #[error("{message} (HTTP {status} {kind})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The service's own name of the error; empty if something else answered.
        kind: String,
        /// In words.
        message: String,
    },
}

/// The body of an error.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<serde_json::Value>,
}

impl Api {
    pub(crate) fn new(url: &str, region: &str, token: SecretString) -> Result<Self, Failure> {
        // Whoever was first has installed one, and it does.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let build = |once: bool| {
            let client = client();
            if once { client.pool_max_idle_per_host(0) } else { client }
                .build()
                .map_err(|error| Failure::new(FailureClass::BackendError, format!("no HTTP client: {}", text(&error))))
        };
        let base = format!("{url}/serverless-jobs/v1alpha2/regions/{region}");
        Ok(Self { http: build(false)?, once: build(true)?, base, token })
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, Trouble> {
        self.decode(self.http.get(format!("{}{path}", self.base)).query(query)).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Trouble> {
        self.decode(self.http.post(format!("{}{path}", self.base)).json(body)).await
    }

    /// A post that is sent once, whatever happens. Dropping it closes its connection.
    pub(crate) async fn post_once<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Trouble> {
        self.decode(self.once.post(format!("{}{path}", self.base)).json(body)).await
    }

    async fn decode<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Trouble> {
        let request = request.header("x-auth-token", self.token.expose_secret());
        let answer = answer(request).await?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| Trouble::NoAnswer(format!("the answer is broken: {error}")))
    }
}

/// What came back.
pub(crate) struct Answer {
    /// The time on the server's clock, in whole seconds.
    pub(crate) date: Option<chrono::DateTime<chrono::Utc>>,
    pub(crate) body: Vec<u8>,
}

/// A client that repeats nothing by itself and goes nowhere else.
pub(crate) fn client() -> reqwest::ClientBuilder {
    Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
}

/// Sends a request and reads the answer to its end.
pub(crate) async fn answer(request: RequestBuilder) -> Result<Answer, Trouble> {
    let response = request.send().await.map_err(|error| trouble(&error))?;
    let status = response.status();
    let date = response
        .headers()
        .get(reqwest::header::DATE)
        .and_then(|date| chrono::DateTime::parse_from_rfc2822(date.to_str().ok()?).ok().map(|date| date.to_utc()));
    let body = bounded(response).await?;
    if status.is_success() {
        return Ok(Answer { date, body });
    }
    let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
    let mut message = match refusal.message.as_str() {
        "" => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned(),
        message => message.to_owned(),
    };
    if let Some(details) = refusal.details {
        message = format!("{message}: {details}");
    }
    Err(Trouble::Refused { status: status.as_u16(), kind: refusal.kind, message })
}

async fn bounded(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Trouble::NoAnswer(text(&error)))? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST {
            return Err(Trouble::NoAnswer(format!("the answer has more than {MOST} bytes")));
        }
    }
    Ok(body)
}

fn trouble(error: &reqwest::Error) -> Trouble {
    if error.is_connect() || error.is_builder() {
        Trouble::NotSent(text(error))
    } else {
        Trouble::NoAnswer(text(error))
    }
}

/// The error with all its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl Trouble {
    /// Whether the service itself says that there is no such thing. Something in between has a 404 of its own.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, kind, .. } if kind == "not_found")
    }

    /// The failure of a request that decided nothing about a run.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let class = match self {
            Self::NotSent(_) | Self::NoAnswer(_) => FailureClass::HostUnreachable,
            Self::Refused { status: 429, .. } => FailureClass::Throttled,
            Self::Refused { kind, .. } if no_room(kind) => FailureClass::NoCapacity,
            Self::Refused { .. } => FailureClass::BackendError,
        };
        Failure::new(class, format!("{what}: {self}"))
    }

    /// What it means for a start. Only an answer of 4xx, or no connection at all, is certain; of a 5xx the service's
    /// documents do not say that nothing was done.
    pub(crate) fn launch_error(&self) -> LaunchError {
        let class = match self {
            Self::NotSent(_) => FailureClass::HostUnreachable,
            Self::NoAnswer(_) | Self::Refused { status: 408 | 500.., .. } | Self::Refused { status: ..400, .. } => {
                return LaunchError::MaybeLaunched(format!("start: {self}"));
            }
            Self::Refused { status: 429, .. } => FailureClass::Throttled,
            Self::Refused { kind, .. } if no_room(kind) => FailureClass::NoCapacity,
            Self::Refused { status: 400 | 422, kind, .. } if kind == "invalid_arguments" => FailureClass::InvalidSpec,
            Self::Refused { status: 400 | 413 | 422, .. } => FailureClass::LaunchRejected,
            // Credentials that are refused, a definition that is gone or locked: another place may do.
            Self::Refused { .. } => FailureClass::BackendError,
        };
        LaunchError::NotLaunched(Failure::new(class, format!("start: {self}")))
    }
}

fn no_room(kind: &str) -> bool {
    matches!(kind, "quotas_exceeded" | "out_of_stock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, kind: &str) -> Trouble {
        Trouble::Refused { status, kind: kind.into(), message: "m".into() }
    }

    #[test]
    fn only_what_is_certain_is_not_launched() {
        let class = |trouble: Trouble| match trouble.launch_error() {
            LaunchError::NotLaunched(failure) => Some(failure.class),
            LaunchError::MaybeLaunched(_) => None,
        };
        assert_eq!(class(Trouble::NotSent("refused".into())), Some(FailureClass::HostUnreachable));
        assert_eq!(class(refused(400, "invalid_arguments")), Some(FailureClass::InvalidSpec));
        assert_eq!(class(refused(400, "")), Some(FailureClass::LaunchRejected));
        assert_eq!(class(refused(401, "denied_authentication")), Some(FailureClass::BackendError));
        assert_eq!(class(refused(403, "permissions_denied")), Some(FailureClass::BackendError));
        assert_eq!(class(refused(403, "quotas_exceeded")), Some(FailureClass::NoCapacity));
        assert_eq!(class(refused(404, "not_found")), Some(FailureClass::BackendError));
        assert_eq!(class(refused(429, "too_many_requests")), Some(FailureClass::Throttled));
        for uncertain in [302, 408, 500, 502, 503, 504] {
            assert_eq!(class(refused(uncertain, "")), None, "{uncertain}");
        }
        assert_eq!(class(Trouble::NoAnswer("cut".into())), None);
    }

    #[test]
    fn a_404_of_something_in_between_is_no_news_of_a_run() {
        assert!(refused(404, "not_found").is_not_found());
        assert!(!refused(404, "").is_not_found());
        assert_eq!(refused(503, "").failure("list").class, FailureClass::BackendError);
        assert_eq!(refused(429, "").failure("list").class, FailureClass::Throttled);
    }
}
