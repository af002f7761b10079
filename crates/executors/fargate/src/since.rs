//! What this process remembers of tasks and names: since when something holds of each.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// ECS forgets a task about an hour after its end: nothing is asked about it for much longer.
const KEPT: Duration = Duration::from_secs(2 * 3600);
/// From how many entries on old ones are looked for.
const MANY: usize = 4_096;

/// Keys, each with the moment when it was first noted.
#[derive(Debug, Default)]
pub(crate) struct Since(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    moments: HashMap<String, Instant>,
    swept_at: usize,
}

impl Since {
    /// Notes a key, unless it is noted already, and returns how long ago that was.
    pub(crate) fn note(&self, key: &str) -> Duration {
        let mut noted = self.lock();
        if let Some(moment) = noted.moments.get(key) {
            return moment.elapsed();
        }
        if noted.moments.len() >= MANY.max(noted.swept_at) {
            noted.moments.retain(|_, moment| moment.elapsed() < KEPT);
            noted.swept_at = noted.moments.len() * 2;
        }
        noted.moments.insert(key.to_owned(), Instant::now());
        Duration::ZERO
    }

    /// How long ago a key was noted, if it was.
    pub(crate) fn get(&self, key: &str) -> Option<Duration> {
        self.lock().moments.get(key).map(Instant::elapsed)
    }

    pub(crate) fn forget(&self, key: &str) {
        self.lock().moments.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
