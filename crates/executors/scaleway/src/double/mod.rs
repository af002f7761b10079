//! A double of Serverless Jobs and of Cockpit's Loki, whose runs are containers of a Docker Engine.
//!
//! It answers what Gantry and Scaleway's own Python SDK ask, as the service documents it: definitions (of which two
//! may bear one name), starts, runs, stops, the sizes on offer, and `query_range`. What a run makes visible late, what
//! is refused and what gets lost is said by the [`Faults`]. Every region is one and the same; whatever comes with the
//! right key is in the project that it names. Its machines stop a run with a grace of [`GRACE`]; images are as
//! [`Machine`] has them, and a program that does not exist is a run that fails without a container.

mod api;
mod expand;
mod life;
mod loki;
mod state;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use gantry_double::{Faults, Machine, Served};
use state::Book;
use uuid::Uuid;

/// The key that is taken, and Cockpit's token.
pub const SECRET_KEY: &str = "5ca1e3a7-0000-4000-8000-000000000001";
/// A project.
pub const PROJECT: &str = "5ca1e3a7-0000-4000-8000-000000000002";
/// Between SIGTERM and SIGKILL: short, so that nobody waits for a trial.
pub const GRACE: Duration = Duration::from_secs(2);

/// The largest request that is read.
const MOST: usize = 1 << 20;

/// A running double; it ends when this value is dropped.
pub struct Double {
    served: Served,
    shared: Arc<Shared>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The body.
    pub body: Bytes,
}

/// Why a double does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Docker Engine is not there.
    #[error("the Docker Engine: {0}")]
    Engine(String),
    /// The address is taken.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
}

/// What all requests share.
struct Shared {
    machine: Machine,
    /// The beginning of its containers' names.
    name: String,
    book: Mutex<Book>,
    recorded: Mutex<Vec<Recorded>>,
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Double {
    /// Listens, with containers on the engine at `docker_endpoint` (`unix://` or `tcp://`).
    pub async fn start(listen: SocketAddr, docker_endpoint: &str, faults: Faults) -> Result<Self, Error> {
        let name = format!("scaleway-{}", &Uuid::now_v7().simple().to_string()[20..]);
        let machine = Machine::connect(docker_endpoint, &name).await;
        let machine = machine.map_err(|error| Error::Engine(error.to_string()))?;
        let shared = Arc::new(Shared { machine, name, book: Mutex::default(), recorded: Mutex::default() });
        let router = api::router(Arc::clone(&shared)).merge(loki::router(Arc::clone(&shared)));
        let router = faults.around(router).layer(from_fn_with_state(Arc::clone(&shared), record));
        let served = Served::start(listen, router).await?;
        Ok(Self { served, shared })
    }

    /// Where it answers, for `api_url` and `logs.url`.
    #[must_use]
    pub fn url(&self) -> String {
        self.served.url()
    }

    /// Everything that changes something and has arrived so far, whatever became of it.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        self.shared.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, and removes its containers.
    pub async fn end(self) -> Result<(), Error> {
        let Self { served, shared } = self;
        drop(served);
        shared.machine.remove_all().await.map_err(|error| Error::Engine(error.to_string()))
    }
}

/// Writes requests down before any fault can meet them.
async fn record(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let body = match to_bytes(body, MOST).await {
        Ok(body) => body,
        Err(error) => return (StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response(),
    };
    let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
    shared.recorded.lock().unwrap_or_else(PoisonError::into_inner).push(Recorded { method, path, body: body.clone() });
    next.run(Request::from_parts(parts, Body::from(body))).await
}
