//! The worker's own view of its lease. A mutating request is sent only while it must end before the lease does,
//! so that a partitioned worker has gone quiet before anyone may take its attempts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_runtime::clock::Monotonic;
use tokio::sync::watch;

/// How long the worker may still act. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    clock: Arc<dyn Monotonic>,
    time_to_live: Duration,
    request_timeout: Duration,
    state: Arc<Mutex<State>>,
    renewed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// When the last successful beat *began*: Postgres may have run it at any time since.
    beat_began: Duration,
    /// Since when beats have succeeded without a gap of a whole lease.
    unbroken_since: Duration,
}

impl Lease {
    /// A lease whose first beat began at `began`.
    pub(crate) fn new(
        clock: Arc<dyn Monotonic>,
        began: Duration,
        time_to_live: Duration,
        request_timeout: Duration,
    ) -> Self {
        let state = Arc::new(Mutex::new(State { beat_began: began, unbroken_since: began }));
        Self { clock, time_to_live, request_timeout, state, renewed: watch::Sender::new(()) }
    }

    /// The time, on the clock that counts suspend.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// A beat that began at `began` succeeded.
    pub(crate) fn renew(&self, began: Duration) {
        {
            let mut state = self.lock();
            if began.saturating_sub(state.beat_began) >= self.time_to_live {
                state.unbroken_since = began;
            }
            state.beat_began = began;
        }
        self.renewed.send_replace(());
    }

    /// Whether a mutating request sent now must end within the lease.
    pub(crate) fn allows_request(&self) -> bool {
        self.clock.now().saturating_sub(self.lock().beat_began) + self.request_timeout < self.time_to_live
    }

    /// For how long beats have succeeded without a gap of a whole lease: whose lease is shorter may be judged.
    pub(crate) fn unbroken(&self) -> Duration {
        let state = self.lock();
        let now = self.clock.now();
        if now.saturating_sub(state.beat_began) >= self.time_to_live {
            return Duration::ZERO;
        }
        now.saturating_sub(state.unbroken_since)
    }

    /// Waits until [`Lease::allows_request`]: until the next beat that succeeds, if it does not now.
    pub(crate) async fn permit(&self) -> Duration {
        // Nearly always: nobody is to be told of a beat then.
        if self.allows_request() {
            return self.request_timeout;
        }
        let mut renewed = self.renewed.subscribe();
        loop {
            if self.allows_request() {
                return self.request_timeout;
            }
            // The sender lives in `self`.
            let _ = renewed.changed().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use gantry_runtime::clock::Manual;

    const TTL: Duration = Duration::from_secs(18);
    const REQUEST: Duration = Duration::from_secs(6);

    fn lease() -> (Manual, Lease) {
        let clock = Manual::default();
        let lease = Lease::new(Arc::new(clock.clone()), clock.now(), TTL, REQUEST);
        (clock, lease)
    }

    #[tokio::test]
    async fn no_request_is_sent_that_could_outlive_the_lease() {
        let (clock, lease) = lease();
        clock.advance(TTL - REQUEST - Duration::from_millis(1));
        assert_eq!(lease.permit().now_or_never(), Some(REQUEST));
        clock.advance(Duration::from_millis(1));
        assert_eq!(lease.permit().now_or_never(), None, "a worker whose beats fail goes quiet");
        let waiting = lease.permit();
        lease.renew(clock.now());
        assert_eq!(waiting.now_or_never(), Some(REQUEST));
    }

    #[test]
    fn a_beat_counts_from_when_it_began() {
        let (clock, lease) = lease();
        let began = clock.now();
        clock.advance(TTL - REQUEST);
        lease.renew(began);
        assert!(!lease.allows_request());
    }

    #[test]
    fn a_gap_in_the_beats_starts_the_count_again() {
        let (clock, lease) = lease();
        for _ in 0..7 {
            clock.advance(Duration::from_secs(3));
            lease.renew(clock.now());
        }
        assert_eq!(lease.unbroken(), Duration::from_secs(21));
        clock.advance(TTL);
        assert_eq!(lease.unbroken(), Duration::ZERO, "its own beats are overdue");
        lease.renew(clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(lease.unbroken(), Duration::from_secs(1));
    }
}
