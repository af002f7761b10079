//! Over how many messages the jobs of a batch are spread.
//!
//! A message costs RabbitMQ and its worker more than a job in it. But whoever takes a list takes all of it, and what finds no
//! slot there waits for another worker's sweep: so there are as many lists as there are workers to take them, where slots are few,
//! and no list is longer than a part of what a worker has free on average.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gantry_core::ExecutorType;

/// Jobs in one message at most.
const LIST: usize = 100;
/// Lists of a batch at most, before they grow beyond it; and as many as this while nobody knows of any worker.
const MOST: usize = 16;

/// The part of a worker's free slots that one list may want.
const PART: usize = 4;

/// Who takes lists of each executor type, as the last look at the windows found it.
#[derive(Debug, Default)]
pub(crate) struct Spread(Mutex<HashMap<ExecutorType, Takers>>);

#[derive(Clone, Copy, Debug)]
struct Takers {
    workers: usize,
    /// Free slots that each of them has on average.
    free: usize,
}

impl Spread {
    /// So many workers take messages, and have so many free slots together.
    pub(crate) fn found(&self, executor: ExecutorType, workers: i64, free: i64) {
        let [workers, free] = [workers, free].map(|count| usize::try_from(count).unwrap_or_default());
        let takers = Takers { workers, free: free / workers.max(1) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(executor, takers);
    }

    /// How many of so many jobs a message carries.
    pub(crate) fn list(&self, executor: ExecutorType, jobs: usize) -> usize {
        let takers = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&executor).copied();
        let (lists, free) = match takers.filter(|takers| takers.workers > 0) {
            Some(takers) => (takers.workers.min(MOST), takers.free),
            None => (MOST, 0),
        };
        let most = jobs.div_ceil(lists).max(free / PART).clamp(1, LIST);
        // As many as that takes, of one length.
        jobs.div_ceil(jobs.div_ceil(most).max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_list_and_no_list_is_too_long() {
        let (spread, executor) = (Spread::default(), ExecutorType::Mock);
        assert_eq!(spread.list(executor, 160), 10, "nobody knows of any worker");
        spread.found(executor, 2, 6);
        assert_eq!([1, 2, 3, 150, 1_000].map(|jobs| spread.list(executor, jobs)), [1, 1, 2, 75, 100]);
        spread.found(executor, 1_000, 3_000);
        assert_eq!([1, 16, 160].map(|jobs| spread.list(executor, jobs)), [1, 1, 10]);
        assert_eq!(spread.list(ExecutorType::Docker, 32), 2, "each type has workers of its own");
        spread.found(executor, 0, 0);
        assert_eq!(spread.list(executor, 0), 1);
    }

    #[test]
    fn where_slots_are_many_lists_are_fewer() {
        let (spread, executor) = (Spread::default(), ExecutorType::Mock);
        spread.found(executor, 4, 4 * 200);
        assert_eq!([4, 40, 50, 60, 120, 1_000].map(|jobs| spread.list(executor, jobs)), [4, 40, 50, 30, 40, 100]);
        spread.found(executor, 4, 4 * 8);
        assert_eq!(
            [4, 40].map(|jobs| spread.list(executor, jobs)),
            [2, 10],
            "a list of two is a quarter of eight slots"
        );
    }
}
