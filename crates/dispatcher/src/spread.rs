//! Over how many messages the jobs of a batch are spread.
//!
//! A message costs RabbitMQ and its worker more than a job in it. But whoever takes a list takes all of it, and what finds no
//! slot there waits for another worker's sweep: so there are as many lists as there are workers to take them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use gantry_core::ExecutorType;

/// Jobs in one message at most.
const LIST: usize = 100;
/// Lists of a batch at most, before they grow beyond it; and as many as this while nobody knows of any worker.
const MOST: usize = 16;

/// The live workers of each executor type, as the last look at the windows found them.
#[derive(Debug, Default)]
pub(crate) struct Spread(Mutex<HashMap<ExecutorType, usize>>);

impl Spread {
    /// So many workers take messages.
    pub(crate) fn found(&self, executor: ExecutorType, workers: i64) {
        let workers = usize::try_from(workers).unwrap_or_default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(executor, workers);
    }

    /// How many of so many jobs a message carries.
    pub(crate) fn list(&self, executor: ExecutorType, jobs: usize) -> usize {
        let workers = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&executor).copied();
        let lists = workers.filter(|workers| *workers > 0).unwrap_or(MOST).min(MOST);
        jobs.div_ceil(lists).clamp(1, LIST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_gets_a_list_and_no_list_is_too_long() {
        let (spread, executor) = (Spread::default(), ExecutorType::Mock);
        assert_eq!(spread.list(executor, 160), 10, "nobody knows of any worker");
        spread.found(executor, 2);
        assert_eq!([1, 2, 3, 150, 1_000].map(|jobs| spread.list(executor, jobs)), [1, 1, 2, 75, 100]);
        spread.found(executor, 1_000);
        assert_eq!([1, 16, 160].map(|jobs| spread.list(executor, jobs)), [1, 1, 10]);
        assert_eq!(spread.list(ExecutorType::Docker, 32), 2, "each type has workers of its own");
        spread.found(executor, 0);
        assert_eq!(spread.list(executor, 0), 1);
    }
}
