//! Containers that are known to run: a look does not ask about each of them again, as long as the engine's events tell of
//! deaths. An event may be lost, so what is known grows old soon.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a container is believed to run. Less than the second between two looks that nothing hinted at: each of those
/// asks.
const BELIEVED: Duration = Duration::from_millis(900);

/// The containers that this process has started or asked about, and of whose death it has not heard since.
#[derive(Default)]
pub(crate) struct Alive(Mutex<HashMap<String, Sight>>);

struct Sight {
    /// When the engine was asked about it, or asked to start it.
    asked: Instant,
    /// Whether it answered that it runs.
    runs: bool,
}

impl Alive {
    /// The engine is about to be asked about these, or to start them. Noted before, because a death that is heard of
    /// meanwhile counts more than the answer.
    pub(crate) fn ask<'a>(&self, ids: impl IntoIterator<Item = &'a str>) {
        let asked = Instant::now();
        let new = ids.into_iter().map(|id| (id.to_owned(), Sight { asked, runs: false }));
        self.lock().extend(new);
    }

    /// The answer was that it runs.
    pub(crate) fn runs(&self, id: &str) {
        if let Some(sight) = self.lock().get_mut(id) {
            sight.runs = true;
        }
    }

    /// Whether it need not be asked about.
    pub(crate) fn is_running(&self, id: &str, now: Instant) -> bool {
        let sights = self.lock();
        sights.get(id).is_some_and(|sight| sight.runs && now.saturating_duration_since(sight.asked) < BELIEVED)
    }

    /// It has died, or nobody wants to know any more.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Deaths may have gone unheard.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_believed_for_a_while() {
        let alive = Alive::default();
        alive.ask(["a", "b"]);
        assert!(!alive.is_running("a", Instant::now()), "no answer yet");
        alive.runs("a");
        alive.runs("c");
        let now = Instant::now();
        assert_eq!(["a", "b", "c"].map(|id| alive.is_running(id, now)), [true, false, false]);
        assert!(!alive.is_running("a", now + BELIEVED), "its death may have gone unheard");
        alive.ask(["a"]);
        assert!(!alive.is_running("a", Instant::now()), "asked again");
    }

    #[test]
    fn a_death_counts_more_than_an_answer_that_was_on_its_way() {
        let alive = Alive::default();
        alive.ask(["a", "b"]);
        alive.runs("b");
        alive.forget("a");
        alive.runs("a");
        assert_eq!(["a", "b"].map(|id| alive.is_running(id, Instant::now())), [false, true]);
        alive.forget_all();
        alive.runs("b");
        assert!(!alive.is_running("b", Instant::now()));
    }
}
