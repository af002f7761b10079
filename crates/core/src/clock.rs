//! The clock that code asks when it compares times, so that tests can advance it.

use chrono::{DateTime, Utc};

/// Tells the time. Leases and deadlines are compared by Postgres instead; this is for what never meets the
/// database, such as a default in a message.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the wall clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}
