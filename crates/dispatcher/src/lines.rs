//! What this dispatcher knows of the lines of one executor type, and whose turn it is.
//!
//! Nothing here must be right for a promise to hold: the rows say who waits, and each statement locks what it moves. A
//! dispatcher that starts knows nothing and looks; two that run side by side are each fair in what they move.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use gantry_core::fairness::{Shares, Waiting};
use gantry_core::message::WorkItem;
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::Store;
use gantry_store::lines::{self, Ask, Entrance, Line, Served};
use gantry_store::reach::{Looks, Reach};

/// How long a line that was served and is empty stays known: jobs of one tenant mostly come close together.
const KEEP: Duration = Duration::from_secs(5);

/// Statements for one window before the others, and newcomers, are looked at.
const ROUNDS: usize = 20;

/// Jobs of a line that are looked at in one statement at most.
const MOST_LOOKED_AT: usize = 1_000;

/// The lines of an executor type, best priority first.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    looks: Looks,
    known: BTreeMap<(Reverse<i16>, TenantId), Known>,
    shares: Shares,
}

/// A line that had jobs when it was last looked at, or a moment before.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Where it is entered next: nothing waits before.
    from: JobId,
    weight: f64,
    room: Option<usize>,
    /// Nothing was found in it.
    empty: bool,
    /// How many of its jobs are looked at at least: more, where many are held back.
    look: usize,
    /// When it was last found not to be empty.
    seen: Instant,
}

impl Known {
    fn is_open(&self) -> bool {
        !self.empty && self.room != Some(0)
    }
}

/// Turns of one priority: whose they are in their order, and what is asked for in return.
#[derive(Debug, PartialEq)]
struct Plan {
    turns: Vec<TenantId>,
    asks: Vec<Ask>,
}

impl Lines {
    /// Jobs were put back in line: they may stand before the place where their line is entered.
    pub(crate) fn forget(&mut self) {
        self.looks.forget();
    }

    /// Looks at all lines if it is time to, else at those that seemed to have nothing to give. Until the next look at all
    /// of them, only jobs are missed that came back into a line, or into one that is not known: returns how long that is.
    pub(crate) async fn look(
        &mut self,
        store: &Store,
        executor: ExecutorType,
    ) -> Result<Option<Duration>, gantry_store::Error> {
        let look = self.looks.begin();
        if look.reach == Reach::All {
            let standing = lines::standing(store, executor).await?;
            self.looks.end(look);
            self.known.retain(|_, known| known.seen.elapsed() < KEEP);
            self.known.values_mut().for_each(|known| known.empty = true);
            self.known.extend(standing.into_iter().map(place));
            return Ok(None);
        }
        let closed = self.known.iter().filter(|(_, known)| !known.is_open());
        let entrances: Vec<Entrance> = closed.map(|(key, known)| entrance(key, known)).collect();
        if !entrances.is_empty() {
            self.known.extend(lines::heads(store, executor, &entrances).await?.into_iter().map(place));
        }
        Ok(Some(self.looks.due_in()))
    }

    /// Moves up to `room` jobs into the window, fairly; of one tenant, where only that one may use the slots. Returns
    /// them in their order, and whether it stopped though there may be more to do: others are to have their turn.
    pub(crate) async fn dispatch(
        &mut self,
        store: &Store,
        executor: ExecutorType,
        tenant: Option<TenantId>,
        room: usize,
    ) -> Result<(Vec<WorkItem>, bool), gantry_store::Error> {
        let mut moved = Vec::new();
        for _ in 0..ROUNDS {
            let left = room - moved.len();
            let Some(plan) = self.plan(tenant, left).filter(|_| left > 0) else { return Ok((moved, false)) };
            let served = lines::dispatch(store, executor, &plan.asks).await?;
            moved.extend(self.settle(plan, served));
        }
        Ok((moved, true))
    }

    /// Who goes next: the best priority alone, because of the others nobody goes before it is served.
    fn plan(&mut self, only: Option<TenantId>, room: usize) -> Option<Plan> {
        let open = |(key, known): &(&(Reverse<i16>, TenantId), &Known)| {
            only.is_none_or(|tenant| tenant == key.1) && known.is_open()
        };
        let best = self.known.iter().find(open).map(|(key, _)| key.0)?;
        let lines: Vec<_> = self.known.iter().filter(|line| line.0.0 == best && open(line)).collect();
        let waiting: Vec<Waiting> = lines
            .iter()
            .map(|((_, tenant), known)| Waiting { tenant: *tenant, weight: known.weight, most: known.room })
            .collect();
        let turns = match only {
            // Slots of its own are no turns among others.
            Some(tenant) => vec![tenant; waiting[0].most.map_or(room, |most| most.min(room))],
            None => self.shares.allot(&waiting, room),
        };
        let mut counts: HashMap<TenantId, usize> = HashMap::new();
        for tenant in &turns {
            *counts.entry(*tenant).or_default() += 1;
        }
        let asks = lines.into_iter().filter_map(|(key, known)| {
            let jobs = *counts.get(&key.1)?;
            Some(Ask { at: entrance(key, known), jobs, look: jobs.max(known.look) })
        });
        let asks = asks.collect();
        Some(Plan { turns, asks })
    }

