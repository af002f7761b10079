//! Work that is published while something else goes on.
//!
//! Whoever takes submissions in does not wait for the confirms of the work queues: one that does not answer would hold up
//! the submissions to all others. Nor does who serves the lines: the next look need not wait for the confirms of the last one.
//! What is not published here stays dispatched, and is published again by upkeep.

use std::collections::BTreeMap;

use gantry_core::ExecutorType;
use gantry_core::message::WorkItem;
use tokio::task::JoinSet;

use crate::{Parts, dispatch};

/// Batches on their way to one work queue at most: far more than there are while it confirms.
const UNDER_WAY: usize = 32;

/// What is on its way to each work queue. Dropped, it stops waiting.
#[derive(Default)]
pub(crate) struct Post(BTreeMap<ExecutorType, JoinSet<()>>);

impl Post {
    /// Publishes work that is in the window, without waiting for it.
    pub(crate) fn send(&mut self, parts: &Parts, executor: ExecutorType, items: Vec<WorkItem>) {
        let under_way = self.0.entry(executor).or_default();
        while under_way.try_join_next().is_some() {}
        if under_way.len() == UNDER_WAY {
            let jobs = items.len();
            tracing::warn!(executor.type = %executor, jobs, "the work queue does not confirm, these are published later");
            return;
        }
        let parts = parts.clone();
        under_way.spawn(async move { dispatch::publish(&parts, executor, &items).await });
    }

    /// The same for who has nothing better to do than to wait where too much is on its way.
    pub(crate) async fn send_in_turn(&mut self, parts: &Parts, executor: ExecutorType, items: Vec<WorkItem>) {
        let under_way = self.0.entry(executor).or_default();
        while under_way.len() >= UNDER_WAY {
            under_way.join_next().await;
        }
        self.send(parts, executor, items);
    }

    /// Waits for what is on its way.
    pub(crate) async fn settle(self) {
        for mut under_way in self.0.into_values() {
            while under_way.join_next().await.is_some() {}
        }
    }
}
