//! How many processes take from a queue together.
//!
//! What each of them may use of what all share, and how often each begins a batch, depends on it: see those who ask. RabbitMQ
//! knows, so nobody has to be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::Broker;

/// How often RabbitMQ is asked, and how long it may take to answer: not long, because others ask on the same channel.
const EVERY: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_millis(500);

/// The consumers of a queue, as RabbitMQ last told. Cheap to clone; it is asked as long as one of the clones is there.
#[derive(Clone, Debug)]
pub struct Peers {
    count: Arc<AtomicUsize>,
    _asks: Arc<AbortOnDropHandle<()>>,
}

impl Peers {
    /// Those of this queue, from now on. Must be called within a tokio runtime.
    pub fn of(broker: &Broker, queue: &str) -> Self {
        let count = Arc::new(AtomicUsize::new(1));
        let (told, broker, queue) = (count.clone(), broker.clone(), queue.to_owned());
        let asks = tokio::spawn(async move {
            loop {
                // Without an answer it is what it was.
                if let Ok(Ok(consumers)) = timeout(WITHIN, broker.consumers(&queue)).await {
                    told.store(usize::try_from(consumers).unwrap_or(usize::MAX).max(1), Ordering::Relaxed);
                }
                sleep(EVERY).await;
            }
        });
        Self { count, _asks: Arc::new(AbortOnDropHandle::new(asks)) }
    }

    /// How many there are; one at least.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}
