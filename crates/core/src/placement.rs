//! Which host runs which job: a pure function over the rows that a claim has locked. And before, where hosts are many:
//! which of them it locks.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::limits::{self, Book, Kind};
use crate::{HostId, JobId, LimitId, TenantId};

/// A host as the claim locked it, or read it before.
#[derive(Clone, Debug, PartialEq)]
pub struct Slots {
    /// The host.
    pub id: HostId,
    /// Its owner; none for a shared host.
    pub tenant: Option<TenantId>,
    /// `is_active` and state active, and served and reached by the claiming worker.
    pub eligible: bool,
    /// Containers it holds now.
    pub used: i32,
    /// Containers it may hold. Lowering it below `used` is legal and leaves no free slot.
    pub limit: i32,
    /// The share of jobs it takes beside others, above 0.
    pub weight: f64,
}

/// A job that wants a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The job.
    pub id: JobId,
    /// By what it may be limited, its tenant first of all.
    pub traits: limits::Traits,
    /// The host that failed it last, by no fault of its own: another one is tried first.
    pub avoid: Option<HostId>,
}

/// Why a job found no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplaced {
    /// Hosts would take it, but are full.
    Full,
    /// No eligible host takes this tenant's jobs.
    NoHost,
    /// As many jobs of its kind run as may.
    Limited(Kind, LimitId),
}

/// A place that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host.
    pub host: HostId,
    /// The limits that count the job from now on.
    pub limits: Vec<LimitId>,
}

impl Slots {
    /// Its used share with one more than `used`, divided by its weight. Above 0.
    fn load(&self, used: i32) -> f64 {
        f64::from(used + 1) / f64::from(self.limit) / self.weight
    }

    /// What comes to it at once where hosts are many: up to half of its slots.
    fn handful(&self) -> i32 {
        (self.limit / 2).clamp(1, HANDFUL)
    }
}

/// Jobs of one batch that a host takes one after the other where hosts are many, at most.
const HANDFUL: i32 = 4;

/// How jobs are spread over hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// One by one: each to the host that is best then.
    Evenly,
    /// By the handful: the best host takes the next ones too, up to four, and no more than half of its slots. A batch then writes the
    /// rows of a quarter of the hosts that it would write, and the next batch finds the others emptier.
    InHandfuls,
}

/// Hosts by their load and their place in the list, the lowest on top.
type Open = BinaryHeap<Reverse<(u64, usize)>>;

/// Hosts, and what is placed on them.
struct Board<'a> {
    hosts: &'a [Slots],
    spread: Spread,
    used: Vec<i32>,
    /// Of each owner of eligible hosts those that have room: no job is compared with a thousand hosts.
    open: HashMap<Option<TenantId>, Open>,
}

impl<'a> Board<'a> {
    fn new(hosts: &'a [Slots], spread: Spread) -> Self {
        let used = hosts.iter().map(|host| host.used).collect();
        let mut board = Self { hosts, spread, used, open: HashMap::new() };
        for (index, _) in hosts.iter().enumerate().filter(|(_, host)| host.eligible) {
            board.put_back(index);
        }
        board
    }

    /// Counts the job on the host that is best for it.
    fn take(&mut self, job: &Candidate) -> Result<HostId, Unplaced> {
        let owners = [None, Some(job.traits.tenant)];
        let Some(first) = self.draw(owners) else {
            let seen = owners.iter().any(|owner| self.open.contains_key(owner));
            return Err(if seen { Unplaced::Full } else { Unplaced::NoHost });
        };
        let mut best = first;
        if job.avoid == Some(self.hosts[first].id)
            && let Some(other) = self.draw(owners)
        {
            self.put_back(first);
            best = other;
        }
        self.used[best] += 1;
        self.put_back(best);
        Ok(self.hosts[best].id)
    }

    /// Takes the best of these owners' hosts out of those that have room.
    fn draw(&mut self, owners: [Option<TenantId>; 2]) -> Option<usize> {
        let first = |owner: Option<TenantId>| Some((self.open.get(&owner)?.peek()?.0, owner));
        let (_, owner) = owners.into_iter().filter_map(first).min_by_key(|(place, _)| *place)?;
        let Reverse((_, index)) = self.open.get_mut(&owner)?.pop()?;
        Some(index)
    }

    /// Puts a host among those that have room, if it has.
    fn put_back(&mut self, index: usize) {
        let (host, used) = (&self.hosts[index], self.used[index]);
        let open = self.open.entry(host.tenant).or_default();
        if used < host.limit {
            let counts = match self.spread {
                Spread::Evenly => used,
                // It stays the best until its hand is full.
                Spread::InHandfuls => used - (used - host.used) % host.handful(),
            };
            // Above 0, numbers and their bits are in one order.
            open.push(Reverse((host.load(counts).to_bits(), index)));
        }
    }

