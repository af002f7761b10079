//! Faults on request: each rule names the requests that it meets and what becomes of them.
//!
//! Over HTTP, beside whatever the double answers: `PUT /_faults` with a list of [`Rule`]s replaces all,
//! `POST /_faults` with one adds it, `DELETE /_faults` takes all away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// The largest request that a double reads.
const MOST: usize = 16 << 20;

/// Which requests meet which fault. What is left out matches everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A part of the path with its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A part of the body or, for services that name the operation there, of a header's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// How many requests meet it; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// How many of 1 meet it, by the seed; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What becomes of them.
    pub fault: Fault,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// It is answered later.
    Latency {
        /// By so much.
        millis: u64,
    },
    /// It is answered with an error, and nothing is done.
    Status {
        /// The HTTP status: 429, 503.
        status: u16,
        /// The body, in the service's own form. Without one, a double that knows its service's words for the status
        /// says those, and any other sends none.
        #[serde(default)]
        body: serde_json::Value,
    },
    /// It is done, and its answer is lost: the connection breaks in the middle.
    LostResponse,
    /// What it makes is not seen for a while. The double's own affair: it finds [`HiddenFor`] with the request.
    Hidden {
        /// For so long.
        millis: u64,
    },
}

/// For how long what this request makes is not to be seen.
#[derive(Clone, Copy, Debug)]
pub struct HiddenFor(pub Duration);

/// With an answer that a fault gave: the request never came to the double.
#[derive(Clone, Copy, Debug)]
pub struct Injected {
    /// Whether the rule has a body for it.
    pub has_body: bool,
}

/// The rules of one double. Clones share them.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<Book>>);

#[derive(Debug)]
struct Book {
    rules: Vec<Rule>,
    dice: StdRng,
}

impl Faults {
    /// No rules yet; `seed` decides where a rule has a probability.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Book { rules: Vec::new(), dice: StdRng::seed_from_u64(seed) })))
    }

    /// Adds a rule. Earlier ones come first; the first that matches decides.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Lays the rules around a double, with the requests that change them.
    pub fn around(&self, double: Router) -> Router {
        let change = routing::put(async |State(faults): State<Self>, Json(rules): Json<Vec<Rule>>| {
            faults.lock().rules = rules;
            StatusCode::NO_CONTENT
        })
        .post(async |State(faults): State<Self>, Json(rule): Json<Rule>| {
            faults.add(rule);
            StatusCode::NO_CONTENT
        })
        .delete(async |State(faults): State<Self>| {
            faults.clear();
            StatusCode::NO_CONTENT
        });
        let control = Router::new().route("/_faults", change).with_state(self.clone());
        double.layer(from_fn_with_state(self.clone(), meet)).merge(control)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, request: &Asked<'_>) -> Option<Fault> {
        self.lock().take(request)
    }
}

/// A request as the rules see it.
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    headers: String,
    body: &'a [u8],
}

impl Book {
    fn take(&mut self, request: &Asked<'_>) -> Option<Fault> {
        let Self { rules, dice } = self;
        let mut met = |rule: &Rule| {
            rule.times != Some(0)
                && rule.matches(request)
                && rule.probability.is_none_or(|part| dice.random_bool(part.clamp(0.0, 1.0)))
        };
        let rule = rules.iter_mut().find_map(|rule| met(rule).then_some(rule))?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some(rule.fault.clone())
    }
}

impl Rule {
    /// A rule for every request.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { method: None, path: None, contains: None, times: None, probability: None, fault }
    }

    /// The same for requests of which the body or a header contains this.
    #[must_use]
    pub fn containing(self, part: impl Into<String>) -> Self {
        Self { contains: Some(part.into()), ..self }
    }

    /// The same for requests of this method to paths that contain this.
    #[must_use]
    pub fn to(self, method: &str, path: impl Into<String>) -> Self {
        Self { method: Some(method.into()), path: Some(path.into()), ..self }
    }

    /// The same for so many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    fn matches(&self, request: &Asked<'_>) -> bool {
        let is_in = |part: &String| {
            let in_body = request.body.windows(part.len().max(1)).any(|window| window == part.as_bytes());
            in_body || request.headers.contains(part.as_str())
        };
        self.method.as_ref().is_none_or(|method| request.method.as_str().eq_ignore_ascii_case(method))
            && self.path.as_ref().is_none_or(|path| request.path.contains(path.as_str()))
            && self.contains.as_ref().is_none_or(is_in)
    }
}

async fn meet(State(faults): State<Faults>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = match to_bytes(body, MOST).await {
        Ok(body) => body,
        Err(error) => return (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    };
    let fault = faults.of(&Asked {
        method: &parts.method,
        path: parts.uri.path_and_query().map_or("", |path| path.as_str()),
        headers: parts.headers.values().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join("\n"),
        body: &body,
    });
    if let Some(Fault::Hidden { millis }) = fault {
        parts.extensions.insert(HiddenFor(Duration::from_millis(millis)));
    }
    let request = Request::from_parts(parts, Body::from(body));
    match fault {
        None | Some(Fault::Hidden { .. }) => next.run(request).await,
        Some(Fault::Latency { millis }) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            next.run(request).await
        }
        Some(Fault::Status { status, body }) => injected(status, body),
        Some(Fault::LostResponse) => {
            let answer = next.run(request).await;
            tracing::debug!(status = %answer.status(), "an answer is lost");
            lost()
        }
    }
}