    /// Notes how far each line is served, and puts the jobs into the order of the turns.
    fn settle(&mut self, plan: Plan, served: Vec<Served>) -> Vec<WorkItem> {
        let mut items: HashMap<TenantId, VecDeque<WorkItem>> = HashMap::new();
        for (ask, served) in plan.asks.into_iter().zip(served) {
            let tenant = ask.at.tenant;
            if let Some(known) = self.known.get_mut(&(Reverse(ask.at.priority), tenant)) {
                // A turn that went to parking is spent: a long line that is held back keeps nobody else waiting.
                let missing = ask.jobs.saturating_sub(served.items.len() + served.parked);
                self.shares.take_back(tenant, known.weight, missing);
                known.from = served.last.unwrap_or(known.from);
                known.empty = served.is_empty;
                known.look = if served.parked == 0 { 0 } else { (4 * served.parked).clamp(16, MOST_LOOKED_AT) };
            }
            for (_, known) in self.known.iter_mut().filter(|((_, of), _)| *of == tenant) {
                known.room = known.room.map(|room| room.saturating_sub(served.items.len()));
            }
            items.insert(tenant, served.items.into());
        }
        plan.turns.iter().filter_map(|tenant| items.get_mut(tenant)?.pop_front()).collect()
    }
}

fn place(line: Line) -> ((Reverse<i16>, TenantId), Known) {
    let room = line.room.map(|room| usize::try_from(room).unwrap_or(0));
    let known = Known { from: line.first, weight: line.weight, room, empty: false, look: 0, seen: Instant::now() };
    ((Reverse(line.priority), line.tenant), known)
}

fn entrance(key: &(Reverse<i16>, TenantId), known: &Known) -> Entrance {
    Entrance { tenant: key.1, priority: key.0.0, from: known.from }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(tenant: TenantId, priority: i16, room: Option<i32>) -> Line {
        Line { tenant, priority, first: JobId::new(), weight: 1.0, room }
    }

    fn lines(standing: &[Line]) -> Lines {
        Lines { known: standing.iter().copied().map(place).collect(), ..Lines::default() }
    }

    fn found(jobs: usize) -> Served {
        let item = || WorkItem { job: JobId::new(), attempt: 1, sequence: 1 };
        let items: Vec<WorkItem> = (0..jobs).map(|_| item()).collect();
        Served { last: items.last().map(|item| item.job), items, parked: 0, is_empty: false }
    }

    #[test]
    fn the_best_priority_goes_first_and_is_shared() {
        let (one, two) = (TenantId::new(), TenantId::new());
        let mut lines = lines(&[line(one, 0, None), line(two, 5, None), line(one, 5, None)]);
        let plan = lines.plan(None, 6).expect("jobs wait");
        assert!(plan.asks.iter().all(|ask| ask.at.priority == 5 && ask.jobs == 3), "{plan:?}");
        let served = plan.asks.iter().map(|ask| Served { is_empty: true, ..found(ask.jobs - 1) }).collect();
        let first = lines.settle(plan, served);
        assert_eq!(first.len(), 4);
        let rest = lines.plan(None, 2).expect("a lower priority waits");
        let asked: Vec<_> = rest.asks.iter().map(|ask| (ask.at.tenant, ask.at.priority)).collect();
        assert_eq!(asked, [(one, 0)], "both lines above were too short");
    }

    #[test]
    fn a_line_is_entered_where_it_was_left() {
        let tenant = TenantId::new();
        let mut lines = lines(&[line(tenant, 0, None)]);
        let plan = lines.plan(None, 3).expect("jobs wait");
        let served = found(3);
        let last = served.last;
        lines.settle(plan, vec![served]);
        assert_eq!(lines.plan(None, 3).map(|plan| plan.asks[0].at.from), last);
    }

    #[test]
    fn a_line_that_is_held_back_spends_its_turns_and_is_looked_at_deeper() {
        let (held_back, free) = (TenantId::new(), TenantId::new());
        let mut lines = lines(&[line(held_back, 0, None), line(free, 0, None)]);
        let mut moved = Vec::new();
        let mut looks = Vec::new();
        for _ in 0..6 {
            let plan = lines.plan(None, 1).expect("jobs wait");
            let ask = plan.asks[0];
            let served = if ask.at.tenant == held_back {
                looks.push(ask.look);
                Served { parked: ask.look, last: Some(JobId::new()), ..Served::default() }
            } else {
                found(1)
            };
            moved.extend(lines.settle(plan, vec![served]));
        }
        assert_eq!(moved.len(), 3, "every second turn is the other's");
        assert!(looks.is_sorted_by(|one, next| one < next), "{looks:?}");
    }

    #[test]
    fn a_tenant_at_its_limit_is_passed_over() {
        let (limited, free) = (TenantId::new(), TenantId::new());
        let mut lines = lines(&[line(limited, 9, Some(2)), line(limited, 1, Some(2)), line(free, 0, None)]);
        let plan = lines.plan(None, 10).expect("jobs wait");
        assert_eq!(plan.turns, [limited, limited]);
        lines.settle(plan, vec![found(2)]);
        let next = lines.plan(None, 10).expect("jobs wait");
        assert_eq!(next.asks.iter().map(|ask| ask.at.tenant).collect::<Vec<_>>(), [free], "at no priority");
    }

    #[test]
    fn slots_of_one_tenant_are_for_its_own_jobs() {
        let (owner, other) = (TenantId::new(), TenantId::new());
        let mut lines = lines(&[line(other, 9, None), line(owner, 0, None)]);
        let plan = lines.plan(Some(owner), 2).expect("its jobs wait");
        assert_eq!((plan.turns.as_slice(), plan.asks.len()), ([owner, owner].as_slice(), 1));
        assert_eq!(lines.plan(Some(TenantId::new()), 2), None);
    }
}
