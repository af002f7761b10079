//! Cloud Run on this machine: the Admin API v2's Jobs, executions, tasks and operations, and Cloud Logging's
//! `entries:list`, with real containers on a Docker Engine. For tests, and for trying out Gantry without an account.
//!
//! It knows any project and region, and forgets everything when it ends, logs with their Jobs. It starts no container
//! of an image that the engine does not have, and has images of its own for what a cloud does besides:
//! - `denied.invalid/…` is an image that the service may not read;
//! - `full.invalid/…` finds no room (`RESOURCE_EXHAUSTED`);
//! - `broken.invalid/…` is taken, and its execution fails without ever having a task;
//! - the project `denied` refuses everybody (`PERMISSION_DENIED`).
//!
//! A region holds any number of Jobs, unless [`Double::limit_jobs`] says how many. Faults ([`Faults`]) come on top; a
//! status without a body is answered in Google's form. Where it differs from Google's: enums are always answered by
//! name, which a client takes as well; a container without a memory limit has none; times of log entries are whole
//! milliseconds, so that many are equal.

mod answer;
mod execution;
mod filter;
mod jobs;
mod logging;
mod operations;
mod record;
mod render;
mod runner;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use gantry_core::clock::{Clock as _, SystemClock};
use gantry_double::{Faults, Machine, Served};
pub use record::Exchange;
use record::Recorder;
use store::Store;

/// A running double. It ends when this value is dropped; its containers end with [`Double::remove_containers`].
pub struct Double {
    served: Served,
    store: Arc<Store>,
    machine: Machine,
    recorder: Recorder,
}

/// Why a double did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot listen there.
    #[error("the double of Cloud Run cannot listen: {0}")]
    Listen(#[from] std::io::Error),
    /// The Docker Engine does not answer.
    #[error("the double of Cloud Run needs a Docker Engine at {endpoint}: {reason}")]
    Machine {
        /// Where it was asked for.
        endpoint: String,
        /// What came back.
        reason: String,
    },
}

/// What every request shares.
#[derive(Clone)]
struct Shared {
    store: Arc<Store>,
    machine: Machine,
}

impl Double {
    /// Answers on `listen` (port 0 takes a free one) and runs containers on the engine at `docker_endpoint` (`unix://`
    /// or `tcp://`).
    pub async fn start(listen: SocketAddr, docker_endpoint: &str, faults: Faults) -> Result<Self, StartError> {
        let store = Arc::new(Store::default());
        // Two doubles on one engine each know their own containers.
        let name = format!("cloudrun-{}", store.uid());
        let machine = Machine::connect(docker_endpoint, name)
            .await
            .map_err(|error| StartError::Machine { endpoint: docker_endpoint.to_owned(), reason: error.to_string() })?;
        let recorder = Recorder::default();
        let shared = Shared { store: Arc::clone(&store), machine: machine.clone() };
        let api = router(shared).layer(from_fn_with_state(recorder.clone(), record::record_done));
        let all = faults.around(api).layer(from_fn_with_state(recorder.clone(), record::record_injected));
        let served = Served::start(listen, all).await?;
        Ok(Self { served, store, machine, recorder })
    }

    /// Where it answers, both APIs, without a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        self.served.url()
    }

    /// From now on a region has room for so many Jobs, and refuses one more as Google does (`RESOURCE_EXHAUSTED`).
    pub fn limit_jobs(&self, jobs: usize) {
        self.store.lock().most_jobs = Some(jobs);
    }

    /// The last requests and their answers, those of faults among them. Of an answer that was lost it is what was
    /// answered.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.recorder.exchanges()
    }

    /// Removes every container that it ever started.
    pub async fn remove_containers(&self) -> Result<(), String> {
        self.machine.remove_all().await.map_err(|error| error.to_string())
    }
}

fn router(shared: Shared) -> Router {
    const LOCATION: &str = "/v2/projects/{project}/locations/{location}";
    let at = |path: &str| format!("{LOCATION}{path}");
    Router::new()
        .route(&at("/jobs"), post(jobs::create).get(jobs::list))
        // `J` or `J:run`: a segment is the router's smallest unit.
        .route(&at("/jobs/{job}"), get(jobs::get).patch(jobs::update).delete(jobs::delete).post(jobs::act))
        .route(&at("/jobs/{job}/executions"), get(execution::list))
        .route(
            &at("/jobs/{job}/executions/{execution}"),
            get(execution::get).delete(execution::delete).post(execution::act),
        )
        .route(&at("/jobs/{job}/executions/{execution}/tasks"), get(execution::tasks))
        .route(&at("/jobs/{job}/executions/{execution}/tasks/{task}"), get(execution::task))
        .route(&at("/operations"), get(operations::list))
        .route(&at("/operations/{operation}"), get(operations::get))
        .route("/v2/entries:list", post(logging::list))
        .with_state(shared)
}

/// The cloud's clock is this machine's.
fn now() -> DateTime<Utc> {
    SystemClock.now()
}
