//! ECS and CloudWatch Logs on this machine, for tests and for trying out routing without an account.
//!
//! Behind it is ministack, whose tasks are containers of a Docker Engine (`gantry_servers::Ministack`), and not as it is
//! published: `crates/servers/src/ministack_server.py` replaces some of its functions, so that a container has all of
//! its definition, its own exit code and all of its log, StopTask waits for `stopTimeout`, and that images that cannot be
//! had, programs that cannot be run, a memory limit, a stop and a Spot interruption are told in the words that AWS
//! documents. Those words are Gantry's own reading of AWS' documents, and no evidence of what AWS says.
//!
//! In front of it this adds what ministack leaves out: the idempotence of RunTask, as AWS documents it, and on request a
//! task that ECS is slow to show. [`Faults`] around it bring the rest: throttling, lost answers, no capacity. A status of
//! 400, 403, 500 or 503 without a body is answered as AWS' common error of that status.

mod tokens;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use gantry_double::{Faults, HiddenFor, Injected, Served};
use serde_json::{Value, json};
use tokens::{Claim, Tokens};

/// The largest request and answer.
const MOST: usize = 16 << 20;
/// Exchanges that are kept.
const KEPT: usize = 10_000;
/// What says which operation a request is.
const TARGET: &str = "x-amz-target";
/// The cluster that the double makes.
const CLUSTER: &str = "gantry";

/// A running double.
#[derive(Debug)]
pub struct Double {
    served: Served,
    faults: Faults,
    ecs: Arc<Ecs>,
}

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Such as `AmazonEC2ContainerServiceV20141113.RunTask`.
    pub target: String,
    /// The request's body.
    pub request: Value,
    /// The answer's HTTP status.
    pub status: u16,
    /// The answer's body.
    pub answer: Value,
    /// When the request came.
    pub at: Instant,
}

#[derive(Debug)]
struct Ecs {
    ministack: String,
    http: reqwest::Client,
    tokens: Tokens,
    /// Tasks that are not to be seen, and until when.
    hidden: Mutex<HashMap<String, Instant>>,
    exchanges: Mutex<VecDeque<Exchange>>,
}

/// A request on its way.
#[derive(Clone)]
struct Asked {
    target: String,
    headers: HeaderMap,
    body: Value,
}

type Answer = (StatusCode, Value);

impl Double {
    /// Serves on `listen` (port 0 takes a free one) in front of the ministack at this URL, and makes a cluster there.
    pub async fn start(listen: SocketAddr, ministack: &str) -> io::Result<Self> {
        // Whoever was first has chosen: nothing here uses TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().map_err(io::Error::other)?;
        let ecs = Arc::new(Ecs {
            ministack: ministack.to_owned(),
            http,
            tokens: Tokens::default(),
            hidden: Mutex::default(),
            exchanges: Mutex::default(),
        });
        let create = Asked {
            target: "AmazonEC2ContainerServiceV20141113.CreateCluster".into(),
            headers: HeaderMap::new(),
            body: json!({ "clusterName": CLUSTER }),
        };
        ecs.pass(&create).await.map_err(io::Error::other)?;
        let faults = Faults::new(0);
        let router = faults.around(Router::new().fallback(answer).with_state(Arc::clone(&ecs)));
        let router = router.layer(from_fn_with_state(Arc::clone(&ecs), note_injected));
        Ok(Self { served: Served::start(listen, router).await?, faults, ecs })
    }

    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> String {
        self.served.url()
    }