    /// The same if no limit holds it back, and counts it there too.
    fn place(&mut self, job: &Candidate, limits: &mut Book) -> Result<Place, Unplaced> {
        if let Some((kind, limit)) = limits.holds_back(&job.traits) {
            return Err(Unplaced::Limited(kind, limit));
        }
        let host = self.take(job)?;
        Ok(Place { host, limits: limits.count(&job.traits) })
    }

    fn touched(&self) -> Vec<HostId> {
        let touched = self.hosts.iter().zip(&self.used).filter(|(host, used)| **used > host.used);
        touched.map(|(host, _)| host.id).collect()
    }
}

/// Places each candidate in turn on the eligible host whose used share, divided by its weight, is lowest;
/// the first of equals wins. The host that it avoids comes last, however empty it is: a host that fails everything at
/// once is always the emptiest. A limit without room comes before any host. Decides for every candidate, in their order. `spread`
/// says whether a host that was taken counts what came to it at once, or by the handful.
pub fn place(
    candidates: &[Candidate],
    hosts: &[Slots],
    spread: Spread,
    mut limits: Book,
) -> Vec<Result<Place, Unplaced>> {
    let mut board = Board::new(hosts, spread);
    candidates.iter().map(|job| board.place(job, &mut limits)).collect()
}

/// How many jobs more than these the chosen hosts have room for: a quarter, and where they are few as many again.
#[must_use]
pub fn spare(jobs: usize) -> usize {
    (jobs / 4).max(jobs.min(8))
}

