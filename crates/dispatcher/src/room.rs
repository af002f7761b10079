//! Room in the windows for jobs that just come in: where nobody stands in line, they need not either.
//!
//! Nothing here must be right for a promise to hold. What enters the window by it is counted there like any other job, the
//! claim decides who runs, and the next look at the windows says how much room is left.
//!
//! Somebody may come into line without being told of here: over HTTP, through another dispatcher, by a retry or another of
//! upkeep's moves. Until a look finds them, the last one at all lines, at most the room that each look found passes them: as
//! many jobs as there were free slots. Nudges and the poll bring looks about, and whoever stands in line then closes the room.
//!
//! A room that is closed stays so under load: each batch that comes in stands in line, and comes while a look at those before it
//! is under way. So intake waits now and then for a look that finds all who stand in line, and the next batch need not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_core::ExecutorType;
use tokio::sync::Notify;

/// How many jobs of each executor type may enter its window past its empty lines.
#[derive(Debug, Default)]
pub(crate) struct Room {
    places: Mutex<HashMap<ExecutorType, Places>>,
    /// Told at the end of each look.
    looked: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Places {
    free: usize,
    /// What the last look found free.
    found: usize,
    /// Taken by transactions that are not known to be over.
    in_flight: usize,
    /// Taken, and perhaps not seen by the present look: what was in flight when it began, and what was taken since.
    unseen: usize,
    /// Somebody came into line whom the present look may not have seen.
    in_line: bool,
    /// A look is under way.
    looking: bool,
    /// The last look left room, and nobody in line but those who came meanwhile.
    reopens: bool,
}

impl Room {
    /// A look at the windows and lines begins: what is not committed yet it may not see, nor who comes into line from now on.
    pub(crate) fn look(&self) {
        for places in self.lock().values_mut() {
            places.unseen = places.in_flight;
            places.in_line = false;
            places.looking = true;
        }
    }

    /// What the look found; of an executor type that is not named, nothing.
    pub(crate) fn found(&self, free: &HashMap<ExecutorType, usize>) {
        let mut room = self.lock();
        for executor in free.keys() {
            room.entry(*executor).or_default();
        }
        for (executor, places) in room.iter_mut() {
            let seen = free.get(executor).copied().unwrap_or_default();
            let found = if places.in_line { 0 } else { seen };
            places.reopens = seen > found;
            places.free = found.saturating_sub(places.unseen);
            places.found = found;
            places.looking = false;
        }
        drop(room);
        self.looked.notify_waiters();
    }

    /// Whether the next look opens a room again, if nobody comes into line before it is over.
    pub(crate) fn reopens(&self) -> bool {
        self.lock().values().any(|places| places.reopens)
    }

    /// Waits for that look.
    pub(crate) async fn reopened(&self) {
        loop {
            // Before the question, so that no look ends unseen between the two.
            let looked = self.looked.notified();
            if !self.reopens() {
                return;
            }
            looked.await;
        }
    }

    /// Takes so many places for a transaction, if there are as many.
    pub(crate) fn take(&self, executor: ExecutorType, jobs: usize) -> Option<Taken<'_>> {
        let mut room = self.lock();
        let places = room.get_mut(&executor).filter(|places| places.free >= jobs)?;
        places.free -= jobs;
        places.in_flight += jobs;
        places.unseen += jobs;
        Some(Taken { room: self, executor, jobs })
    }

    /// Whether half of the room for each of these executor types is left, and nobody stands in line. Of less another
    /// dispatcher, who found the same, may have taken the rest, so that somebody was parked for want of it. While a look is
    /// under way it may be about to give all of it to somebody.
    pub(crate) fn is_left(&self, executors: &[ExecutorType]) -> bool {
        let room = self.lock();
        let is_left = |places: &Places| places.free > 0 && 2 * places.free >= places.found && !places.looking;
        executors.iter().all(|executor| room.get(executor).is_some_and(is_left))
    }

