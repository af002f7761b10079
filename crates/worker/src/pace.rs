//! What the writes of large logs leave to everybody else: after each of them they rest for twice as long as it took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest rest. A write takes a few milliseconds; one that takes longer waits for something else than a core.
const REST: Duration = Duration::from_millis(10);

/// The pace of writes that come one after the other.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the next may begin.
    rested: Mutex<Instant>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { rested: Mutex::new(Instant::now()) }
    }

    /// Does a write when the rest behind the last one is over.
    pub(crate) async fn write<T>(&self, write: impl Future<Output = T>) -> T {
        let rested = *self.rested();
        // Even a sleep of no time costs a tick of the timer.
        if rested > Instant::now() {
            sleep_until(rested).await;
        }
        let began = Instant::now();
        let done = write.await;
        *self.rested() = Instant::now() + (2 * began.elapsed()).min(REST);
        done
    }

    fn rested(&self) -> MutexGuard<'_, Instant> {
        self.rested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    /// Timers are exact to it.
    const TICK: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_write_is_followed_by_a_rest_twice_as_long_as_it_took() {
        let (pace, began) = (Pace::new(), Instant::now());
        pace.write(sleep(2 * TICK)).await;
        let took = began.elapsed();
        pace.write(async {}).await;
        let both = began.elapsed();
        assert!((3 * took..3 * took + 2 * TICK).contains(&both), "{took:?}, {both:?}");
        pace.write(async {}).await;
        assert_eq!(began.elapsed(), both, "one that took no time needs no rest");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_rests_for_long() {
        let pace = Pace::new();
        pace.write(sleep(100 * REST)).await;
        let ended = Instant::now();
        pace.write(async {}).await;
        assert!((REST..REST + 2 * TICK).contains(&ended.elapsed()), "{:?}", ended.elapsed());
    }
}