/// What a rule says, marked as that.
fn injected(status: u16, body: serde_json::Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let has_body = !body.is_null();
    let mut answer = if has_body { (status, Json(body)).into_response() } else { status.into_response() };
    answer.extensions_mut().insert(Injected { has_body });
    answer
}

/// Half an answer: what is promised does not come, so the connection is closed, and the client knows nothing.
fn lost() -> Response {
    let broken = futures::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("lost"))]);
    ([(header::CONTENT_TYPE, "application/json"), (header::CONTENT_LENGTH, "1000")], Body::from_stream(broken))
        .into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::Served;

    /// A double that answers everything with `done`, with these faults around it.
    async fn served(faults: &Faults) -> Served {
        let router = faults.around(Router::new().fallback(|| async { "done" }));
        Served::start(([127, 0, 0, 1], 0).into(), router).await.expect("a port")
    }

    /// The status and the body of what is answered to a request, such as `GET /jobs`.
    async fn ask(double: &Served, request: &str, body: &str) -> (u16, String) {
        let mut connection = TcpStream::connect(double.address()).await.expect("it listens");
        let headers = "Host: double\r\nConnection: close\r\nContent-Type: application/json";
        let asked = format!("{request} HTTP/1.1\r\n{headers}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        connection.write_all(asked.as_bytes()).await.expect("asks");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    fn asked<'a>(method: &'a Method, path: &'a str, body: &'a [u8]) -> Asked<'a> {
        Asked { method, path, headers: "Service.RunTask".into(), body }
    }

    #[test]
    fn a_rule_meets_what_it_names_as_often_as_it_says() {
        let faults = Faults::new(1);
        faults.add(Rule::new(Fault::LostResponse).to("post", "/jobs").containing("marked").times(2));
        assert_eq!(faults.of(&asked(&Method::GET, "/jobs", b"marked")), None);
        assert_eq!(faults.of(&asked(&Method::POST, "/tasks", b"marked")), None);
        assert_eq!(faults.of(&asked(&Method::POST, "/v2/jobs?id=1", b"other")), None);
        for _ in 0..2 {
            assert_eq!(faults.of(&asked(&Method::POST, "/v2/jobs?id=1", b"is marked")), Some(Fault::LostResponse));
        }
        assert_eq!(faults.of(&asked(&Method::POST, "/v2/jobs?id=1", b"is marked")), None);
    }

    #[tokio::test]
    async fn latency_comes_before_the_answer() {
        let faults = Faults::new(1);
        faults.add(Rule::new(Fault::Latency { millis: 300 }).to("GET", "/slow"));
        let double = served(&faults).await;
        let began = std::time::Instant::now();
        assert_eq!(ask(&double, "GET /slow", "").await, (200, "done".to_owned()));
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn rules_are_put_added_and_taken_away_over_http() {
        let double = served(&Faults::new(1)).await;
        let status = async |path: &str| ask(&double, &format!("GET {path}"), "").await.0;
        let changed = (204, String::new());

        let rules = r#"[{"path": "/a", "fault": {"kind": "status", "status": 429, "body": {"n": 1}}},
            {"path": "/b", "fault": {"kind": "status", "status": 503}}]"#;
        assert_eq!(ask(&double, "PUT /_faults", rules).await, changed);
        assert_eq!(ask(&double, "GET /a", "").await, (429, r#"{"n":1}"#.to_owned()));
        assert_eq!(ask(&double, "GET /b", "").await, (503, String::new()), "a rule without a body");

        let rule = r#"{"path": "/c", "times": 1, "fault": {"kind": "status", "status": 500}}"#;
        assert_eq!(ask(&double, "POST /_faults", rule).await, changed);
        assert_eq!((status("/c").await, status("/c").await, status("/a").await), (500, 200, 429), "one more");

        let unknown = r#"{"paht": "/d", "fault": {"kind": "status", "status": 500}}"#;
        assert_eq!(ask(&double, "POST /_faults", unknown).await.0, 422);
        assert_eq!((status("/d").await, status("/b").await), (200, 503), "what is no rule changes nothing");

        let others = r#"[{"path": "/c", "fault": {"kind": "status", "status": 502}}]"#;
        assert_eq!(ask(&double, "PUT /_faults", others).await, changed);
        assert_eq!((status("/a").await, status("/b").await, status("/c").await), (200, 200, 502), "others instead");

        assert_eq!(ask(&double, "DELETE /_faults", "").await, changed);
        assert_eq!(ask(&double, "GET /c", "").await, (200, "done".to_owned()));
    }

    #[test]
    fn an_operation_in_a_header_is_met_too() {
        let faults = Faults::new(1);
        faults.add(Rule::new(Fault::Latency { millis: 1 }).containing("RunTask"));
        assert_eq!(faults.of(&asked(&Method::POST, "/", b"")), Some(Fault::Latency { millis: 1 }));
    }

    #[test]
    fn a_probability_is_the_seeds_own() {
        let seen = |seed| {
            let faults = Faults::new(seed);
            faults.add(Rule { probability: Some(0.5), ..Rule::new(Fault::LostResponse) });
            (0..64).map(|_| faults.of(&asked(&Method::GET, "/", b"")).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(seen(7), seen(7));
        assert_ne!(seen(7), seen(8));
        assert!(seen(7).contains(&true) && seen(7).contains(&false));
    }
}