    /// What goes wrong on request.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What was asked and answered so far, by faults too. Of an answer that was lost it is what was answered.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.ecs.exchanges).iter().cloned().collect()
    }

    /// Takes the machine away under a task, as Fargate Spot does.
    pub async fn interrupt(&self, task: &str) -> io::Result<()> {
        let asked = Asked {
            target: "AmazonEC2ContainerServiceV20141113.StopTask".into(),
            headers: HeaderMap::new(),
            body: json!({ "cluster": CLUSTER, "task": task, "reason": "Your Spot Task was interrupted." }),
        };
        match self.ecs.pass(&asked).await {
            Ok((StatusCode::OK, _)) => Ok(()),
            Ok((status, body)) => Err(io::Error::other(format!("{status}: {body}"))),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The `connection_config` of a host at this double. The worker needs credentials, and any will do.
    #[must_use]
    pub fn connection_config(&self) -> Value {
        json!({ "region": "us-east-1", "cluster": CLUSTER, "endpoint_url": self.url() })
    }

    /// An `executor_config` for such a host: its times are short, because nothing here is slow.
    #[must_use]
    pub fn executor_config() -> Value {
        json!({
            "subnets": ["subnet-double"],
            "create_log_group": true,
            "stop_timeout_seconds": 2,
            "log_settle_seconds": 1,
            "settle_seconds": 5,
        })
    }
}

async fn answer(State(ecs): State<Arc<Ecs>>, request: Request) -> Response {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let hidden = parts.extensions.get::<HiddenFor>().map(|hidden| hidden.0);
    let target = target(&parts.headers);
    let Ok(body) = to_bytes(body, MOST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let Ok(body) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let asked = Asked { target, headers: parts.headers, body };
    // A task of its own: what was asked for is done, also when who asked is gone.
    let done = tokio::spawn(async move {
        let (status, body) = match ecs.do_it(&asked, hidden).await {
            Ok(answer) => answer,
            Err(error) => {
                (StatusCode::BAD_GATEWAY, json!({ "__type": "ServerException", "message": error.to_string() }))
            }
        };
        ecs.note(asked, at, status, &body);
        written(status, &body)
    });
    done.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Around the faults: what they answer themselves never comes to [`answer`], and is noted here. Only that: an answer
/// that is lost cannot be read.
async fn note_injected(State(ecs): State<Arc<Ecs>>, request: Request, next: Next) -> Response {
    let at = Instant::now();
    let (parts, body) = request.into_parts();
    let Ok(sent) = to_bytes(body, MOST).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let (target, headers) = (target(&parts.headers), parts.headers.clone());
    let response = next.run(Request::from_parts(parts, Body::from(sent.clone()))).await;
    let injected = response.extensions().get::<Injected>().copied();
    let Some(Injected { has_body }) = injected else { return response };
    let status = response.status();
    let body = if has_body {
        let said = to_bytes(response.into_body(), MOST).await.unwrap_or_default();
        serde_json::from_slice(&said).unwrap_or_default()
    } else {
        common_error(status)
    };
    let asked = Asked { target, headers, body: serde_json::from_slice(&sent).unwrap_or_default() };
    ecs.note(asked, at, status, &body);
    written(status, &body)
}

/// What AWS says to this status, for a fault that has no words of its own. Source: "Common Errors", Amazon ECS API
/// Reference.
fn common_error(status: StatusCode) -> Value {
    let code = match status.as_u16() {
        400 => "ThrottlingException",
        403 => "AccessDeniedException",
        503 => "ServiceUnavailable",
        _ => "InternalFailure",
    };
    json!({ "__type": code, "message": status.canonical_reason().unwrap_or("The request failed.") })
}

fn target(headers: &HeaderMap) -> String {
    headers.get(TARGET).and_then(|target| target.to_str().ok()).unwrap_or_default().to_owned()
}

fn written(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], Bytes::from(body.to_string())).into_response()
}

impl Ecs {
    async fn do_it(&self, asked: &Asked, hidden: Option<Duration>) -> reqwest::Result<Answer> {
        match asked.target.rsplit('.').next() {
            Some("RunTask") => self.run_task(asked, hidden).await,
            Some("DescribeTasks") => {
                let mut asked = asked.clone();
                let missing = self.take_hidden(&mut asked.body["tasks"]);
                let (status, mut body) = self.pass(&asked).await?;
                if let Some(failures) = body["failures"].as_array_mut() {
                    failures.extend(missing.into_iter().map(|arn| json!({ "arn": arn, "reason": "MISSING" })));
                }
                Ok((status, body))
            }
            Some("ListTasks") => {
                let (status, mut body) = self.pass(asked).await?;
                self.take_hidden(&mut body["taskArns"]);
                Ok((status, body))
            }
            Some("StopTask") if self.is_hidden(&asked.body["task"]) => {
                let body =
                    json!({ "__type": "InvalidParameterException", "message": "The referenced task was not found." });
                Ok((StatusCode::BAD_REQUEST, body))
            }
            _ => self.pass(asked).await,
        }
    }

    /// Source: "Ensuring idempotency" and `ConflictException` of RunTask, Amazon ECS API Reference.
    async fn run_task(&self, asked: &Asked, hidden: Option<Duration>) -> reqwest::Result<Answer> {
        let Some(token) = asked.body["clientToken"].as_str() else { return self.pass(asked).await };
        // Held while ECS works: two requests with one token at one time are one task.
        let mut held = self.tokens.hold(token).await;
        match held.claim(&asked.body) {
            Claim::Same(arns) => {
                let target = asked.target.replace("RunTask", "DescribeTasks");
                let body = json!({ "cluster": asked.body["cluster"], "tasks": arns });
                self.pass(&Asked { target, body, ..asked.clone() }).await
            }
            Claim::Other(arns) => {
                let message = "The provided clientToken is already in use with a different RunTask request.";
                let body = json!({ "__type": "ConflictException", "message": message, "resourceIds": arns });
                Ok((StatusCode::BAD_REQUEST, body))
            }
            Claim::New => {
                let (status, body) = self.pass(asked).await?;
                let tasks = body["tasks"].as_array().into_iter().flatten();
                let arns: Vec<_> = tasks.filter_map(|task| Some(task["taskArn"].as_str()?.to_owned())).collect();
                if !arns.is_empty() {
                    if let Some(time) = hidden {
                        lock(&self.hidden).extend(arns.iter().map(|arn| (arn.clone(), Instant::now() + time)));
                    }
                    held.keep(asked.body.clone(), arns);
                }
                Ok((status, body))
            }
        }
    }

    /// As ministack answers it.
    async fn pass(&self, asked: &Asked) -> reqwest::Result<Answer> {
        let mut request = self.http.post(&self.ministack).header(TARGET, &asked.target).body(asked.body.to_string());
        for name in [header::CONTENT_TYPE, header::AUTHORIZATION] {
            if let Some(value) = asked.headers.get(&name) {
                request = request.header(name.as_str(), value.as_bytes());
            }
        }
        let answer = request.send().await?;
        let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
        Ok((status, answer.json().await?))
    }

    /// Takes hidden tasks out of a list of ARNs.
    fn take_hidden(&self, arns: &mut Value) -> Vec<Value> {
        let Some(list) = arns.as_array_mut() else { return Vec::new() };
        let (hidden, seen) = std::mem::take(list).into_iter().partition(|arn| self.is_hidden(arn));
        *list = seen;
        hidden
    }

    fn is_hidden(&self, arn: &Value) -> bool {
        arn.as_str().and_then(|arn| lock(&self.hidden).get(arn).copied()).is_some_and(|until| Instant::now() < until)
    }

    fn note(&self, asked: Asked, at: Instant, status: StatusCode, answer: &Value) {
        let mut exchanges = lock(&self.exchanges);
        if exchanges.len() >= KEPT {
            exchanges.pop_front();
        }
        let (status, answer) = (status.as_u16(), answer.clone());
        exchanges.push_back(Exchange { target: asked.target, request: asked.body, status, answer, at });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
