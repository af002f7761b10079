//! Group commit: how long a stage waits for more before it takes its next batch.
//!
//! A batch costs much whatever is in it: round trips, a commit, a lock that others wait for. A stage that takes each time what
//! is there spends all of the machine on small ones, and they hold each other up. So under load batches begin at a bounded
//! rate, and what comes meanwhile gathers, as with Kafka's `linger.ms`. What comes alone goes at once.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The last moments, of which the rate is: what came so long ago counts a third.
const RECENT: Duration = Duration::from_millis(100);
/// So many recent items are load: 400 a second. Jobs that are sent one after the other, each when the one before has ended,
/// come at half of that, and none of them is to wait.
const LOAD: f64 = 40.0;
/// A batch that took long is followed by a rest of this part of its time, and of no more than this: stages that feed each
/// other in a circle would pass on what there is in ever smaller pieces.
const REST_PART: u32 = 8;
const REST: Duration = Duration::from_millis(5);

/// Stages that run in so many processes begin batches so many times less often each, up to this: what a batch costs Postgres,
/// and the rows that it holds, they share. Beyond it the time would be felt.
const SHARES: usize = 2;

/// When the next batch of a stage is due.
#[derive(Debug, Clone)]
pub struct Linger {
    alone: Duration,
    every: Duration,
    shares: usize,
    full: usize,
    due: Instant,
    /// Items that came of late, those of long ago for a small part.
    recent: f64,
    counted: Instant,
}

impl Linger {
    /// For a stage that under load begins a batch `every` so often, whose batches hold `full` items at most: behind such a
    /// one the next is there already, and nothing waits.
    pub fn new(every: Duration, full: usize) -> Self {
        let now = Instant::now();
        Self { alone: every, every, shares: SHARES, full, due: now, recent: 0.0, counted: now }
    }

    /// Of a stage whose batches serve those of other processes, too: up to so many begin them so many times less often each.
    #[must_use]
    pub fn for_others_too(self, shares: usize) -> Self {
        Self { shares, ..self }
    }

    /// The stage runs in so many processes from now on.
    pub fn share(&mut self, among: usize) {
        self.every = self.alone * u32::try_from(among.clamp(1, self.shares)).unwrap_or(1);
    }

    /// A batch of so many items is done that was begun then.
    pub fn done(&mut self, begun: Instant, items: usize) {
        let now = Instant::now();
        let faded = (-(now - self.counted).div_duration_f64(RECENT)).exp();
        self.recent = self.recent * faded + items as f64;
        self.counted = now;
        self.due = if items < self.full && self.recent >= LOAD {
            let rest = ((now - begun) / REST_PART).min(REST);
            (begun + self.every).max(now + rest)
        } else {
            now
        };
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

    use tokio::time::{advance, sleep};

    use super::*;

    const EVERY: Duration = Duration::from_millis(10);
    const FULL: usize = 500;
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A second in which items come one by one, so many milliseconds apart; a batch takes one. Returns how many batches there
    /// were, and the longest wait of an item that came while none was under way.
    async fn second(apart: u32) -> (u32, Duration) {
        let mut linger = Linger::new(EVERY, FULL);
        let start = Instant::now();
        let (mut taken, mut batches, mut longest) = (0, 0, Duration::ZERO);
        while start.elapsed() < Duration::from_secs(1) {
            sleep_until(start + MILLISECOND * apart * (taken + 1)).await;
            let came = Instant::now();
            linger.over().await;
            let begun = Instant::now();
            longest = longest.max(begun - came);
            let come = u32::try_from((begun - start).as_millis()).expect("a second") / apart;
            sleep(MILLISECOND).await;
            linger.done(begun, (come - taken) as usize);
            (taken, batches) = (come, batches + 1);
        }
        (batches, longest)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_alone_goes_at_once() {
        for apart in [10, 20, 100] {
            assert_eq!(second(apart).await, (1_000 / apart, Duration::ZERO), "{apart} ms apart");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_batches_begin_at_a_bounded_rate() {
        for apart in [1, 2] {
            let (batches, longest) = second(apart).await;
            // Each 10 ms, by a timer of whole milliseconds; one for each item before it was known that there is load.
            assert!((80..=180).contains(&batches), "{apart} ms apart: {batches}");
            assert!(longest <= EVERY, "{apart} ms apart: {longest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_took_long_is_followed_by_a_short_rest() {
        for (took, wait) in [(0, 10), (4, 6), (16, 2), (32, 4), (40, 5), (5_000, 5)] {
            let mut linger = Linger::new(EVERY, FULL);
            let begun = Instant::now();
            advance(MILLISECOND * took).await;
            linger.done(begun, FULL - 1);
            assert_eq!(linger.until() - Instant::now(), MILLISECOND * wait, "behind one of {took} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn processes_share_how_often_batches_begin() {
        let one = Linger::new(EVERY, FULL);
        let for_all = one.clone().for_others_too(4);
        for (linger, among, wait) in
            [(&one, 0, 1), (&one, 1, 1), (&one, 2, 2), (&one, 100, SHARES), (&for_all, 3, 3), (&for_all, 100, 4)]
        {
            let mut linger = linger.clone();
            linger.share(among);
            linger.done(Instant::now(), FULL - 1);
            assert_eq!(linger.until() - Instant::now(), EVERY * u32::try_from(wait).expect("few"), "{among}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_behind_a_full_batch_or_when_the_load_is_over() {
        let mut linger = Linger::new(EVERY, FULL);
        linger.done(Instant::now(), FULL);
        assert!(linger.is_over(), "the next is there already");
        linger.done(Instant::now(), 1);
        assert!(!linger.is_over(), "there is load");
        advance(Duration::from_secs(1)).await;
        linger.done(Instant::now(), 1);
        assert!(linger.is_over(), "long after it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_taken_and_what_is_not_is_waited_for_until_the_batch_is_due() {
        let mut linger = Linger::new(EVERY, FULL);
        let begun = Instant::now();
        assert_eq!(linger.more(ready(1)).await, Some(1));
        assert_eq!(linger.more(pending::<u8>()).await, None);
        assert_eq!(begun.elapsed(), Duration::ZERO, "nothing is to be waited for");
        linger.done(begun, 100);
        assert_eq!(linger.more(ready(1)).await, Some(1));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(linger.more(pending::<u8>()).await, None);
        assert!(begun.elapsed() >= EVERY);
    }
}
