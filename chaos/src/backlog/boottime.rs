//! The clock of the executor's ledger, and the database's beside it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CLOCK_BOOTTIME in nanoseconds: what simulated containers count in.
pub(super) fn now() -> u64 {
    read(ClockId::Boottime)
}

/// From one reading to another.
pub(super) fn between(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

/// What a time of day of this machine is in CLOCK_BOOTTIME. The time of day is put right now and then, so it is read at
/// both ends of what is measured, and what it moved in between is the uncertainty.
pub(super) struct Epoch {
    at_begin: u64,
}

impl Epoch {
    /// When measuring begins.
    pub(super) fn begin() -> Self {
        Self { at_begin: offset() }
    }

    /// When it ends: a function from nanoseconds since 1970 to the earliest that they may be.
    pub(super) fn end(self) -> impl Fn(u64) -> u64 {
        let latest = offset().max(self.at_begin);
        move |nanos| nanos.saturating_sub(latest)
    }
}

/// The moment of the machine's start, as far as the time of day tells it now.
fn offset() -> u64 {
    read(ClockId::Realtime) - now()
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
