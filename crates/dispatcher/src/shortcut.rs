//! The way of those who just came into line, where nobody stands there and slots are free: a nudge named them, and they need
//! not be looked for.
//!
//! A look at windows and lines is half a dozen statements, and has nothing to decide for them: each has a slot, like those who
//! come over AMQP and enter the window with their admission. What is not as usual goes the ordinary way: where there is no
//! place for all who came, or a limit counts one of them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use gantry_core::message::Newcomer;
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::lines::{self, Ask, Entrance};

use crate::post::Post;
use crate::room::Taken;
use crate::{Parts, metrics};

/// For how long a tenant's jobs are looked for after a limit counted one of them: limits stay, and would be found each time.
const LIMITED_FOR: Duration = Duration::from_secs(60);

/// Moves newcomers into the window without a look.
#[derive(Debug, Default)]
pub(crate) struct Shortcut {
    /// Whose jobs a limit counted, and when.
    limited: HashMap<TenantId, Instant>,
}

impl Shortcut {
    /// Moves these into the window, if there is a place for each, and publishes them. Returns how many that were; none if the
    /// windows and lines are to be looked at. Fewer than came are nothing to look for: the others have left the line, or
    /// another dispatcher is about to move them.
    pub(crate) async fn enter(
        &mut self,
        parts: &Parts,
        post: &mut Post,
        newcomers: &[Newcomer],
    ) -> Result<Option<usize>, gantry_store::Error> {
        self.limited.retain(|_, at| at.elapsed() < LIMITED_FOR);
        if newcomers.iter().any(|newcomer| self.limited.contains_key(&newcomer.tenant)) {
            return Ok(None);
        }
        let asks = asks(newcomers);
        let take = |(executor, asks): (&ExecutorType, &Vec<Ask>)| {
            let jobs: usize = asks.iter().map(|ask| ask.jobs).sum();
            parts.room.take(*executor, jobs)
        };
        // All of them or none: where there are fewer places, priorities and shares decide.
        let places: Option<Vec<Taken<'_>>> = asks.iter().map(take).collect();
        let Some(places) = places else { return Ok(None) };
        let (mut moved, mut is_all) = (0, true);
        for ((executor, asks), places) in asks.into_iter().zip(places) {
            let entered = lines::enter(&parts.store, executor, &asks).await?;
            drop(places);
            is_all &= entered.limited.is_empty();
            self.limited.extend(entered.limited.into_iter().map(|tenant| (tenant, Instant::now())));
            metrics::dispatched(executor, entered.items.len());
            moved += entered.items.len();
            if !entered.items.is_empty() {
                post.send_in_turn(parts, executor, entered.items).await;
            }
        }
        Ok(is_all.then_some(moved))
    }
}

/// Where the lines of newcomers are entered: each once, at the oldest of them.
fn asks(newcomers: &[Newcomer]) -> BTreeMap<ExecutorType, Vec<Ask>> {
    let mut lines: BTreeMap<(ExecutorType, TenantId, i16), (JobId, usize)> = BTreeMap::new();
    for Newcomer { job, tenant, executor, priority } in newcomers.iter().copied() {
        let (from, jobs) = lines.entry((executor, tenant, priority)).or_insert((job, 0));
        *from = job.min(*from);
        *jobs += 1;
    }
    let mut asks: BTreeMap<ExecutorType, Vec<Ask>> = BTreeMap::new();
    for ((executor, tenant, priority), (from, jobs)) in lines {
        let at = Entrance { tenant, priority, from };
        asks.entry(executor).or_default().push(Ask { at, jobs, look: jobs });
    }
    asks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_entered_once_at_the_oldest_who_came() {
        let (one, two) = (TenantId::new(), TenantId::new());
        let jobs = [(); 5].map(|()| JobId::new());
        let of = |executor, job: usize, tenant, priority| Newcomer { job: jobs[job], tenant, executor, priority };
        let (mock, docker) = (ExecutorType::Mock, ExecutorType::Docker);
        let came =
            [of(mock, 3, one, 0), of(docker, 4, one, 0), of(mock, 2, one, 9), of(mock, 1, two, 0), of(mock, 0, one, 0)];
        let ask = |job: usize, tenant, priority, count| {
            let at = Entrance { tenant, priority, from: jobs[job] };
            Ask { at, jobs: count, look: count }
        };
        let expected =
            [(docker, vec![ask(4, one, 0, 1)]), (mock, vec![ask(0, one, 0, 2), ask(2, one, 9, 1), ask(1, two, 0, 1)])];
        assert_eq!(asks(&came), BTreeMap::from(expected));
    }
}
