//! What the writes of large logs leave to everybody else: they let the path of a job pass, and after each of them they rest
//! for as long as it took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The longest rest. A write takes a few milliseconds; one that takes longer waits for something else than a core.
const REST: Duration = Duration::from_millis(5);
/// How soon after a move of the path it may move again: a claim, a launch, or a report on its way to its record takes about
/// so long.
const CALM: Duration = Duration::from_millis(2);
/// How long a write waits for the path: where that never rests, logs are written beside it.
const PATIENCE: Duration = Duration::from_millis(10);

/// The pace of writes that come one after the other.
#[derive(Debug)]
pub(crate) struct Pace(Mutex<Times>);

#[derive(Debug)]
struct Times {
    /// When the rest behind the last write is over.
    rested: Instant,
    /// When the path is calm, if it does not move before.
    calm: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Times { rested: now, calm: now }))
    }

    /// A job goes a step from its claim to its end.
    pub(crate) fn path_moves(&self) {
        self.times().calm = Instant::now() + CALM;
    }

    /// Does a write when it is its turn.
    pub(crate) async fn write<T>(&self, write: impl Future<Output = T>) -> T {
        self.turn().await;
        let began = Instant::now();
        let done = write.await;
        self.times().rested = Instant::now() + began.elapsed().min(REST);
        done
    }

    async fn turn(&self) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let turn = self.times().turn(patience);
            // Even a sleep of no time costs a tick of the timer.
            if turn <= Instant::now() {
                return;
            }
            // The path may move meanwhile.
            sleep_until(turn).await;
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn turn(&self, patience: Instant) -> Instant {
        self.rested.max(self.calm.min(patience))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    /// Timers are exact to it.
    const TICK: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_write_is_followed_by_a_rest_as_long_as_it_took() {
        let (pace, began) = (Pace::new(), Instant::now());
        pace.write(sleep(2 * TICK)).await;
        let took = began.elapsed();
        pace.write(async {}).await;
        let both = began.elapsed();
        assert!((2 * took..2 * took + 2 * TICK).contains(&both), "{took:?}, {both:?}");
        pace.write(async {}).await;
        assert_eq!(began.elapsed(), both, "one that took no time needs no rest");
    }

    #[tokio::test(start_paused = true)]
    async fn the_path_passes_first() {
        let (pace, began) = (Pace::new(), Instant::now());
        pace.write(async {}).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "a calm path is not waited for");
        pace.path_moves();
        pace.write(async {}).await;
        assert!((CALM..CALM + 2 * TICK).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_that_never_rests_holds_no_log_up() {
        let (pace, began) = (Pace::new(), Instant::now());
        let moves = async {
            for _ in 0..100 {
                pace.path_moves();
                sleep(TICK).await;
            }
        };
        tokio::select! {
            biased;
            () = moves => {}
            () = pace.write(async {}) => {}
        }
        assert!((PATIENCE..PATIENCE + 2 * TICK).contains(&began.elapsed()), "{:?}", began.elapsed());
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
