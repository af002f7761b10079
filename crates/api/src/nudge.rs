//! Nudges: they save dispatchers and workers a poll, and nobody waits for them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use gantry_broker::{Broker, Outgoing, Publisher, Route};
use gantry_core::message::{Control, Newcomer, Nudge};
use gantry_core::{ExecutorType, JobId};

/// Between two attempts at the first connection.
const PAUSE: Duration = Duration::from_secs(2);
/// Jobs that a nudge names at most: with more of them a look costs little of each.
const NAMED: usize = 16;

/// The way to `gantry.control`. Clones share it. Without a broker nudges are dropped: the API takes jobs all the
/// same, and they are found by polling.
#[derive(Clone, Debug, Default)]
pub struct Nudges {
    link: Arc<OnceLock<(Publisher, Route)>>,
}

impl Nudges {
    /// Over a connection that exists.
    pub fn new(broker: &Broker) -> Self {
        let nudges = Self::default();
        nudges.connected(broker);
        nudges
    }

    /// Over a connection that is made meanwhile, however long it takes: the API does not wait for its broker.
    pub fn connecting(config: gantry_broker::Config) -> Self {
        let nudges = Self::default();
        let link = Arc::downgrade(&nudges.link);
        tokio::spawn(async move {
            let mut told = false;
            while link.strong_count() > 0 {
                match connect(config.clone()).await {
                    Ok(broker) => {
                        if let Some(link) = link.upgrade() {
                            Self { link }.connected(&broker);
                        }
                        return;
                    }
                    Err(error) if !told => {
                        let error: &dyn std::error::Error = &*error;
                        tracing::warn!(error, "no broker to nudge dispatchers over; they poll meanwhile");
                        told = true;
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        nudges
    }

    fn connected(&self, broker: &Broker) {
        // Set once: only the constructors come here.
        let _ = self.link.set((Publisher::new(broker), broker.topology().control()));
    }

    /// Jobs were put back in line, or slots came up, for these executor types.
    pub(crate) fn dispatch(&self, executors: Vec<ExecutorType>) {
        self.lined_up(executors, Vec::new());
    }

    /// Jobs came into line for these executor types. These they are, if it is known of all.
    pub(crate) fn lined_up(&self, executors: Vec<ExecutorType>, newcomers: Vec<Newcomer>) {
        if !executors.is_empty() {
            let newcomers = if newcomers.len() > NAMED { Vec::new() } else { newcomers };
            self.send(Nudge::Dispatch { executors, only_slots: false, newcomers });
        }
    }

    /// Somebody asked for the end of a running job.
    pub(crate) fn cancel(&self, job: JobId) {
        self.send(Nudge::Cancel { jobs: vec![job] });
    }

    fn send(&self, nudge: Nudge) {
        let Some((publisher, route)) = self.link.get() else { return };
        match serde_json::to_vec(&Control::V1(nudge)) {
            Ok(body) => publisher.publish_unconfirmed(Outgoing::transient(route.clone(), body)),
            Err(error) => tracing::error!(%error, "a nudge could not be written"),
        }
    }
}

async fn connect(config: gantry_broker::Config) -> Result<Broker, Box<dyn std::error::Error + Send + Sync>> {
    let broker = Broker::connect(config, "api").await?;
    // Of all of it the API needs one exchange; whoever comes first declares everything, and alike.
    broker.topology().declare(&broker, &[]).await?;
    Ok(broker)
}
