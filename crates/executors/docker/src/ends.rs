//! Ends that are asked about when their deaths are heard of, each by itself. The engine keeps a container locked while it
//! takes down what belonged to it: a look that asked then would wait for one and see no other meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use gantry_worker::executor::{ExecutionId, Observed};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;
use crate::observe;

/// Questions at a time. Of more deaths than that at once, as when an engine is stopped, the looks are told alone.
const AT_ONCE: usize = 8;
/// For how long a look leaves out what is asked about already.
const AWAITED: Duration = Duration::from_secs(2);
/// An answer that no look took for so long is dropped: its container is not watched here any more.
const KEPT: Duration = Duration::from_secs(60);

/// The questions, by container.
#[derive(Default)]
pub(crate) struct Ends(Mutex<HashMap<String, Question>>);

struct Question {
    asked: Instant,
    answer: Answer,
    _task: AbortOnDropHandle<()>,
}

enum Answer {
    Awaited,
    Came(Observed),
    Failed,
}

/// What a look finds.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    /// Nothing: it is to be asked for.
    Nothing,
    /// The answer is on its way, and will hint at itself.
    Awaited,
    State(Observed),
}

/// Asks how the container ended, and hints at a change once that is known.
pub(crate) fn ask(engine: &Arc<Engine>, docker: &Docker, id: String) {
    let task = || {
        let (engine, docker, id) = (Arc::clone(engine), docker.clone(), ExecutionId(id.clone()));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = observe::inspect(&engine, &docker, &id).await;
            // A look asks again, and says what is wrong.
            engine.ends.answered(&id.0, answer.map_or(Answer::Failed, Answer::Came));
            engine.changes.hint();
        }))
    };
    if !engine.ends.begin(&id, Instant::now(), task) {
        engine.changes.hint();
    }
}

impl Ends {
    /// False if there are too many on their way. The lock is held until the question is noted: its answer comes after.
    fn begin(&self, id: &str, now: Instant, task: impl FnOnce() -> AbortOnDropHandle<()>) -> bool {
        let mut questions = self.lock();
        questions.retain(|_, question| now.saturating_duration_since(question.asked) < KEPT);
        let awaited = questions.values().filter(|question| matches!(question.answer, Answer::Awaited));
        if awaited.count() >= AT_ONCE {
            return false;
        }
        questions.insert(id.to_owned(), Question { asked: now, answer: Answer::Awaited, _task: task() });
        true
    }

    fn answered(&self, id: &str, answer: Answer) {
        if let Some(question) = self.lock().get_mut(id) {
            question.answer = answer;
        }
    }

    /// Takes the answer, if there is one.
    pub(crate) fn take(&self, id: &str, now: Instant) -> Told {
        let mut questions = self.lock();
        let Some(question) = questions.get(id) else { return Told::Nothing };
        let is_late = now.saturating_duration_since(question.asked) >= AWAITED;
        if matches!(question.answer, Answer::Awaited) {
            return if is_late { Told::Nothing } else { Told::Awaited };
        }
        match questions.remove(id).map(|question| question.answer) {
            Some(Answer::Came(state)) => Told::State(state),
            _ => Told::Nothing,
        }
    }

    /// Nobody wants to know any more.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Question>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(std::future::pending()))
    }

    #[tokio::test]
    async fn an_answer_is_taken_once_and_not_waited_for_without_end() {
        let (ends, now) = (Ends::default(), Instant::now());
        assert_eq!(ends.take("a", now), Told::Nothing);
        assert!(ends.begin("a", now, task) && ends.begin("b", now, task));
        assert_eq!(ends.take("a", now), Told::Awaited);
        ends.answered("a", Answer::Came(Observed::Gone));
        ends.answered("b", Answer::Failed);
        assert_eq!([ends.take("a", now), ends.take("a", now)], [Told::State(Observed::Gone), Told::Nothing]);
        assert_eq!(ends.take("b", now), Told::Nothing, "it is asked again");

        assert!(ends.begin("c", now, task));
        assert_eq!(ends.take("c", now + AWAITED), Told::Nothing, "the engine hangs on it, or on the question");
        ends.answered("c", Answer::Came(Observed::Gone));
        assert_eq!(ends.take("c", now + AWAITED), Told::State(Observed::Gone));
    }

    #[tokio::test]
    async fn so_many_are_asked_at_once_and_what_nobody_takes_is_dropped() {
        let (ends, now) = (Ends::default(), Instant::now());
        let ids: Vec<String> = (0..AT_ONCE).map(|number| number.to_string()).collect();
        assert!(ids.iter().all(|id| ends.begin(id, now, task)));
        assert!(!ends.begin("more", now, task));
        ends.answered("0", Answer::Came(Observed::Gone));
        assert!(ends.begin("more", now, task));
        assert!(ends.begin("later", now + KEPT, task), "the others are given up");
        assert_eq!(ends.take("0", now), Told::Nothing);
    }
}
