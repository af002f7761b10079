//! One simulated engine: a directory, and what this process remembers of it.
//!
//! File calls are made inline, on the async threads: each takes a microsecond or a few, while handing one to the
//! blocking pool and back would cost more than the call. A container that does nothing takes five from its launch to its
//! removal: its link is made, seen to be there at its end, compared before it is removed, noted in the ledger as removed,
//! and removed. Only a listing of a whole directory is long enough to be handed over; the executor does that.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use gantry_core::{Failure, FailureClass, FleetId};
use gantry_worker::executor::{
    ExecutionId, Found, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use tokio::sync::Notify;

use crate::behaviour::Behaviour;
use crate::clock::{now_ns, ns};
use crate::container::{Container, Stop, is_name};
use crate::faults::Fault;
use crate::folder::Folder;
use crate::ledger::Line;
use crate::memory::Memory;

/// How long after a container was seen to be over its log is read without another look at the directory: it does not
/// change any more, and the read follows the look at once.
const OVER_STAYS: Duration = Duration::from_secs(1);

/// How long the stop of a removed container stays, and the mark of a refused launch. A process that polls at all does
/// so far more often, and one that repeats a launch does it sooner.
const MARKS_STAY: Duration = Duration::from_secs(3600);

/// An engine.
#[derive(Debug)]
pub(crate) struct Engine {
    folder: Folder,
    identity: String,
    idempotence: Idempotence,
    memory: Mutex<Memory>,
    /// Told when a wake was set before all others.
    sooner: Notify,
}

/// A container with its stop, as far as both are known.
struct Seen {
    container: Arc<Container>,
    stop: Option<Stop>,
}

impl Seen {
    fn observed(&self) -> Observed {
        self.container.observed(self.stop, now_ns())
    }

    fn is_hidden(&self) -> bool {
        self.container.is_hidden(now_ns())
    }
}

impl Engine {
    /// Opens the engine of a directory, where launches under one name are idempotent for so long.
    pub(crate) fn open(dir: &Path, idempotence: Idempotence) -> io::Result<Self> {
        let folder = Folder::open(dir)?;
        let identity = folder.identity()?;
        Ok(Self { folder, identity, idempotence, memory: Mutex::default(), sooner: Notify::new() })
    }

    /// The identity that it was opened with.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether the directory is still the one that was opened.
    pub(crate) fn is_there(&self) -> bool {
        self.folder.identity().is_ok_and(|identity| identity == self.identity)
    }

    pub(crate) fn launch(&self, launch: &Launch, mut behaviour: Behaviour) -> Result<ExecutionId, LaunchError> {
        let fault = behaviour.settle(launch.job, launch.attempt);
        if let Some(class) = fault.and_then(Fault::at_launch) {
            return Err(LaunchError::NotLaunched(simulated(class)));
        }
        if !is_name(&launch.name) {
            let failure = Failure::new(FailureClass::InvalidSpec, format!("{:?} is not an external name", launch.name));
            return Err(LaunchError::NotLaunched(failure));
        }
        if fault == Some(Fault::Unavailable) && self.refuses_once(&launch.name)? {
            return Err(LaunchError::MaybeLaunched("simulated: 503, the service is unavailable".into()));
        }
        let container = Container::new(launch, behaviour, fault, now_ns());
        // Until the file is in its place nothing was launched.
        let is_new =
            self.folder.put_container(&container).map_err(|error| LaunchError::NotLaunched(unreachable(&error)))?;
        if !is_new {
            return self.adopt(launch);
        }
        let noted = self.folder.hold(&Line::Launched(container.run.clone()));
        let id = container.execution_id();
        if self.memory().remember(Arc::new(container)) {
            self.sooner.notify_waiters();
        }
        noted.map_err(|error| LaunchError::MaybeLaunched(format!("the ledger cannot be written: {error}")))?;
        match fault {
            Some(Fault::LostResponse) => {
                Err(LaunchError::MaybeLaunched("simulated: the answer to the launch was lost".into()))
            }
            _ => Ok(id),
        }
    }

    /// Whether this is the first launch under a name, which somebody refuses then, and nobody the next.
    fn refuses_once(&self, name: &str) -> Result<bool, LaunchError> {
        let first = || Ok(!self.folder.has_container(name)? && self.folder.put_refused(name)?);
        first().map_err(|error| LaunchError::NotLaunched(unreachable(&error)))
    }

    /// The container that has the name already. One that is lost keeps it: what cannot be found may yet run.
    fn adopt(&self, launch: &Launch) -> Result<ExecutionId, LaunchError> {
        let there =
            self.folder.container(&launch.name).map_err(|error| LaunchError::MaybeLaunched(error.to_string()))?;
        let Some(there) = there else {
            return Err(LaunchError::MaybeLaunched("the container under this name was removed just now".into()));
        };
        if !there.is_of(launch.fleet, launch.job, launch.attempt) {
            let message = format!("the name {} is taken by job {}", launch.name, there.run.job);
            return Err(LaunchError::NotLaunched(Failure::new(FailureClass::LaunchRejected, message)));
        }
        let now = now_ns();
        let idempotent = match self.idempotence {
            Idempotence::Forever => true,
            Idempotence::For(time) => now.saturating_sub(there.launched_ns()) < ns(time),
            Idempotence::Never => false,
        };
        if !idempotent {
            return Err(self.doubled(&there, now));
        }
        let id = there.execution_id();
        self.memory().remember(Arc::new(there));
        Ok(id)
    }

    /// A launch that would have made a second container, by a caller that was told that it would: the ledger has it,
    /// so that nobody gets away with it.
    fn doubled(&self, there: &Container, now: u64) -> LaunchError {
        if let Err(error) = self.folder.append(&Line::Launched(there.second(now))) {
            return LaunchError::MaybeLaunched(format!("the ledger cannot be written: {error}"));
        }
        let message = format!("{} was launched before, and launching again is another container here", there.run.name);
        LaunchError::NotLaunched(Failure::new(FailureClass::LaunchRejected, message))
    }

    /// States; what nobody sees yet is left out.
    pub(crate) fn observe(&self, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        // Nothing is wrong if that fails: they stay held.
        let _ = self.folder.flush();
        self.read_stops()?;
        // Nobody can remove what runs: most of what is asked for is answered from memory, which is locked once.
        let now = now_ns();
        let memory = self.memory();
        let runs: Vec<bool> = ids.iter().map(|id| memory.runs(id, now)).collect();
        drop(memory);
        let state = |(id, runs): (&ExecutionId, bool)| {
            if runs {
                return Some(Ok((id.clone(), Observed::Running)));
            }
            match self.seen(id) {
                Err(failure) => Some(Err(failure)),
                Ok(None) => Some(Ok((id.clone(), Observed::Gone))),
                Ok(Some(seen)) if seen.is_hidden() => None,
                Ok(Some(seen)) => {
                    let state = seen.observed();
                    if !matches!(state, Observed::Starting | Observed::Running) {
                        self.memory().saw_end(&seen.container.run.name, now_ns());
                    }
                    Some(Ok((id.clone(), state)))
                }
            }
        };
        ids.iter().zip(runs).filter_map(state).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Found {
        if !is_name(name) {
            return Found::Absent;
        }
        match self.folder.container(name) {
            Err(error) => Found::Unknown(error.to_string()),
            Ok(None) => Found::Absent,
            Ok(Some(container)) if container.is_hidden(now_ns()) => Found::Unknown(hidden(name).message),
            Ok(Some(container)) => match self.folder.stop(&container.run.id) {
                Err(error) => Found::Unknown(error.to_string()),
                Ok(stop) if container.observed(stop, now_ns()) == Observed::Gone => Found::Absent,
                Ok(_) => Found::Found(container.execution_id()),
            },
        }
    }

    pub(crate) fn logs(
        &self,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        let seen = match self.just_over(id) {
            Some(seen) => Some(seen),
            None => {
                self.read_stop(id)?;
                self.visible(id)?
            }
        };
        let Some(Seen { container, stop }) = seen.filter(|seen| seen.observed() != Observed::Gone) else {
            return Err(Failure::new(FailureClass::Lost, format!("there is no container {id}")));
        };
        container.printed(stop, now_ns()).page(cursor, max_bytes).ok_or_else(|| {
            Failure::new(
                FailureClass::BackendError,
                format!("{cursor:?} is not a place in the log of a simulated container"),
            )
        })
    }

    pub(crate) fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        self.read_stop(id)?;
        let Some(Seen { container, stop: before }) = self.visible(id)? else { return Ok(()) };
        let Some(stop) = container.stopped(before, now_ns(), grace) else { return Ok(()) };
        let stopped = Line::Stopped { id: id.0.clone(), name: container.run.name.clone(), stopped_ns: stop.at_ns };
        self.folder.put_stop(&id.0, stop, before.is_some()).map_err(|error| unreachable(&error))?;
        self.folder.append(&stopped).map_err(|error| unreachable(&error))?;
        if self.memory().remember_stop(&container, stop) {
            self.sooner.notify_waiters();
        }
        Ok(())
    }

    pub(crate) fn remove(&self, id: &ExecutionId) -> Result<(), Failure> {
        let Some(name) = Container::name_in(id) else { return Ok(()) };
        let Some(Seen { container, stop }) = self.to_remove(id, name)? else {
            self.memory().forget(name);
            return Ok(());
        };
        let now = now_ns();
        if container.is_hidden(now) {
            return Err(hidden(name));
        }
        if container.observed(stop, now) == Observed::Running {
            return Err(Failure::new(FailureClass::BackendError, format!("container {id} is running")));
        }
        // The line first: it has to say what this container was when nothing else does any more.
        let line = Line::Removed { run: container.run.clone(), removed_ns: container.end_ns(stop).min(now) };
        self.folder.append(&line).map_err(|error| unreachable(&error))?;
        self.folder.remove_container(name).map_err(|error| unreachable(&error))?;
        self.memory().forget(name);
        Ok(())
    }

    /// The container with this id, if it still has its name: it may belong to another one by now. With the stop that it
    /// ended with; one by somebody else that made it end sooner has its own line in the ledger.
    fn to_remove(&self, id: &ExecutionId, name: &str) -> Result<Option<Seen>, Failure> {
        let known = self.known(id).filter(|seen| seen.observed() != Observed::Running);
        if let Some(seen) = known
            && self.folder.holds(&seen.container).map_err(|error| unreachable(&error))?
        {
            return Ok(Some(seen));
        }
        self.read_stop(id)?;
        let there = self.folder.container(name).map_err(|error| unreachable(&error))?;
        let there = there.filter(|container| container.run.id == id.0);
        Ok(there.map(|container| Seen { container: Arc::new(container), stop: self.memory().stop(&id.0) }))
    }

    pub(crate) fn list_owned(&self, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        self.read_stops()?;
        let names = self.folder.container_names().map_err(|error| unreachable(&error))?;
        let mut owned = Vec::new();
        for name in &names {
            let Some(container) = self.listed(name)?.filter(|container| container.fleet == fleet) else { continue };
            if container.is_hidden(now_ns()) {
                continue;
            }
            let state = container.observed(self.memory().stop(&container.run.id), now_ns());
            if state != Observed::Gone {
                owned.push(Owned {
                    id: container.execution_id(),
                    name: name.clone(),
                    job: container.run.job,
                    attempt: container.run.attempt,
                    running: state == Observed::Running,
                });
            }
        }
        self.memory().retain(&names);
        self.sweep_stops(&names).map_err(|error| unreachable(&error))?;
        self.folder.sweep_refused(MARKS_STAY).map_err(|error| unreachable(&error))?;
        Ok(owned)
    }

    /// Removes the stops of containers that were removed, once every process has had the time to see them.
    fn sweep_stops(&self, names: &[String]) -> io::Result<()> {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let before = now_ns().saturating_sub(ns(MARKS_STAY));
        let old = self.memory().stops_before(before);
        old.iter()
            .filter(|id| Container::name_in(id).is_none_or(|name| !names.contains(name)))
            .try_for_each(|id| self.folder.remove_stop(&id.0))
    }

    /// The container of a name that was just listed: remembered if it runs, for then nobody can have removed it,
    /// and else read.
    fn listed(&self, name: &str) -> Result<Option<Arc<Container>>, Failure> {
        let memory = self.memory();
        let known = memory.container(name);
        let runs = |container: &Arc<Container>| {
            container.observed(memory.stop(&container.run.id), now_ns()) == Observed::Running
        };
        if let Some(container) = known.filter(runs) {
            return Ok(Some(container));
        }
        drop(memory);
        Ok(self.folder.container(name).map_err(|error| unreachable(&error))?.map(Arc::new))
    }

    /// Returns when a container that this process knows may have ended, or after `at_most`.
    pub(crate) async fn changed(&self, at_most: Duration) {
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            // Before the look: a launch after it must not be missed.
            let sooner = self.sooner.notified();
            let (due, next) = {
                let mut memory = self.memory();
                (memory.take_due(now_ns()), memory.next_wake())
            };
            if due {
                return;
            }
            let wait = next.map_or(at_most, |at_ns| Duration::from_nanos(at_ns.saturating_sub(now_ns())));
            let wake = deadline.min(tokio::time::Instant::now() + wait.min(at_most));
            tokio::select! {
                () = sooner => {}
                () = tokio::time::sleep_until(wake) => if wake == deadline { return },
            }
        }
    }

    /// The container with this id. One that runs is taken from memory, as nobody can remove it; of one that is
    /// over the file must still be there.
    fn seen(&self, id: &ExecutionId) -> Result<Option<Seen>, Failure> {
        let Some(name) = Container::name_in(id) else { return Ok(None) };
        if let Some(seen) = self.known(id) {
            let over = !matches!(seen.observed(), Observed::Running);
            if !over || self.folder.has_container(name).map_err(|error| unreachable(&error))? {
                return Ok(Some(seen));
            }
        }
        let there = self.folder.container(name).map_err(|error| unreachable(&error))?;
        let mut memory = self.memory();
        let Some(container) = there.map(Arc::new) else {
            memory.forget(name);
            return Ok(None);
        };
        memory.remember(Arc::clone(&container));
        let stop = memory.stop(&id.0);
        Ok((container.run.id == id.0).then_some(Seen { container, stop }))
    }

    /// The container with this id, if it is remembered.
    fn known(&self, id: &ExecutionId) -> Option<Seen> {
        let name = Container::name_in(id)?;
        let memory = self.memory();
        let container = memory.container(name).filter(|container| container.run.id == id.0)?;
        let stop = memory.stop(&id.0);
        Some(Seen { container, stop })
    }

    /// The container with this id, if it was seen to be over just now.
    fn just_over(&self, id: &ExecutionId) -> Option<Seen> {
        let since = now_ns().saturating_sub(ns(OVER_STAYS));
        self.known(id).filter(|seen| self.memory().was_over(&seen.container.run.name, since))
    }

    /// The container with this id, if it is there; a failure while nobody sees it.
    fn visible(&self, id: &ExecutionId) -> Result<Option<Seen>, Failure> {
        match self.seen(id)? {
            Some(seen) if seen.is_hidden() => Err(hidden(&seen.container.run.name)),
            seen => Ok(seen),
        }
    }

    /// Reads the stops, if there was one since the last time.
    fn read_stops(&self) -> Result<(), Failure> {
        let read = || -> io::Result<()> {
            let (modified, now) = (self.folder.stops_changed()?, SystemTime::now());
            if self.memory().has_stops_of(modified) {
                return Ok(());
            }
            let ids = self.folder.stopped_ids()?;
            self.memory().take_stops(ids, |id| self.folder.stop(id), (modified, now), now_ns())
        };
        read().map_err(|error| unreachable(&error))
    }

    /// Reads the stop of one container, if there was one since all were read: what is asked of one must not list them.
    fn read_stop(&self, id: &ExecutionId) -> Result<(), Failure> {
        if Container::name_in(id).is_none() {
            return Ok(());
        }
        let modified = self.folder.stops_changed().map_err(|error| unreachable(&error))?;
        if self.memory().has_stops_of(modified) {
            return Ok(());
        }
        if let Some(stop) = self.folder.stop(&id.0).map_err(|error| unreachable(&error))? {
            self.memory().put_stop(&id.0, stop);
        }
        Ok(())
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("nothing panics while it holds the memory")
    }
}

/// The failure of a fault that somebody asked for.
pub(crate) fn simulated(class: FailureClass) -> Failure {
    Failure::new(class, format!("simulated: {class}"))
}

/// What is asked of a container that nobody sees yet.
fn hidden(name: &str) -> Failure {
    Failure::new(FailureClass::BackendError, format!("simulated: {name} is not visible yet"))
}

/// Whatever goes wrong with the directory, it is the host that cannot be reached.
pub(crate) fn unreachable(error: &io::Error) -> Failure {
    Failure::new(FailureClass::HostUnreachable, format!("the directory of the simulated engine: {error}"))
}
