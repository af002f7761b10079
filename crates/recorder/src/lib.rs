//! The recorder: applies attempt reports in short transactions, frees their slots, and publishes the events that
//! those transactions wrote. The only writer of a running job's status.

mod apply;
mod config;
mod consume;
mod metrics;
mod outbox;
mod process;

use std::time::Duration;

use gantry_broker::{Broker, Publisher};
use gantry_core::ExecutorType;
use gantry_runtime::Shutdown;
use gantry_store::Store;
use gantry_store::events::Batch;
use tokio::sync::mpsc;

pub use config::Config;
pub use process::main;

/// Events that may wait between the transaction and RabbitMQ. Beyond it the recorder waits; none is lost
/// either way, the outbox has them.
const UNPUBLISHED: usize = 64;

/// How long tasks may take to stop. Nothing is lost that is cut off: it is in Postgres, or not acked.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// What the tasks share.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    pub(crate) publisher: Publisher,
}

/// A recorder, ready to run.
pub struct Service {
    parts: Parts,
}

impl Service {
    /// A recorder over connections that the caller has made.
    pub fn new(store: Store, broker: Broker) -> Self {
        let publisher = Publisher::new(&broker);
        Self { parts: Parts { store, broker, publisher } }
    }

    /// Declares the topology and runs until `shutdown`; what was committed by then is published first.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let types: Vec<&str> = ExecutorType::ALL.iter().map(|executor| executor.as_str()).collect();
        self.parts.broker.topology().declare(&self.parts.broker, &types).await?;
        let (committed, events) = mpsc::channel::<Vec<Batch>>(UNPUBLISHED);
        let tasks = async {
            tokio::join!(
                consume::run(&self.parts, &shutdown, committed),
                outbox::publish_committed(&self.parts, events),
                outbox::publish_left_over(&self.parts, &shutdown),
            );
        };
        if !shutdown.bounded(PATIENCE, Box::pin(tasks)).await {
            tracing::info!("stopped with events unpublished: the outbox has them");
        }
        Ok(())
    }
}
