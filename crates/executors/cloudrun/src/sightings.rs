//! What this process remembers of names: whether "no such Job" can be believed, and which ones have ended.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// For how long after the first question "no such Job" may only mean that it is not to be seen yet. Cloud Run promises
/// that a Job can be read once its creation's operation is done, and nothing before: an answer comes in about a
/// second, so this is ample.
const SETTLES: Duration = Duration::from_secs(10);
/// For how long a name is remembered. One that is asked for again later settles again.
const KEPT: Duration = Duration::from_secs(3600);
/// How many names are remembered before the old ones are looked for.
const MANY: usize = 4096;

#[derive(Default)]
pub(crate) struct Sightings(Mutex<HashMap<String, Sighting>>);

#[derive(Clone, Copy)]
struct Sighting {
    /// When it was first asked for, or last launched.
    since: Instant,
    /// This process had it removed.
    removed: bool,
    /// When its end was first seen.
    ended: Option<Instant>,
}

impl Sightings {
    /// A launch under this name is about to be sent.
    pub(crate) fn launched(&self, name: &str) {
        *entry(&mut self.lock(), name) = Sighting { since: Instant::now(), removed: false, ended: None };
    }

    /// The service knows of no such Job. Whether that can be believed.
    pub(crate) fn is_absent(&self, name: &str) -> bool {
        let sighting = *entry(&mut self.lock(), name);
        sighting.removed || sighting.since.elapsed() >= SETTLES
    }

    /// The Job was deleted, and the service has said so.
    pub(crate) fn removed(&self, name: &str) {
        entry(&mut self.lock(), name).removed = true;
    }

    /// Its end is seen; how long ago it first was.
    pub(crate) fn ended(&self, name: &str) -> Duration {
        entry(&mut self.lock(), name).ended.get_or_insert_with(Instant::now).elapsed()
    }

    /// How long ago its end was first seen, if it was.
    pub(crate) fn ended_ago(&self, name: &str) -> Option<Duration> {
        self.lock().get(name)?.ended.map(|at| at.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sighting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(sightings: &'a mut HashMap<String, Sighting>, name: &str) -> &'a mut Sighting {
    if sightings.len() >= MANY && !sightings.contains_key(name) {
        sightings.retain(|_, sighting| sighting.since.elapsed() < KEPT);
    }
    let fresh = || Sighting { since: Instant::now(), removed: false, ended: None };
    sightings.entry(name.to_owned()).or_insert_with(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_absence_is_believed_after_a_while_or_after_a_removal() {
        let names = Sightings::default();
        assert!(!names.is_absent("a"));
        tokio::time::advance(SETTLES).await;
        assert!(names.is_absent("a") && !names.is_absent("b"));
        names.launched("a");
        assert!(!names.is_absent("a"), "it may only be late");
        names.removed("a");
        assert!(names.is_absent("a"));
    }
}
