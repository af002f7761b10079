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
mod tests;
