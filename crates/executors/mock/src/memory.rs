//! What the ledger of a host says as far as a process has read it: which containers are there, and how they were stopped.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use gantry_worker::executor::{ExecutionId, Observed};

use crate::clock::ns;
use crate::container::{Container, Stop, name_in};
use crate::ledger::Line;

/// After a wake that nobody acted on the next comes later, and after this many none.
const WAKES: u32 = 10;
const FIRST_WAKE: Duration = Duration::from_millis(1);

/// The containers that are there, and when this process wants to look at those that it was asked about.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: HashMap<Named, Known>,
    /// When to look at which container, soonest first.
    wakes: BTreeSet<(u64, Named)>,
    /// Whether a wake was set before all others.
    sooner: bool,
}

#[derive(Debug)]
struct Known {
    container: Arc<Container>,
    stop: Option<Stop>,
    /// Whether this process was asked about it: the ends of others are for others to see.
    is_watched: bool,
    wake: Option<Wake>,
}

#[derive(Debug)]
struct Wake {
    at_ns: u64,
    tries: u32,
}

/// A container with its stop, if there was one.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) container: Arc<Container>,
    pub(crate) stop: Option<Stop>,
}

/// A container that stands for its name: of many thousands, no name is kept twice.
#[derive(Clone, Debug)]
struct Named(Arc<Container>);

impl Named {
    fn name(&self) -> &str {
        &self.0.run.name
    }
}

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        self.name()
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Named {}

impl PartialOrd for Named {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Named {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl Memory {
    /// Takes in a line; false if it says nothing new. What is there after some lines depends on them alone, so that all
    /// who read them agree.
    pub(crate) fn apply(&mut self, line: Line) -> bool {
        match line {
            Line::Launched(container) => self.launched(Arc::new(container)),
            Line::Stopped { id, stop } => self.stopped(&id, stop),
            Line::Removed { id, .. } => self.removed(&id),
            Line::Doubled(_) | Line::Begun | Line::Closed => false,
        }
    }

    /// A name that is taken stays with the container that has it.
    fn launched(&mut self, container: Arc<Container>) -> bool {
        if self.known.contains_key(container.run.name.as_str()) {
            return false;
        }
        let known = Known { container: Arc::clone(&container), stop: None, is_watched: false, wake: None };
        self.known.insert(Named(container), known);
        true
    }

    /// A stop counts if it ends the container sooner than it would have ended.
    fn stopped(&mut self, id: &str, stop: Stop) -> bool {
        let Some(known) = self.known_mut(id).filter(|known| stop.at_ns < known.container.end_ns(known.stop)) else {
            return false;
        };
        known.stop = Some(stop);
        if known.is_watched {
            let container = Arc::clone(&known.container);
            self.set_wake(&container, container.end_seen_ns(Some(stop)), 0);
        }
        true
    }

    fn removed(&mut self, id: &str) -> bool {
        let Some(container) = self.known_mut(id).map(|known| Arc::clone(&known.container)) else { return false };
        self.settle(&container);
        self.known.remove(container.run.name.as_str());
        true
    }

    /// The lines that say all of this at once.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line> {
        self.known.values().flat_map(|Known { container, stop, .. }| {
            let stop = stop.map(|stop| Line::Stopped { id: container.run.id.clone(), stop });
            [Line::Launched(Container::clone(container))].into_iter().chain(stop)
        })
    }

    /// The container with this name.
    pub(crate) fn named(&self, name: &str) -> Option<Seen> {
        self.known.get(name).map(Known::seen)
    }

    /// The container with this id: its name may belong to another one by now.
    pub(crate) fn container(&self, id: &ExecutionId) -> Option<Seen> {
        self.known.get(name_in(&id.0)?).filter(|known| known.container.run.id == id.0).map(Known::seen)
    }

    /// All containers.
    pub(crate) fn containers(&self) -> Vec<Seen> {
        self.known.values().map(Known::seen).collect()
    }

    fn known_mut(&mut self, id: &str) -> Option<&mut Known> {
        self.known.get_mut(name_in(id)?).filter(|known| known.container.run.id == id)
    }

    /// Somebody waits for the end of this container.
    pub(crate) fn watch(&mut self, seen: &Seen) {
        if let Some(known) = self.known_mut(&seen.container.run.id) {
            known.is_watched = true;
            self.set_wake(&seen.container, seen.container.end_seen_ns(seen.stop), 0);
        }
    }

    /// It was asked for, and is not over.
    pub(crate) fn saw_alive(&mut self, seen: &Seen) {
        if self.known_mut(&seen.container.run.id).is_some_and(|known| !known.is_watched) {
            self.watch(seen);
        }
    }

    /// Its end was seen: nobody needs to be woken for it.
    pub(crate) fn settle(&mut self, container: &Arc<Container>) {
        if let Some(wake) = self.known_mut(&container.run.id).and_then(|known| known.wake.take()) {
            self.wakes.remove(&(wake.at_ns, Named(Arc::clone(container))));
        }
    }

    /// The next wake.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ns, _)| *at_ns)
    }

    /// Whether a wake was set before all others since this was last asked.
    pub(crate) fn take_sooner(&mut self) -> bool {
        std::mem::take(&mut self.sooner)
    }

    /// Whether a wake is due. One that is comes again, in 1 ms, 2 ms, 4 ms and so on, until the end was seen: the
    /// waker's caller may not have known the container yet.
    pub(crate) fn take_due(&mut self, now: u64) -> bool {
        let mut due = Vec::new();
        while self.next_wake().is_some_and(|at_ns| at_ns <= now) {
            due.extend(self.wakes.pop_first().map(|(_, named)| named.0));
        }
        for container in &due {
            let wake = self.known_mut(&container.run.id).and_then(|known| known.wake.take());
            let tries = wake.map_or(WAKES, |wake| wake.tries + 1);
            if tries < WAKES {
                self.set_wake(container, now + ns(FIRST_WAKE * (1 << tries) / 2), tries);
            }
        }
        !due.is_empty()
    }