    /// A job is in line, and committed: nobody passes it.
    pub(crate) fn stands_in_line(&self, executor: ExecutorType) {
        let mut room = self.lock();
        let places = room.entry(executor).or_default();
        places.free = 0;
        places.in_line = true;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ExecutorType, Places>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places that a transaction has taken. Dropped when it is over, one way or the other: a look that begins then sees what came
/// of it. Intake and the dispatch task may each have some.
#[derive(Debug)]
#[must_use = "dropped, it says that the transaction is over"]
pub(crate) struct Taken<'a> {
    room: &'a Room,
    executor: ExecutorType,
    jobs: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(places) = self.room.lock().get_mut(&self.executor) {
            places.in_flight -= self.jobs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOCK: ExecutorType = ExecutorType::Mock;

    /// A look that finds so many free places.
    fn look(room: &Room, free: usize) {
        room.look();
        room.found(&HashMap::from([(MOCK, free)]));
    }

    #[test]
    fn a_place_is_taken_once() {
        let room = Room::default();
        assert!(room.take(MOCK, 1).is_none(), "nobody has looked yet");
        look(&room, 3);
        assert!(room.take(MOCK, 4).is_none(), "all or none");
        assert!(room.take(MOCK, 2).is_some() && room.take(ExecutorType::Docker, 1).is_none());
        assert!(room.take(MOCK, 1).is_some() && room.take(MOCK, 1).is_none());
        room.look();
        room.found(&HashMap::new());
        assert!(room.take(MOCK, 1).is_none(), "nobody serves it any more, or somebody stands in line");
    }

    #[test]
    fn a_look_does_not_give_back_what_is_in_flight() {
        let room = Room::default();
        look(&room, 4);
        let three = room.take(MOCK, 3).expect("there are four");
        look(&room, 4);
        assert!(room.take(MOCK, 2).is_none(), "it may not have seen the three");
        assert!(room.take(MOCK, 1).is_some());
        drop(three);
        look(&room, 4);
        assert!(room.take(MOCK, 4).is_some(), "it saw what became of them, and slots are free again");
    }

    #[test]
    fn the_end_of_a_transaction_is_not_that_of_another() {
        let room = Room::default();
        look(&room, 6);
        let (two, three) = (room.take(MOCK, 2).expect("there are six"), room.take(MOCK, 3).expect("there are four"));
        let other = ExecutorType::Docker;
        room.look();
        room.found(&HashMap::from([(MOCK, 6), (other, 1)]));
        let one = room.take(other, 1).expect("there is one");
        drop(two);
        room.look();
        room.found(&HashMap::from([(MOCK, 6), (other, 1)]));
        assert!(room.take(MOCK, 4).is_none() && room.take(other, 1).is_none(), "it may not have seen three, and one");
        assert!(room.take(MOCK, 3).is_some());
        drop((one, three));
        look(&room, 6);
        assert!(room.take(MOCK, 6).is_some());
    }

    #[test]
    fn a_look_may_miss_what_ends_while_it_is_under_way() {
        let room = Room::default();
        look(&room, 4);
        let one = room.take(MOCK, 1).expect("there are four");
        room.look();
        drop(one);
        assert!(room.take(MOCK, 2).is_some());
        room.found(&HashMap::from([(MOCK, 4)]));
        assert!(room.take(MOCK, 2).is_none(), "of the four it may have missed three");
        assert!(room.take(MOCK, 1).is_some());
    }

    #[test]
    fn there_is_room_left_until_it_is_taken_or_somebody_waits_for_it() {
        let room = Room::default();
        assert!(!room.is_left(&[MOCK]), "nobody has looked yet");
        look(&room, 1);
        assert!(room.is_left(&[MOCK]) && !room.is_left(&[MOCK, ExecutorType::Docker]));
        room.look();
        assert!(!room.is_left(&[MOCK]), "who knows what the look finds");
        room.found(&HashMap::from([(MOCK, 2)]));
        room.stands_in_line(MOCK);
        assert!(!room.is_left(&[MOCK]));
        look(&room, 3);
        assert!(room.take(MOCK, 1).is_some() && room.is_left(&[MOCK]));
        assert!(room.take(MOCK, 1).is_some() && !room.is_left(&[MOCK]), "another dispatcher may have taken the third");
    }

    #[test]
    fn nobody_passes_who_stands_in_line() {
        let room = Room::default();
        look(&room, 2);
        room.stands_in_line(MOCK);
        assert!(room.take(MOCK, 1).is_none());
        room.look();
        room.stands_in_line(MOCK);
        room.found(&HashMap::from([(MOCK, 2)]));
        assert!(room.take(MOCK, 1).is_none(), "the look may not have seen the second");
        look(&room, 2);
        assert!(room.take(MOCK, 1).is_some());
    }

    #[tokio::test]
    async fn whoever_waits_for_the_look_that_finds_all_in_line_need_not_stand_there() {
        let room = Room::default();
        look(&room, 3);
        room.look();
        room.stands_in_line(MOCK);
        room.found(&HashMap::from([(MOCK, 3)]));
        assert!(room.reopens() && room.take(MOCK, 1).is_none());
        let waits = async {
            room.reopened().await;
            room.take(MOCK, 3).is_some()
        };
        let (enters, ()) = tokio::join!(waits, async { look(&room, 3) });
        assert!(enters && !room.reopens());
    }

    #[test]
    fn nobody_waits_for_a_room_that_the_next_look_does_not_open() {
        let room = Room::default();
        assert!(!room.reopens(), "nobody has looked yet");
        look(&room, 3);
        assert!(!room.reopens(), "it is open");
        room.look();
        room.stands_in_line(MOCK);
        room.found(&HashMap::new());
        assert!(!room.reopens(), "there are no slots, or somebody was left in line");
        room.look();
        room.stands_in_line(MOCK);
        room.found(&HashMap::from([(MOCK, 1)]));
        assert!(room.reopens());
        room.look();
        room.found(&HashMap::new());
        assert!(!room.reopens(), "the slots were taken");
    }
}