/// The hosts to lock for these candidates: those that they would take if [some](spare) came twice, so that there is room for
/// what others take meanwhile. If nobody does, each is placed on these alone as it would be on all, but for which of equals wins.
/// None where one of them finds no place.
pub fn choose(candidates: &[Candidate], hosts: &[Slots], spread: Spread, mut limits: Book) -> Option<Vec<HostId>> {
    let mut board = Board::new(hosts, spread);
    let mut placed = Vec::with_capacity(candidates.len());
    for job in candidates {
        match board.place(job, &mut limits) {
            Ok(_) => placed.push(job),
            Err(Unplaced::Limited(..)) => {}
            Err(Unplaced::Full | Unplaced::NoHost) => return None,
        }
    }
    let again = spare(placed.len());
    for job in placed.into_iter().take(again) {
        // What finds no second place has its first.
        let _ = board.take(job);
    }
    Some(board.touched())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(tenant: TenantId, avoid: Option<HostId>) -> Candidate {
        let traits = limits::Traits { tenant, template: None, key: None };
        Candidate { id: JobId::new(), traits, avoid }
    }

    /// Without any limit but those of the hosts.
    fn place_anywhere(candidates: &[Candidate], hosts: &[Slots], spread: Spread) -> Vec<Result<HostId, Unplaced>> {
        place(candidates, hosts, spread, Book::default())
            .into_iter()
            .map(|place| place.map(|place| place.host))
            .collect()
    }

    /// The same by looking at every host for each job.
    fn look_everywhere(candidates: &[Candidate], hosts: &[Slots], spread: Spread) -> Vec<Result<HostId, Unplaced>> {
        let before: HashMap<HostId, i32> = hosts.iter().map(|host| (host.id, host.used)).collect();
        let mut hosts = hosts.to_vec();
        let place = |job: &Candidate| {
            let may_run = |host: &Slots| host.eligible && host.tenant.is_none_or(|owner| owner == job.traits.tenant);
            // What is in its hand does not count until the hand is full.
            let counts = |host: &Slots| match spread {
                Spread::Evenly => host.used,
                Spread::InHandfuls => {
                    let came = host.used - before[&host.id];
                    host.used - came + came / host.handful() * host.handful()
                }
            };
            let rank = |host: &Slots| (job.avoid == Some(host.id), host.load(counts(host)));
            let mut best: Option<usize> = None;
            for (index, host) in hosts.iter().enumerate().filter(|(_, host)| may_run(host) && host.used < host.limit) {
                if best.is_none_or(|best| rank(host) < rank(&hosts[best])) {
                    best = Some(index);
                }
            }
            match best {
                Some(index) => {
                    hosts[index].used += 1;
                    Ok(hosts[index].id)
                }
                None if hosts.iter().any(may_run) => Err(Unplaced::Full),
                None => Err(Unplaced::NoHost),
            }
        };
        candidates.iter().map(place).collect()
    }

    fn any_spread() -> impl Strategy<Value = Spread> {
        prop_oneof![Just(Spread::Evenly), Just(Spread::InHandfuls)]
    }

    fn any_hosts(tenants: Vec<TenantId>, most: usize) -> impl Strategy<Value = Vec<Slots>> {
        let host =
            (proptest::option::of(proptest::sample::select(tenants)), any::<bool>(), 0..6_i32, 0..10_i32, 0.1..4.0_f64);
        proptest::collection::vec(host, 0..most).prop_map(|hosts| {
            hosts
                .into_iter()
                .map(|(tenant, eligible, used, limit, weight)| Slots {
                    id: HostId::new(),
                    tenant,
                    eligible,
                    used,
                    limit,
                    weight,
                })
                .collect()
        })
    }

    fn any_case() -> impl Strategy<Value = (Vec<Candidate>, Vec<Slots>)> {
        let tenants = vec![TenantId::new(), TenantId::new()];
        let jobs = proptest::collection::vec(proptest::sample::select(tenants.clone()), 0..30)
            .prop_map(|tenants| tenants.into_iter().map(|tenant| candidate(tenant, None)).collect());
        (jobs, any_hosts(tenants, 6))
    }

    /// Few jobs, of which some avoid a host, and many hosts.
    fn any_choice() -> impl Strategy<Value = (Vec<Candidate>, Vec<Slots>)> {
        let tenants = vec![TenantId::new(), TenantId::new()];
        let jobs = proptest::collection::vec((proptest::sample::select(tenants.clone()), 0..80_usize), 0..20);
        (jobs, any_hosts(tenants, 60)).prop_map(|(jobs, hosts)| {
            let avoided = |at: usize| hosts.get(at).map(|host: &Slots| host.id);
            (jobs.into_iter().map(|(tenant, at)| candidate(tenant, avoided(at))).collect(), hosts)
        })
    }

    #[test]
    fn the_host_that_failed_it_comes_last() {
        let tenant = TenantId::new();
        let host = |used| Slots { id: HostId::new(), tenant: None, eligible: true, used, limit: 4, weight: 1.0 };
        let (sick, busy) = (host(0), host(3));
        let job = |avoid| candidate(tenant, avoid);
        let jobs = [job(Some(sick.id)), job(Some(sick.id)), job(None)];
        let placed = place_anywhere(&jobs, &[sick.clone(), busy.clone()], Spread::Evenly);
        assert_eq!(placed, [Ok(busy.id), Ok(sick.id), Ok(sick.id)], "and still better than none");
    }

    proptest! {
        #[test]
        fn never_above_a_limit_and_never_on_an_ineligible_host((jobs, hosts) in any_case(), spread in any_spread()) {
            let placed = place_anywhere(&jobs, &hosts, spread);
            prop_assert_eq!(placed.len(), jobs.len());
            let mut added: HashMap<HostId, i32> = HashMap::new();
            for (job, place) in jobs.iter().zip(&placed) {
                if let Ok(id) = place {
                    let host = hosts.iter().find(|host| host.id == *id).expect("a host of the input");
                    prop_assert!(host.eligible);
                    prop_assert!(host.tenant.is_none_or(|owner| owner == job.traits.tenant));
                    *added.entry(*id).or_default() += 1;
                }
            }
            for host in &hosts {
                let added = added.get(&host.id).copied().unwrap_or(0);
                prop_assert!(added == 0 || host.used + added <= host.limit);
            }
        }

        #[test]
        fn full_means_that_no_slot_was_left((jobs, hosts) in any_case(), spread in any_spread()) {
            let placed = place_anywhere(&jobs, &hosts, spread);
            let taken = |id| i32::try_from(placed.iter().filter(|place| **place == Ok(id)).count()).expect("few");
            for (job, place) in jobs.iter().zip(&placed) {
                let mut open = hosts.iter().filter(|host| host.eligible && host.tenant.is_none_or(|owner| owner == job.traits.tenant)).peekable();
                match place {
                    Ok(_) => {}
                    Err(Unplaced::NoHost) => prop_assert!(open.peek().is_none()),
                    Err(Unplaced::Limited(..)) => prop_assert!(false, "nothing is limited"),
                    Err(Unplaced::Full) => prop_assert!(open.all(|host| host.used + taken(host.id) >= host.limit)),
                }
            }
        }

        #[test]
        fn each_job_comes_to_the_best_of_all_hosts((jobs, hosts) in any_choice(), spread in any_spread()) {
            prop_assert_eq!(place_anywhere(&jobs, &hosts, spread), look_everywhere(&jobs, &hosts, spread));
        }

        #[test]
        fn the_chosen_hosts_do_as_well_as_all_and_have_room_for_more((jobs, hosts) in any_choice(), spread in any_spread()) {
            let placed = place_anywhere(&jobs, &hosts, spread);
            let Some(chosen) = choose(&jobs, &hosts, spread, Book::default()) else {
                prop_assert!(placed.iter().any(Result::is_err));
                return Ok(());
            };
            prop_assert!(placed.iter().all(Result::is_ok));
            prop_assert!(chosen.len() <= jobs.len() + spare(jobs.len()));
            let few: Vec<Slots> = hosts.iter().filter(|host| chosen.contains(&host.id)).cloned().collect();
            prop_assert_eq!(few.len(), chosen.len());
            let more = [&jobs[..], &jobs[..spare(jobs.len())]].concat();
            prop_assert_eq!(place_anywhere(&more, &few, spread), place_anywhere(&more, &hosts, spread));
        }
    }

    #[test]
    fn what_a_limit_holds_back_needs_no_host() {
        let tenant = TenantId::new();
        let subject = limits::Subject { tenant, kind: Kind::Tenant, name: String::new() };
        let limit = limits::Limit { id: LimitId::new(), most: Some(1), running: 0 };
        let jobs = [candidate(tenant, None), candidate(tenant, None)];
        let host = Slots { id: HostId::new(), tenant: None, eligible: true, used: 1, limit: 2, weight: 1.0 };
        let chosen = |book| choose(&jobs, std::slice::from_ref(&host), Spread::Evenly, book);
        assert_eq!(chosen(Book::default()), None, "one slot for two");
        assert_eq!(chosen(Book::new([(subject, limit)])), Some(vec![host.id]));
    }

    #[test]
    fn a_limit_counts_only_what_found_a_place() {
        let tenant = TenantId::new();
        let limit = limits::Limit { id: LimitId::new(), most: Some(2), running: 0 };
        let subject = limits::Subject { tenant, kind: Kind::Key, name: "k".to_owned() };
        let job = || {
            let traits = limits::Traits { tenant, template: None, key: Some("k".to_owned()) };
            Candidate { id: JobId::new(), traits, avoid: None }
        };
        let host = |free| Slots { id: HostId::new(), tenant: None, eligible: true, used: 0, limit: free, weight: 1.0 };
        let placed =
            |free| place(&[job(), job(), job()], &[host(free)], Spread::Evenly, Book::new([(subject.clone(), limit)]));
        let held_back = Err(Unplaced::Limited(Kind::Key, limit.id));
        assert_eq!(placed(9)[2], held_back);
        assert_eq!(placed(1)[1..], [Err(Unplaced::Full), Err(Unplaced::Full)], "the limit still has room");
        assert!(placed(9)[..2].iter().all(|place| place.as_ref().is_ok_and(|place| place.limits == [limit.id])));
    }

    #[test]
    fn of_many_hosts_each_takes_a_handful_and_the_next_batch_the_others() {
        let tenant = TenantId::new();
        let host = |limit| Slots { id: HostId::new(), tenant: None, eligible: true, used: 0, limit, weight: 1.0 };
        let mut hosts = [host(8), host(8), host(8), host(3)];
        let jobs: Vec<_> = (0..6).map(|_| candidate(tenant, None)).collect();
        let mut taken = || {
            for placed in place_anywhere(&jobs, &hosts, Spread::InHandfuls) {
                let id = placed.expect("there is room");
                hosts.iter_mut().find(|host| host.id == id).expect("one of them").used += 1;
            }
            hosts.each_ref().map(|host| host.used)
        };
        assert_eq!(taken(), [4, 2, 0, 0]);
        assert_eq!(taken(), [4, 3, 4, 1], "of a small one no more than half");
    }

    #[test]
    fn weights_share_the_load() {
        let host = |weight| Slots { id: HostId::new(), tenant: None, eligible: true, used: 0, limit: 300, weight };
        let hosts = [host(1.0), host(2.0)];
        let tenant = TenantId::new();
        let jobs: Vec<_> = (0..90).map(|_| candidate(tenant, None)).collect();
        let heavy =
            place_anywhere(&jobs, &hosts, Spread::Evenly).into_iter().filter(|place| *place == Ok(hosts[1].id)).count();
        assert_eq!(heavy, 60);
    }
}
