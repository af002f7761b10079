//! ECS and CloudWatch Logs on this machine, for tests and for trying out routing without an account.
//!
//! Behind it is ministack, whose tasks are containers of a Docker Engine (`gantry_servers::Ministack`), and not as it is
//! published: `crates/servers/src/ministack_server.py` replaces some of its functions, so that a container has all of
//! its definition, its own exit code and all of its log, StopTask waits for `stopTimeout`, and that images that cannot be
//! had, programs that cannot be run, a memory limit, a stop and a Spot interruption are told in the words that AWS
//! documents. Those words are Gantry's own reading of AWS' documents, and no evidence of what AWS says.
//!
//! In front of it this adds what ministack leaves out: the idempotence of RunTask, as AWS documents it, and on request a
//! task that ECS is slow to show. [`Faults`] around it bring the rest: throttling, lost answers, no capacity.

mod tokens;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use gantry_double::{Faults, HiddenFor, Served};
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
    /// When it came.
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
        let router = Router::new().fallback(answer).with_state(Arc::clone(&ecs));
        Ok(Self { served: Served::start(listen, faults.around(router)).await?, faults, ecs })
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

    /// What was asked and answered so far; faults that answered themselves are not among it.
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
    let (parts, body) = request.into_parts();
    let hidden = parts.extensions.get::<HiddenFor>().map(|hidden| hidden.0);
    let target = parts.headers.get(TARGET).and_then(|target| target.to_str().ok()).unwrap_or_default().to_owned();
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
        ecs.note(asked, status, &body);
        (status, [(header::CONTENT_TYPE, "application/x-amz-json-1.1")], Bytes::from(body.to_string())).into_response()
    });
    done.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
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

    fn note(&self, asked: Asked, status: StatusCode, answer: &Value) {
        let mut exchanges = lock(&self.exchanges);
        if exchanges.len() >= KEPT {
            exchanges.pop_front();
        }
        let (status, answer) = (status.as_u16(), answer.clone());
        exchanges.push_back(Exchange { target: asked.target, request: asked.body, status, answer, at: Instant::now() });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
