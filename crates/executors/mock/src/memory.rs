//! What a process remembers of a host, so that a poll of many containers reads no file per container.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_worker::executor::{ExecutionId, Observed};

use crate::clock::ns;
use crate::container::{Container, Stop};

/// After a wake that nobody acted on the next comes later, and after this many none.
const WAKES: u32 = 10;
const FIRST_WAKE: Duration = Duration::from_millis(1);

/// Two changes of a directory within this time may leave it with one modification time: file systems take it
/// from the kernel's tick.
const MTIME_BLUR: Duration = Duration::from_millis(100);

/// Containers and stops as they were read. A container's link never changes, so that only its removal can make
/// this stale; a stop that was not read yet is seen with the next look at the folder.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    known: HashMap<Named, Known>,
    stops: HashMap<String, Stop>,
    /// The folder's modification time at the last reading of the stops, if that can be relied upon.
    stops_as_of: Option<SystemTime>,
    /// When to look at which container, soonest first.
    wakes: BTreeSet<(u64, Named)>,
}

#[derive(Debug)]
struct Known {
    container: Arc<Container>,
    wake: Option<Wake>,
    /// When it was last seen to be over, and there.
    over_ns: Option<u64>,
}

#[derive(Debug)]
struct Wake {
    at_ns: u64,
    tries: u32,
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
    /// The container with this name.
    pub(crate) fn container(&self, name: &str) -> Option<Arc<Container>> {
        self.known.get(name).map(|known| Arc::clone(&known.container))
    }

    /// Whether the container with this id is remembered, seen by all, and runs at `now`.
    pub(crate) fn runs(&self, id: &ExecutionId, now: u64) -> bool {
        let known = id.0.rsplit_once('.').and_then(|(name, _)| self.known.get(name));
        known.map(|known| &*known.container).is_some_and(|container| {
            container.run.id == id.0
                && !container.is_hidden(now)
                && container.observed(self.stop(&id.0), now) == Observed::Running
        })
    }

    /// The stop of the container with this id.
    pub(crate) fn stop(&self, id: &str) -> Option<Stop> {
        self.stops.get(id).copied()
    }

    /// The ids of the containers that were stopped before a time.
    pub(crate) fn stops_before(&self, at_ns: u64) -> Vec<ExecutionId> {
        self.stops.iter().filter(|(_, stop)| stop.at_ns < at_ns).map(|(id, _)| ExecutionId(id.clone())).collect()
    }

    /// Keeps a container and sets its wake to its end. True if that is the next of all.
    pub(crate) fn remember(&mut self, container: Arc<Container>) -> bool {
        let name = &container.run.name;
        self.forget(name);
        let at_ns = container.end_seen_ns(self.stop(&container.run.id));
        let known = Known { container: Arc::clone(&container), wake: None, over_ns: None };
        self.known.insert(Named(Arc::clone(&container)), known);
        self.set_wake(name, at_ns, 0);
        self.next_wake() == Some(at_ns)
    }

    /// Keeps a stop and moves the wake of its container. True if that is the next of all.
    pub(crate) fn remember_stop(&mut self, container: &Container, stop: Stop) -> bool {
        self.stops.insert(container.run.id.clone(), stop);
        let at_ns = container.end_seen_ns(Some(stop));
        self.set_wake(&container.run.name, at_ns, 0);
        self.next_wake() == Some(at_ns)
    }

    /// Drops what is removed.
    pub(crate) fn forget(&mut self, name: &str) {
        self.settle(name);
        self.known.remove(name);
    }

    /// The end was seen, with the container still there.
    pub(crate) fn saw_end(&mut self, name: &str, now: u64) {
        self.settle(name);
        if let Some(known) = self.known.get_mut(name) {
            known.over_ns = Some(now);
        }
    }

    /// Whether the end was seen since.
    pub(crate) fn was_over(&self, name: &str, since: u64) -> bool {
        self.known.get(name).and_then(|known| known.over_ns).is_some_and(|seen| seen >= since)
    }

    /// Nobody needs to be woken for its end.
    fn settle(&mut self, name: &str) {
        if let Some(known) = self.known.get_mut(name)
            && let Some(wake) = known.wake.take()
        {
            self.wakes.remove(&(wake.at_ns, Named(Arc::clone(&known.container))));
        }
    }

    /// Drops every container but these; a host lists them now and then.
    pub(crate) fn retain(&mut self, names: &[String]) {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let gone: Vec<Named> = self.known.keys().filter(|known| !names.contains(known.name())).cloned().collect();
        gone.iter().for_each(|known| self.forget(known.name()));
    }

