//! The process's own HTTP endpoint, for probes and scrapers.
//!
//! - `/healthz`: the process is alive. It asks nobody, so that a database
//!   outage does not make an orchestrator kill every process of the fleet.
//! - `/readyz`: every registered check passes; 503 otherwise, and the body says
//!   which one failed and why.
//! - `/metrics`: Prometheus text.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

use crate::{Shutdown, telemetry};

/// Where the endpoint listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9464)) }
    }
}

/// How long one check may take before it counts as failed: less than the
/// second that probes usually wait.
const CHECK_TIMEOUT: Duration = Duration::from_millis(800);

type Check = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// The readiness checks of a process. Clones share them.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<String, Check>>>,
}

impl Readiness {
    /// One without checks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, or replaces the one of that name. It says what is wrong in
    /// words, and has 800 ms to say it.
    pub fn register<F, Fut>(&self, name: impl Into<String>, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        self.lock().insert(name.into(), check);
    }

    /// [`Readiness::register`] for a check that asks a client: each time with a clone of it.
    pub fn watch<C, Fut>(&self, name: impl Into<String>, client: &C, check: fn(C) -> Fut)
    where
        C: Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let client = client.clone();
        self.register(name, move || check(client.clone()));
    }

    /// Runs all checks side by side.
    pub async fn report(&self) -> Report {
        let checks: Vec<_> = self.lock().iter().map(|(name, check)| (name.clone(), check.clone())).collect();
        let results = checks.into_iter().map(|(name, check)| async move {
            let result = timeout(CHECK_TIMEOUT, check()).await;
            let error = result.unwrap_or_else(|_| Err(format!("no answer within {CHECK_TIMEOUT:?}"))).err();
            let ok = error.is_none();
            (name, CheckReport { ok, error })
        });
        let checks: BTreeMap<_, _> = join_all(results).await.into_iter().collect();
        Report { ready: checks.values().all(|check| check.ok), checks }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Check>> {
        self.checks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl std::fmt::Debug for Readiness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all checks passed.
    pub ready: bool,
    /// Each check by its name.
    pub checks: BTreeMap<String, CheckReport>,
}

/// One check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Whether it passed.
    pub ok: bool,
    /// What is wrong otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A listening endpoint.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Binds and serves until `shutdown`.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub async fn start(config: &Config, readiness: Readiness, shutdown: Shutdown) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let served =
            axum::serve(listener, router(readiness)).with_graceful_shutdown(async move { shutdown.requested().await });
        let task = tokio::spawn(async move { served.await });
        tracing::info!(http.addr = %addr, "serving /healthz, /readyz and /metrics");
        Ok(Self { addr, task })
    }

    /// Where it listens, with the real port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Resolves when it has stopped.
    ///
    /// # Errors
    /// Where serving failed.
    pub async fn stopped(self) -> std::io::Result<()> {
        self.task.await.map_err(std::io::Error::other)?
    }
}

/// The routes themselves, for a part that serves them beside its own.
pub fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(readiness)
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let report = readiness.report().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics() -> Response {
    match telemetry::prometheus_text() {
        Ok(text) => {
            let content_type = telemetry::prometheus_content_type();
            ([(CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}
