//! Room in the windows for jobs that just come in: where nobody stands in line, they need not either.
//!
//! Nothing here must be right for a promise to hold. What enters the window by it is counted there like any other job, and
//! the next look at the windows says how much room is left.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_core::ExecutorType;

/// How many jobs of each executor type may enter its window past its empty lines.
#[derive(Debug, Default)]
pub(crate) struct Room(Mutex<HashMap<ExecutorType, Places>>);

#[derive(Clone, Copy, Debug, Default)]
struct Places {
    free: usize,
    /// Of those that the present look may not know of.
    taken: usize,
    /// Somebody came into line whom the present look may not have seen.
    in_line: bool,
}

impl Room {
    /// A look at the windows and lines begins: what is taken from now on it may not see, nor who comes into line.
    pub(crate) fn look(&self) {
        self.lock().values_mut().for_each(|places| (places.taken, places.in_line) = (0, false));
    }

    /// A job is in line, and committed: nobody passes it.
    pub(crate) fn stands_in_line(&self, executor: ExecutorType) {
        *self.lock().entry(executor).or_default() = Places { in_line: true, ..Places::default() };
    }

    /// What the look found; of an executor type that is not named, nothing.
    pub(crate) fn found(&self, free: &HashMap<ExecutorType, usize>) {
        let mut room = self.lock();
        for executor in free.keys() {
            room.entry(*executor).or_default();
        }
        for (executor, places) in room.iter_mut() {
            let found = free.get(executor).copied().filter(|_| !places.in_line).unwrap_or_default();
            places.free = found.saturating_sub(places.taken);
        }
    }

    /// Takes so many places, if there are as many.
    pub(crate) fn take(&self, executor: ExecutorType, jobs: usize) -> bool {
        let mut room = self.lock();
        let Some(places) = room.get_mut(&executor).filter(|places| places.free >= jobs) else { return false };
        places.free -= jobs;
        places.taken += jobs;
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecutorType, Places>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_and_a_look_does_not_give_it_back() {
        let (room, mock) = (Room::default(), ExecutorType::Mock);
        assert!(!room.take(mock, 1), "nobody has looked yet");
        room.look();
        room.found(&HashMap::from([(mock, 2)]));
        assert!(room.take(mock, 1) && !room.take(ExecutorType::Docker, 1));
        room.look();
        assert!(room.take(mock, 1), "while it looks");
        room.found(&HashMap::from([(mock, 2)]));
        assert!(room.take(mock, 1), "of the two that it saw, one was taken meanwhile");
        assert!(!room.take(mock, 1));
        room.look();
        room.found(&HashMap::new());
        assert!(!room.take(mock, 1), "nobody serves it any more, or somebody stands in line");
    }

    #[test]
    fn nobody_passes_who_stands_in_line() {
        let (room, mock) = (Room::default(), ExecutorType::Mock);
        let free = HashMap::from([(mock, 2)]);
        room.look();
        room.found(&free);
        room.stands_in_line(mock);
        assert!(!room.take(mock, 1));
        room.look();
        room.stands_in_line(mock);
        room.found(&free);
        assert!(!room.take(mock, 1), "the look may not have seen the second");
        room.look();
        room.found(&free);
        assert!(room.take(mock, 1));
    }
}
