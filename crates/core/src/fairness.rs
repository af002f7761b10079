//! Whose turn it is: tenants that wait share the starts by their weights, whatever the length of their lines.
//!
//! Stride scheduling: every start moves its tenant on by one divided by its weight, and the tenant that is least far on
//! goes next. Pure arithmetic over who waits; what is in a line, and in which order, is the database's.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use crate::TenantId;

/// A tenant with jobs in line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// The tenant.
    pub tenant: TenantId,
    /// Its share beside the others, above 0.
    pub weight: f64,
    /// How many more of its jobs may start; none for any number.
    pub most: Option<usize>,
}

/// How far each tenant has got. Forgetting it costs no more than one turn of each.
#[derive(Clone, Debug, Default)]
pub struct Shares {
    passes: HashMap<TenantId, f64>,
    /// How far the one was whose turn came last.
    now: f64,
}

impl Shares {
    /// Gives `turns` turns to those who wait, fewer if all have reached their most: whose they are, in their order.
    pub fn allot(&mut self, waiting: &[Waiting], turns: usize) -> Vec<TenantId> {
        // Who did not wait until now has not saved up turns meanwhile.
        let mut heap: BinaryHeap<Next> = waiting
            .iter()
            .filter(|one| one.most != Some(0))
            .enumerate()
            .map(|(place, one)| {
                let pass = self.passes.get(&one.tenant).map_or(self.now, |pass| pass.max(self.now));
                Next { pass, place, waiting: *one }
            })
            .collect();
        let mut allotted = Vec::with_capacity(turns);
        while allotted.len() < turns {
            let Some(mut next) = heap.pop() else { break };
            let tenant = next.waiting.tenant;
            allotted.push(tenant);
            self.now = next.pass;
            next.pass += 1.0 / next.waiting.weight;
            self.passes.insert(tenant, next.pass);
            next.waiting.most = next.waiting.most.map(|most| most - 1);
            if next.waiting.most != Some(0) {
                heap.push(next);
            }
        }
        // Those behind are treated as those who never waited.
        if self.passes.len() > 2 * waiting.len() + FORGET {
            let now = self.now;
            self.passes.retain(|_, pass| *pass > now);
        }
        allotted
    }

    /// Takes turns back for which there was no job.
    pub fn take_back(&mut self, tenant: TenantId, weight: f64, turns: usize) {
        if let Some(pass) = self.passes.get_mut(&tenant) {
            #[expect(clippy::cast_precision_loss, reason = "turns are few against 2^52")]
            let turns = turns as f64;
            *pass -= turns / weight;
        }
    }
}

/// Tenants beyond those who wait whose place is kept.
const FORGET: usize = 1_000;

/// The lowest pass is the greatest in the heap; of equals, who was named first.
#[derive(Clone, Copy)]
struct Next {
    pass: f64,
    place: usize,
    waiting: Waiting,
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> Ordering {
        other.pass.total_cmp(&self.pass).then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Next {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiting(weight: f64) -> Waiting {
        Waiting { tenant: TenantId::new(), weight, most: None }
    }

    fn count(allotted: &[TenantId], tenant: TenantId) -> usize {
        allotted.iter().filter(|one| **one == tenant).count()
    }

    #[test]
    fn shares_follow_the_weights_however_small_the_rounds() {
        let lines = [waiting(1.0), waiting(1.0), waiting(2.0)];
        for round in [1, 3, 7, 1_000] {
            let mut shares = Shares::default();
            let mut all = Vec::new();
            while all.len() < 4_000 {
                all.extend(shares.allot(&lines, round));
            }
            let counts = lines.map(|line| count(&all[..4_000], line.tenant));
            for (got, due) in counts.into_iter().zip([1_000, 1_000, 2_000]) {
                assert!(got.abs_diff(due) <= 2, "rounds of {round}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_newcomer_goes_next_and_has_no_credit_from_before() {
        let (old, new) = (waiting(1.0), waiting(1.0));
        let mut shares = Shares::default();
        shares.allot(&[old], 100_000);
        let both = shares.allot(&[old, new], 10);
        assert!(both[..2].contains(&new.tenant), "it goes at once: {both:?}");
        assert_eq!(count(&both, new.tenant), 5, "and takes no more than its share: {both:?}");
    }

    #[test]
    fn who_may_not_start_more_leaves_the_turns_to_others() {
        let (free, limited, out) = (waiting(1.0), waiting(1.0), waiting(1.0));
        let lines = [free, Waiting { most: Some(2), ..limited }, Waiting { most: Some(0), ..out }];
        let allotted = Shares::default().allot(&lines, 10);
        assert_eq!((count(&allotted, free.tenant), count(&allotted, limited.tenant)), (8, 2));
        let all_limited = [Waiting { most: Some(3), ..limited }];
        assert_eq!(Shares::default().allot(&all_limited, 10).len(), 3);
    }

    #[test]
    fn turns_without_a_job_are_given_back() {
        let lines = [waiting(1.0), waiting(1.0)];
        let mut shares = Shares::default();
        let first = count(&shares.allot(&lines, 10), lines[0].tenant);
        shares.take_back(lines[0].tenant, 1.0, first);
        let next = shares.allot(&lines, 4);
        assert!(next[..2].iter().all(|tenant| *tenant == lines[0].tenant), "{next:?}");
    }

    proptest! {
        #[test]
        fn never_more_than_allowed_and_no_turn_is_wasted(
            lines in proptest::collection::vec((0.001..1000.0_f64, proptest::option::of(0..20_usize)), 0..12),
            turns in 0..100_usize,
        ) {
            let lines: Vec<Waiting> =
                lines.into_iter().map(|(weight, most)| Waiting { most, ..waiting(weight) }).collect();
            let allotted = Shares::default().allot(&lines, turns);
            let room: Option<usize> = lines.iter().map(|line| line.most).sum();
            let most = if lines.is_empty() { 0 } else { room.unwrap_or(usize::MAX) };
            prop_assert_eq!(allotted.len(), turns.min(most));
            for line in &lines {
                prop_assert!(line.most.is_none_or(|most| count(&allotted, line.tenant) <= most));
            }
        }
    }
}