    /// The next wake.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        self.wakes.first().map(|(at_ns, _)| *at_ns)
    }

    /// Whether a wake is due. One that is comes again, in 1 ms, 2 ms, 4 ms and so on, until the end was seen: the
    /// waker's caller may not have known the container yet.
    pub(crate) fn take_due(&mut self, now: u64) -> bool {
        let mut due = Vec::new();
        while self.next_wake().is_some_and(|at_ns| at_ns <= now) {
            due.extend(self.wakes.pop_first().map(|(_, named)| named));
        }
        for name in due.iter().map(Named::name) {
            let tries =
                self.known.get_mut(name).and_then(|known| known.wake.take()).map_or(WAKES, |wake| wake.tries + 1);
            if tries < WAKES {
                self.set_wake(name, now + ns(FIRST_WAKE * (1 << tries) / 2), tries);
            }
        }
        !due.is_empty()
    }

    fn set_wake(&mut self, name: &str, at_ns: u64, tries: u32) {
        self.settle(name);
        if let Some(known) = self.known.get_mut(name) {
            known.wake = Some(Wake { at_ns, tries });
            self.wakes.insert((at_ns, Named(Arc::clone(&known.container))));
        }
    }

    /// Whether stops were read since the folder was changed at `modified`.
    pub(crate) fn has_stops_of(&self, modified: SystemTime) -> bool {
        self.stops_as_of == Some(modified)
    }

    /// Keeps a stop that was read.
    pub(crate) fn put_stop(&mut self, id: &str, stop: Stop) {
        self.stops.insert(id.to_owned(), stop);
    }

    /// Takes the stops that are there, reading those that are not known or may have changed: while a grace runs,
    /// a second stop may be less patient. `modified` is of the folder, `looked` the time, both from before it was
    /// listed.
    pub(crate) fn take_stops(
        &mut self,
        ids: Vec<String>,
        read: impl Fn(&str) -> std::io::Result<Option<Stop>>,
        (modified, looked): (SystemTime, SystemTime),
        now: u64,
    ) -> std::io::Result<()> {
        let mut stops = HashMap::with_capacity(ids.len());
        for id in ids {
            let stop = match self.stop(&id).filter(|stop| stop.at_ns <= now) {
                Some(stop) => Some(stop),
                None => read(&id)?,
            };
            if let Some(stop) = stop {
                stops.insert(id, stop);
            }
        }
        self.stops = stops;
        let settled = looked.duration_since(modified).is_ok_and(|age| age > MTIME_BLUR);
        self.stops_as_of = settled.then_some(modified);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gantry_core::{FleetId, JobId};
    use gantry_worker::executor::Launch;

    use super::*;
    use crate::behaviour::Behaviour;

    fn container(name: &str, now: u64, duration: Duration) -> Arc<Container> {
        let spec = serde_json::from_value(serde_json::json!({"image": "any"})).expect("a spec");
        let launch = Launch { name: name.into(), fleet: FleetId::new(), job: JobId::new(), attempt: 1, spec };
        Arc::new(Container::new(&launch, Behaviour { duration, ..Behaviour::default() }, None, now))
    }

    #[test]
    fn a_wake_comes_again_ever_later_until_the_end_was_seen() {
        let mut memory = Memory::default();
        assert!(memory.remember(container("a", 100, Duration::from_nanos(50))));
        assert!(!memory.remember(container("b", 100, Duration::from_secs(9))));
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

        memory.remember(container("c", 100, Duration::ZERO));
        assert!(!memory.was_over("c", 0));
        memory.saw_end("c", 150);
        assert!(!memory.take_due(200));
        assert!(memory.was_over("c", 150) && !memory.was_over("c", 151));
    }

    #[test]
    fn a_stop_moves_the_wake() {
        let mut memory = Memory::default();
        let long = container("a", 100, Duration::from_secs(9));
        memory.remember(Arc::clone(&long));
        let stop = long.stopped(None, 500, Duration::ZERO).expect("running");
        assert!(memory.remember_stop(&long, stop));
        assert_eq!(memory.next_wake(), Some(500));
    }

    #[test]
    fn one_runs_between_its_start_and_its_end_under_its_own_id() {
        let mut memory = Memory::default();
        let first = container("a", 100, Duration::from_nanos(50));
        memory.remember(Arc::clone(&first));
        let id = first.execution_id();
        assert_eq!([99, 100, 149, 150].map(|now| memory.runs(&id, now)), [false, true, true, false]);
        let stop = first.stopped(None, 120, Duration::ZERO).expect("running");
        memory.remember_stop(&first, stop);
        assert_eq!([119, 120].map(|now| memory.runs(&id, now)), [true, false]);

        let second = container("a", 200, Duration::from_nanos(50));
        memory.remember(Arc::clone(&second));
        assert!(memory.runs(&second.execution_id(), 210) && !memory.runs(&id, 210), "the name is another's now");
        assert!(!memory.runs(&ExecutionId("b.1".into()), 210));
        memory.forget("a");
        assert!(!memory.runs(&second.execution_id(), 210) && memory.next_wake().is_none());
    }

    #[test]
    fn what_is_not_listed_is_forgotten() {
        let mut memory = Memory::default();
        memory.remember(container("a", 100, Duration::ZERO));
        memory.remember(container("b", 100, Duration::ZERO));
        memory.retain(&["b".to_owned()]);
        assert!(memory.container("a").is_none() && memory.container("b").is_some());
    }

    #[test]
    fn stops_are_read_again_while_the_modification_time_is_fresh() {
        let mut memory = Memory::default();
        let (modified, age) = (SystemTime::UNIX_EPOCH, |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        memory.take_stops(Vec::new(), |_| Ok(None), (modified, age(50)), 0).expect("no file is read");
        assert!(!memory.has_stops_of(modified));
        memory.take_stops(Vec::new(), |_| Ok(None), (modified, age(500)), 0).expect("no file is read");
        assert!(memory.has_stops_of(modified));
    }
}
