//! Group commit: how long a stage waits for more before it takes its next batch.
//!
//! A batch costs much whatever is in it: round trips, a commit, a lock that others wait for. So under load what comes gathers
//! for a moment, as with Kafka's `linger.ms`. What comes alone goes at once.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep_until, timeout_at};

/// A batch of so many items means load.
const LARGE: usize = 50;
/// For how long the next one gathers then.
const GATHER: Duration = Duration::from_millis(5);

/// When the next batch of a stage is due.
#[derive(Debug, Clone)]
pub struct Linger {
    full: usize,
    due: Instant,
}

impl Linger {
    /// For a stage whose batches hold `full` items at most: behind such a one the next is there already, and nothing waits.
    pub fn new(full: usize) -> Self {
        Self { full, due: Instant::now() }
    }

    /// A batch of so many items is done.
    pub fn done(&mut self, items: usize) {
        let now = Instant::now();
        self.due = if (LARGE..self.full).contains(&items) { now + GATHER } else { now };
    }

    /// Until when what comes gathers. In the past, if it is to go at once.
    pub fn until(&self) -> Instant {
        self.due
    }

    /// Waits until the next batch is due.
    pub async fn over(&self) {
        if !self.is_over() {
            sleep_until(self.due).await;
        }
    }

    /// What else comes before the next batch is due; none if it is time to go. What is there already is never left behind.
    pub async fn more<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        if self.is_over() { next.now_or_never() } else { timeout_at(self.due, next).await.ok() }
    }

    /// Looked at before each wait: a timer of tokio is up to a millisecond late, also if its time has come.
    fn is_over(&self) -> bool {
        self.due <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const FULL: usize = 500;

    /// How long what comes now waits behind a batch of so many.
    async fn wait_behind(items: usize) -> Duration {
        let mut linger = Linger::new(FULL);
        linger.done(items);
        let begun = Instant::now();
        linger.over().await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn only_behind_a_large_batch_that_is_not_full_others_are_waited_for() {
        for items in [0, 1, LARGE - 1, FULL, FULL + 1] {
            assert_eq!(wait_behind(items).await, Duration::ZERO, "{items}");
        }
        assert!(wait_behind(LARGE).await >= GATHER);
        assert!(wait_behind(FULL - 1).await >= GATHER);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_taken_and_what_is_not_is_waited_for_until_the_batch_is_due() {
        let mut linger = Linger::new(FULL);
        let begun = Instant::now();
        assert_eq!(linger.more(ready(1)).await, Some(1));
        assert_eq!(linger.more(pending::<u8>()).await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO, "nothing is to be waited for");
        linger.done(LARGE);
        assert_eq!(linger.more(ready(1)).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(linger.more(pending::<u8>()).await, None);
        assert!(begun.elapsed() >= GATHER);
    }
}