    fn set_wake(&mut self, container: &Arc<Container>, at_ns: u64, tries: u32) {
        self.settle(container);
        if let Some(known) = self.known_mut(&container.run.id) {
            known.wake = Some(Wake { at_ns, tries });
            self.wakes.insert((at_ns, Named(Arc::clone(container))));
            self.sooner |= self.next_wake() == Some(at_ns);
        }
    }
}

impl Seen {
    /// Its state at `now`.
    pub(crate) fn observed(&self, now: u64) -> Observed {
        self.container.observed(self.stop, now)
    }
}

impl Known {
    fn seen(&self) -> Seen {
        Seen { container: Arc::clone(&self.container), stop: self.stop }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gantry_core::{FleetId, JobId};
    use gantry_worker::executor::Launch;

    use super::*;
    use crate::behaviour::Behaviour;

    fn container(name: &str, now: u64, duration: Duration) -> Container {
        let spec = serde_json::from_value(serde_json::json!({"image": "any"})).expect("a spec");
        let launch = Launch { name: name.into(), fleet: FleetId::new(), job: JobId::new(), attempt: 1, spec };
        Container::new(&launch, Behaviour { duration, ..Behaviour::default() }, None, now)
    }

    fn watched(memory: &mut Memory, container: Container) -> Seen {
        let name = container.run.name.clone();
        assert!(memory.apply(Line::Launched(container)));
        let seen = memory.named(&name).expect("launched");
        memory.watch(&seen);
        seen
    }

    #[test]
    fn a_wake_comes_again_ever_later_until_the_end_was_seen() {
        let mut memory = Memory::default();
        watched(&mut memory, container("a", 100, Duration::from_nanos(50)));
        assert!(memory.take_sooner());
        watched(&mut memory, container("b", 100, Duration::from_secs(9)));
        assert!(!memory.take_sooner());
        assert!(!memory.take_due(149));
        let (mut now, mut wakes) = (150, Vec::new());
        while memory.take_due(now) {
            wakes.push(now);
            now = memory.next_wake().expect("b is left");
            if now > 2_000_000_000 {
                break;
            }
        }
        assert_eq!(wakes.len(), WAKES as usize);
        assert!(wakes.windows(3).all(|w| w[2] - w[1] >= w[1] - w[0]), "{wakes:?}");

        let seen = watched(&mut memory, container("c", 100, Duration::ZERO));
        memory.settle(&seen.container);
        assert!(!memory.take_due(200));
    }

    #[test]
    fn a_stop_moves_the_wake_of_who_waits_for_the_end() {
        let mut memory = Memory::default();
        let long = watched(&mut memory, container("a", 100, Duration::from_secs(9))).container;
        let stop = long.stopped(None, 500, Duration::ZERO).expect("running");
        assert!(memory.apply(Line::Stopped { id: long.run.id.clone(), stop }));
        assert_eq!(memory.next_wake(), Some(500));

        let others = container("b", 100, Duration::from_secs(9));
        let stop = others.stopped(None, 300, Duration::ZERO).expect("running");
        let id = others.run.id.clone();
        memory.apply(Line::Launched(others));
        assert!(memory.apply(Line::Stopped { id, stop }));
        assert_eq!(memory.next_wake(), Some(500), "that is for others to see");
    }

    #[test]
    fn who_comes_second_changes_nothing() {
        let mut memory = Memory::default();
        let (first, second) = (container("a", 100, Duration::from_secs(9)), container("a", 200, Duration::ZERO));
        let ids = [first.execution_id(), second.execution_id()];
        let early = first.stopped(None, 300, Duration::ZERO).expect("running");
        let late = first.stopped(None, 400, Duration::ZERO).expect("running");
        let removed = |id: &ExecutionId| Line::Removed { id: id.0.clone(), removed_ns: 500 };
        assert!(memory.apply(Line::Launched(first)));
        assert!(!memory.apply(Line::Launched(second.clone())));
        assert!(memory.container(&ids[0]).is_some() && memory.container(&ids[1]).is_none());
        assert!(memory.apply(Line::Stopped { id: ids[0].0.clone(), stop: early }));
        assert!(!memory.apply(Line::Stopped { id: ids[0].0.clone(), stop: late }), "an end does not move");
        assert!(!memory.apply(removed(&ids[1])), "it never was");
        assert!(memory.apply(removed(&ids[0])));
        assert!(!memory.apply(removed(&ids[0])));
        assert!(memory.apply(Line::Launched(second)), "the name is free again");
        assert!(!memory.apply(Line::Stopped { id: ids[0].0.clone(), stop: early }), "the name is another's now");
        assert!(memory.named("a").is_some_and(|seen| seen.stop.is_none()));
    }

    #[test]
    fn its_lines_say_all_of_it() {
        let mut memory = Memory::default();
        let stopped = container("a", 100, Duration::from_secs(9));
        let stop = stopped.stopped(None, 300, Duration::ZERO).expect("running");
        let id = stopped.execution_id();
        memory.apply(Line::Launched(stopped));
        memory.apply(Line::Stopped { id: id.0.clone(), stop });
        memory.apply(Line::Launched(container("b", 100, Duration::ZERO)));
        let mut again = Memory::default();
        assert!(memory.lines().all(|line| again.apply(line)));
        assert_eq!((again.containers().len(), again.container(&id).and_then(|seen| seen.stop)), (2, Some(stop)));
        assert!(!memory.lines().any(|line| again.apply(line)), "once");
    }
}
