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
//! is under way. And intake alone is faster than all that is behind it: whatever comes at full speed would stand in line, and be
//! written once more for it. So intake waits for places where they come about as fast as it would use them: see
//! [`Places::comes`].

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_core::ExecutorType;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// The time of which places that came count; so many times longer as there are dispatchers, [`SHARES`] times at most: they find
/// them in turns, and each only a part.
const OF_LATE: Duration = Duration::from_millis(200);
/// So many dispatchers share what comes, for whoever waits for it; more are taken for as many.
pub(crate) const SHARES: usize = 4;

/// How many jobs of each executor type may enter its window past its empty lines.
#[derive(Debug, Default)]
pub(crate) struct Room {
    places: Mutex<HashMap<ExecutorType, Places>>,
    /// Told at the end of each look.
    looked: Notify,
}

/// What a look found of an executor type: places for everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Given to those who stood in line.
    pub(crate) moved: usize,
    /// Left, and nobody in line for them. None is known as long as somebody is.
    pub(crate) free: usize,
}

/// So many times longer somebody waits where so many dispatchers share what comes.
pub(crate) fn shares(dispatchers: usize) -> u32 {
    u32::try_from(dispatchers.clamp(1, SHARES)).unwrap_or(1)
}

/// A part of a batch that is worth a batch of its own: one in so many, or so many jobs.
const PART: usize = 4;
pub(crate) const MANY: usize = 32;

/// How long a batch waits for places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a place for each of its jobs.
    pub(crate) for_all: Duration,
    /// Until when for places for a part of them.
    pub(crate) until: Instant,
}

/// Whether a batch that comes in finds places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// There are enough.
    Now,
    /// There will be, at the pace at which they came of late.
    Soon,
    /// The next look opens the room again: the last one left places, and nobody in line but those who came meanwhile.
    Next,
    /// Not before long: it had better stand in line, where all see it and where it is sorted.
    Late,
}

#[derive(Clone, Debug, Default)]
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
    /// The places that looks have found of late, in line or free, and when.
    of_late: VecDeque<(Instant, usize)>,
    /// So many are waited for.
    wanted: usize,
    /// So many dispatchers share the places.
    sharers: usize,
}

impl Places {
    /// Whether so many jobs will find places. *Soon* only where those that came of late, in line or not, would be half of them at
    /// least.
    fn comes(&self, jobs: usize) -> Comes {
        if self.free >= jobs {
            return Comes::Now;
        }
        let of_late = self.of_late.iter().filter(|(at, _)| at.elapsed() < self.time());
        let came: usize = of_late.map(|(_, places)| places).sum();
        match (2 * came * self.sharers.max(1) >= jobs * shares(self.sharers) as usize, self.reopens) {
            (true, _) => Comes::Soon,
            (false, true) => Comes::Next,
            (false, false) => Comes::Late,
        }
    }

    /// How long places count that came: about as many as all dispatchers find in [`OF_LATE`].
    fn time(&self) -> Duration {
        OF_LATE * shares(self.sharers)
    }

    /// How many places are worth a batch of their own, if more do not come at once; none if no part of it is.
    fn worth_a_batch(&self, jobs: usize) -> Option<usize> {
        let is_all = self.of_late.back().is_some_and(|(_, came)| *came == 0);
        let is_worth_it = self.free > 0 && (is_all || self.free >= MANY || PART * self.free >= jobs);
        is_worth_it.then(|| self.free.min(jobs))
    }
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
    pub(crate) fn found(&self, found: &HashMap<ExecutorType, Found>, sharers: usize) {
        let mut room = self.lock();
        for executor in found.keys() {
            room.entry(*executor).or_default();
        }
        let now = Instant::now();
        for (executor, places) in room.iter_mut() {
            let Found { moved, free: seen } = found.get(executor).copied().unwrap_or_default();
            let came = moved + seen.saturating_sub(places.unseen).saturating_sub(places.free);
            places.sharers = sharers;
            let time = places.time();
            places.of_late.retain(|(at, _)| now - *at < time);
            places.of_late.push_back((now, came));
            let found = if places.in_line { 0 } else { seen };
            places.reopens = seen > found;
            places.free = found.saturating_sub(places.unseen);
            places.found = found;
            places.looking = false;
        }
        drop(room);
        self.looked.notify_waiters();
    }

