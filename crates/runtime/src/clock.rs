//! Time that passes while the machine sleeps.
//!
//! A lease is over when its time is, whether or not this machine was awake.
//! `std::time::Instant` stands still during suspend on Linux, so a process
//! that wakes up would believe in a lease that others saw expire.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// A clock that only goes forward and counts suspend. Its zero means nothing;
/// only differences do.
pub trait Monotonic: Send + Sync + std::fmt::Debug {
    /// Time since the clock's zero (the machine's boot).
    fn now(&self) -> Duration;
}

/// The machine's own clock, `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Boottime;

// Elsewhere than on Linux, CLOCK_MONOTONIC is the one that counts suspend.
#[cfg(target_os = "linux")]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const CLOCK: ClockId = ClockId::Monotonic;

impl Monotonic for Boottime {
    fn now(&self) -> Duration {
        let time = clock_gettime(CLOCK);
        // Neither part is negative on a clock that starts at boot.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }
}

/// A clock for tests: it stands until it is advanced. Clones share the time.
#[derive(Debug, Clone, Default)]
pub struct Manual {
    now: Arc<Mutex<Duration>>,
}

impl Manual {
    /// Lets `by` pass.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.now.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Monotonic for Manual {
    fn now(&self) -> Duration {
        *self.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_goes_forward() {
        let before = Boottime.now();
        assert!(before > Duration::ZERO);
        assert!(Boottime.now() >= before);
    }

    #[test]
    fn clones_of_the_manual_clock_share_the_time() {
        let clock = Manual::default();
        let held: Arc<dyn Monotonic> = Arc::new(clock.clone());
        clock.advance(Duration::from_secs(7));
        assert_eq!(held.now(), Duration::from_secs(7));
    }
}
