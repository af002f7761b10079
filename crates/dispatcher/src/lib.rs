//! The dispatcher: takes submissions in, moves jobs into the window, and runs the one upkeep pass in which time
//! changes anything. Any number of replicas may run side by side; each pass locks what it touches and skips
//! what another one holds.

mod auth;
mod bulk;
mod config;
mod dead;
mod dispatch;
mod intake;
mod lines;
mod lost;
mod metrics;
mod observe;
mod post;
mod process;
mod retention;
mod room;
mod schedules;
mod shortcut;
mod spread;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use gantry_broker::{Broker, Peers, Publisher};
use gantry_core::ExecutorType;
use gantry_runtime::Shutdown;
use gantry_store::Store;
use tokio::sync::{Notify, mpsc};

pub use config::{Config, Settings};
pub use process::main;
use room::Room;
use spread::Spread;

/// How long tasks may take to stop. Nothing is lost that is cut off: it is in Postgres, or not acked.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// What the tasks share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
    pub(crate) settings: Settings,
    /// Wakes the dispatch task: jobs came into line here, or another part says so.
    pub(crate) nudge: Arc<Notify>,
    /// What the dispatch task leaves to those who come in.
    pub(crate) room: Arc<Room>,
    /// How long lists of work are.
    pub(crate) spread: Arc<Spread>,
    /// The dispatchers, this one included.
    pub(crate) peers: Peers,
}

/// A dispatcher, ready to run.
pub struct Service {
    parts: Parts,
}

impl Service {
    /// A dispatcher over connections that the caller has made.
    pub fn new(store: Store, broker: Broker, settings: Settings) -> Self {
        let publisher = Publisher::new(&broker);
        let (nudge, room, spread) = (Arc::default(), Arc::default(), Arc::default());
        let peers = Peers::of(&broker, &broker.topology().submissions_queue());
        Self { parts: Parts { store, broker, publisher, settings, nudge, room, spread, peers } }
    }

    /// Declares the topology and runs until `shutdown`. What was taken in is admitted and answered first.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        self.parts.broker.topology().declare(&self.parts.broker, &types).await?;
        let (parts, stop) = (&self.parts, &shutdown);
        let (named, came) = mpsc::channel(dispatch::LISTS);
        // Boxed one by one: as one future they nest deeper than the compiler likes.
        let tasks: Vec<BoxFuture<'_, ()>> = vec![
            intake::run(parts, stop).boxed(),
            intake::strip_expired(parts, stop).boxed(),
            dead::keep(parts, stop).boxed(),
            dead::replay(parts, stop).boxed(),
            dispatch::run(parts, stop, came).boxed(),
            dispatch::listen(parts, stop, named).boxed(),
            upkeep::run(parts, stop).boxed(),
            schedules::run(parts, stop).boxed(),
            bulk::run(parts, stop).boxed(),
            observe::run(parts, stop).boxed(),
            retention::run(parts, stop).boxed(),
        ];
        if !shutdown.bounded(PATIENCE, join_all(tasks).map(drop)).await {
            tracing::info!("stopped in the middle of something: the rows and the queues have it");
        }
        Ok(())
    }
}