    /// Whether the last look left room, and nobody in line but those who came meanwhile.
    pub(crate) fn reopens(&self, executor: ExecutorType) -> bool {
        self.lock().get(&executor).is_some_and(|places| places.reopens)
    }

    /// Waits for places for so many jobs, as long as they come *soon*, or with the *next* look: for all of them, or after some time
    /// for a part of them that is worth a batch. Returns how many are to be taken in: as many as have a place, or all of them, to
    /// stand in line.
    pub(crate) async fn wait_for(&self, executor: ExecutorType, jobs: usize, patience: Patience) -> usize {
        let want = |jobs| {
            if let Some(places) = self.lock().get_mut(&executor) {
                places.wanted = jobs;
            }
        };
        let begun = Instant::now();
        want(jobs);
        let found = loop {
            // Before the question, so that no look ends unseen between the two.
            let looked = self.looked.notified();
            let (comes, part) = self
                .lock()
                .get(&executor)
                .map_or((Comes::Late, None), |places| (places.comes(jobs), places.worth_a_batch(jobs)));
            let now = Instant::now();
            let is_patient = now < begun + patience.for_all;
            match comes {
                Comes::Now | Comes::Late => break jobs,
                Comes::Next if !is_patient => break jobs,
                Comes::Soon if now >= patience.until => break jobs,
                Comes::Soon | Comes::Next => {}
            }
            if let Some(part) = part.filter(|_| !is_patient) {
                break part;
            }
            let until = if is_patient { patience.until.min(begun + patience.for_all) } else { patience.until };
            // Without looks nothing comes any more, and is seen not to.
            let _ = timeout(until.saturating_duration_since(now).min(OF_LATE / 2), looked).await;
        };
        want(0);
        found
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
        let is_left = |places: &Places| {
            places.free > 0 && places.free >= places.wanted && 2 * places.free >= places.found && !places.looking
        };
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
    use tokio::time::{advance, sleep};

    use super::*;

    impl Room {
        fn comes(&self, executor: ExecutorType, jobs: usize) -> Comes {
            self.lock().get(&executor).map_or(Comes::Late, |places| places.comes(jobs))
        }
    }

    const MOCK: ExecutorType = ExecutorType::Mock;
    const FOR_ALL: Duration = Duration::from_millis(50);
    const FOR_ANY: Duration = Duration::from_secs(1);

    fn patience() -> Patience {
        Patience { for_all: FOR_ALL, until: Instant::now() + FOR_ANY }
    }

    fn found(free: &[(ExecutorType, usize)]) -> HashMap<ExecutorType, Found> {
        free.iter().map(|(executor, free)| (*executor, Found { moved: 0, free: *free })).collect()
    }

    fn free_places(free: usize) -> HashMap<ExecutorType, Found> {
        found(&[(MOCK, free)])
    }

    /// A look that finds so many free places.
    fn look(room: &Room, free: usize) {
        room.look();
        room.found(&free_places(free), 1);
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
        room.found(&HashMap::new(), 1);
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
        room.found(&found(&[(MOCK, 6), (other, 1)]), 1);
        let one = room.take(other, 1).expect("there is one");
        drop(two);
        room.look();
        room.found(&found(&[(MOCK, 6), (other, 1)]), 1);
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
        room.found(&free_places(4), 1);
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
        room.found(&free_places(2), 1);
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
        room.found(&free_places(2), 1);
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
        room.found(&free_places(3), 1);
        assert!(room.comes(MOCK, 13) == Comes::Next && room.take(MOCK, 1).is_none());
        let waits = async {
            assert_eq!(room.wait_for(MOCK, 3, patience()).await, 3);
            room.take(MOCK, 3).is_some()
        };
        let (enters, ()) = tokio::join!(waits, async { look(&room, 3) });
        assert!(enters);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_places_that_come_as_fast_as_it_would_use_them() {
        let room = Room::default();
        assert_eq!(room.comes(MOCK, 1), Comes::Late, "nobody has looked yet");
        look(&room, 4);
        assert_eq!(
            [4, 5, 8, 9].map(|jobs| room.comes(MOCK, jobs)),
            [Comes::Now, Comes::Soon, Comes::Soon, Comes::Late]
        );
        assert_eq!(room.comes(ExecutorType::Docker, 1), Comes::Late);
        drop(room.take(MOCK, 4).expect("there are four"));
        advance(OF_LATE / 2).await;
        look(&room, 2);
        assert_eq!([2, 12, 13].map(|jobs| room.comes(MOCK, jobs)), [Comes::Now, Comes::Soon, Comes::Late]);
        advance(OF_LATE / 2).await;
        look(&room, 2);
        assert_eq!(
            [2, 4, 5].map(|jobs| room.comes(MOCK, jobs)),
            [Comes::Now, Comes::Soon, Comes::Late],
            "two did not come again"
        );
        advance(OF_LATE).await;
        assert_eq!([2, 3].map(|jobs| room.comes(MOCK, jobs)), [Comes::Now, Comes::Late]);
    }

    #[tokio::test(start_paused = true)]
    async fn where_others_find_places_too_those_that_came_count_for_longer() {
        for (sharers, enough) in [(1, 8), (3, 8), (SHARES, 8), (2 * SHARES, 16)] {
            let room = Room::default();
            room.look();
            room.found(&free_places(4), sharers);
            drop(room.take(MOCK, 4).expect("there are four"));
            advance(OF_LATE * shares(sharers) - Duration::from_millis(1)).await;
            assert_eq!(
                [enough, enough + 1].map(|jobs| room.comes(MOCK, jobs)),
                [Comes::Soon, Comes::Late],
                "{sharers}"
            );
            advance(Duration::from_millis(1)).await;
            assert_eq!(room.comes(MOCK, 1), Comes::Late, "{sharers}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_that_go_to_those_in_line_come_too() {
        let room = Room::default();
        room.look();
        room.stands_in_line(MOCK);
        room.found(&HashMap::from([(MOCK, Found { moved: 5, free: 0 })]), 1);
        assert_eq!([10, 11].map(|jobs| room.comes(MOCK, jobs)), [Comes::Soon, Comes::Late]);
        assert!(room.take(MOCK, 1).is_none(), "somebody may be left in line");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_takes_what_there_is_after_a_while() {
        let room = Room::default();
        look(&room, 4);
        let begun = Instant::now();
        assert_eq!(room.wait_for(MOCK, 8, patience()).await, 4, "places for half of it");
        assert_eq!(begun.elapsed(), FOR_ALL);
        let taken = room.take(MOCK, 4).expect("there are four");
        let looks = async {
            loop {
                sleep(OF_LATE / 4).await;
                room.look();
                room.found(&HashMap::from([(MOCK, Found { moved: 8, free: 0 })]), 1);
            }
        };
        let begun = Instant::now();
        let waited = tokio::select! {
            jobs = room.wait_for(MOCK, 8, patience()) => jobs,
            () = looks => unreachable!("it looks for ever"),
        };
        drop(taken);
        assert_eq!(waited, 8, "all stand in line");
        let late = begun.elapsed() - FOR_ANY;
        assert!(late < OF_LATE / 2, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_free_a_small_part_is_taken() {
        let room = Room::default();
        for _ in 0..4 {
            room.look();
            room.found(&HashMap::from([(MOCK, Found { moved: 100, free: 0 })]), 1);
        }
        look(&room, 5);
        look(&room, 5);
        assert_eq!(room.comes(MOCK, 500), Comes::Soon);
        let begun = Instant::now();
        assert_eq!(room.wait_for(MOCK, 500, patience()).await, 5, "the second look found none beside them");
        assert_eq!(begun.elapsed(), FOR_ALL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_does_not_end_is_not_waited_for_long() {
        let room = Room::default();
        look(&room, 3);
        room.look();
        room.stands_in_line(MOCK);
        room.found(&free_places(3), 1);
        advance(2 * OF_LATE).await;
        let begun = Instant::now();
        assert_eq!(room.wait_for(MOCK, 7, patience()).await, 7);
        assert_eq!(begun.elapsed(), FOR_ALL);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_places_that_do_not_come_any_more() {
        let room = Room::default();
        look(&room, 4);
        drop(room.take(MOCK, 4).expect("there are four"));
        let begun = Instant::now();
        assert_eq!(room.wait_for(MOCK, 5, patience()).await, 5);
        assert!(begun.elapsed() <= 2 * OF_LATE, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn while_more_are_waited_for_each_end_is_worth_a_look() {
        let room = Room::default();
        look(&room, 4);
        assert!(room.is_left(&[MOCK]));
        let waits = room.wait_for(MOCK, 6, patience());
        let (_, ()) = tokio::join!(waits, async {
            assert!(!room.is_left(&[MOCK]));
            look(&room, 6);
        });
        assert!(room.is_left(&[MOCK]));
    }
}
