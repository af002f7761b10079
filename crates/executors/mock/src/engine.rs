//! One simulated engine: a directory, and what its ledger says.
//!
//! File calls are made inline, on the async threads: each takes less than a microsecond, while handing one to the
//! blocking pool and back would cost more than the call. A container that does nothing takes seven from its launch to
//! its removal, two of which are writes: its launch and its removal add a line to the ledger and ask where it came to
//! stand, and they and the reading of its log ask first whether others wrote something. Only what is done for a whole
//! directory takes long enough to be handed over; the executor does that.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gantry_core::{Failure, FailureClass, FleetId};
use gantry_worker::executor::{
    ExecutionId, Found, Idempotence, Launch, LaunchError, LogCursor, LogPage, Observed, Owned,
};
use tokio::sync::Notify;

use crate::behaviour::Behaviour;
use crate::clock::{now_ns, ns};
use crate::container::{Container, is_name};
use crate::faults::Fault;
use crate::folder::Folder;
use crate::journal::Journal;
use crate::ledger::Line;
use crate::memory::{Memory, Seen};

/// How long the mark of a refused launch stays, and what a killed process began to write: who repeats a launch does it
/// sooner, and who writes a file too.
const MARKS_STAY: Duration = Duration::from_secs(3600);

/// An engine.
#[derive(Debug)]
pub(crate) struct Engine {
    folder: Arc<Folder>,
    identity: String,
    idempotence: Idempotence,
    journal: Mutex<Journal>,
    /// Told when a wake was set before all others.
    sooner: Notify,
}

impl Engine {
    /// Opens the engine of a directory, where launches under one name are idempotent for so long.
    pub(crate) fn open(dir: &Path, idempotence: Idempotence) -> io::Result<Self> {
        let folder = Arc::new(Folder::open(dir)?);
        let identity = folder.identity()?;
        let journal = Mutex::new(Journal::open(Arc::clone(&folder))?);
        Ok(Self { folder, identity, idempotence, journal, sooner: Notify::new() })
    }

    /// The identity that it was opened with.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether the directory is still the one that was opened, with its ledger.
    pub(crate) fn is_there(&self) -> bool {
        self.folder.identity().is_ok_and(|identity| identity == self.identity) && self.journal().current().is_ok()
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
        let mut journal = self.journal();
        // Until its line is written nothing was launched.
        let not_launched = |error: io::Error| LaunchError::NotLaunched(unreachable(&error));
        if let Some(there) = journal.current().map_err(not_launched)?.named(&launch.name) {
            return self.adopt(&mut journal, launch, &there);
        }
        if fault == Some(Fault::Unavailable) && self.folder.put_refused(&launch.name).map_err(not_launched)? {
            return Err(LaunchError::MaybeLaunched("simulated: 503, the service is unavailable".into()));
        }
        let container = Container::new(launch, behaviour, fault, now_ns());
        let id = container.execution_id();
        let is_new = journal.append(Line::Launched(container)).map_err(|error| unwritten(&error))?;
        match journal.memory().named(&launch.name) {
            Some(there) if is_new => self.watch(&mut journal, &there),
            Some(there) => return self.adopt(&mut journal, launch, &there),
            // It was launched for all that.
            None if is_new => {}
            None => {
                let message = "the container under this name was removed just now";
                return Err(LaunchError::MaybeLaunched(message.into()));
            }
        }
        match fault {
            Some(Fault::LostResponse) => {
                Err(LaunchError::MaybeLaunched("simulated: the answer to the launch was lost".into()))
            }
            _ => Ok(id),
        }
    }

    /// The container that has the name already. One that is lost keeps it: what cannot be found may yet run.
    fn adopt(&self, journal: &mut Journal, launch: &Launch, there: &Seen) -> Result<ExecutionId, LaunchError> {
        let container = &there.container;
        if !container.is_of(launch.fleet, launch.job, launch.attempt) {
            let message = format!("the name {} is taken by job {}", launch.name, container.run.job);
            return Err(LaunchError::NotLaunched(Failure::new(FailureClass::LaunchRejected, message)));
        }
        let now = now_ns();
        let idempotent = match self.idempotence {
            Idempotence::Forever => true,
            Idempotence::For(time) => now.saturating_sub(container.launched_ns()) < ns(time),
            Idempotence::Never => false,
        };
        if !idempotent {
            return Err(doubled(journal, container, now));
        }
        self.watch(journal, there);
        Ok(container.execution_id())
    }

    /// States; what nobody sees yet is left out.
    pub(crate) fn observe(&self, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
        let mut journal = self.journal();
        let memory = current(&mut journal)?;
        let now = now_ns();
        let states = ids.iter().filter_map(|id| Some((id.clone(), observed(memory, id, now)?))).collect();
        self.tell(memory);
        Ok(states)
    }

    pub(crate) fn find(&self, name: &str) -> Found {
        let mut journal = self.journal();
        let memory = match journal.current() {
            Ok(memory) => memory,
            Err(error) => return Found::Unknown(error.to_string()),
        };
        let now = now_ns();
        match memory.named(name) {
            None => Found::Absent,
            Some(seen) if seen.container.is_hidden(now) => Found::Unknown(hidden(name).message),
            Some(seen) if seen.observed(now) == Observed::Gone => Found::Absent,
            Some(seen) => Found::Found(seen.container.execution_id()),
        }
    }

    pub(crate) fn logs(
        &self,
        id: &ExecutionId,
        cursor: Option<&LogCursor>,
        max_bytes: usize,
    ) -> Result<LogPage, Failure> {
        let (seen, now) = (self.visible(id)?, now_ns());
        let Some(Seen { container, stop }) = seen.filter(|seen| seen.observed(now) != Observed::Gone) else {
            return Err(Failure::new(FailureClass::Lost, format!("there is no container {id}")));
        };
        container.printed(stop, now).page(cursor, max_bytes).ok_or_else(|| {
            Failure::new(
                FailureClass::BackendError,
                format!("{cursor:?} is not a place in the log of a simulated container"),
            )
        })
    }

    pub(crate) fn stop(&self, id: &ExecutionId, grace: Duration) -> Result<(), Failure> {
        let mut journal = self.journal();
        let Some(seen) = visible(current(&mut journal)?, id)? else { return Ok(()) };
        let Some(stop) = seen.container.stopped(seen.stop, now_ns(), grace) else { return Ok(()) };
        journal.append(Line::Stopped { id: id.0.clone(), stop }).map_err(|error| unreachable(&error))?;
        if let Some(stopped) = journal.memory().container(id) {
            self.watch(&mut journal, &stopped);
        }
        Ok(())
    }

    pub(crate) fn remove(&self, id: &ExecutionId) -> Result<(), Failure> {
        let mut journal = self.journal();
        let Some(seen) = visible(current(&mut journal)?, id)? else { return Ok(()) };
        let now = now_ns();
        if seen.observed(now) == Observed::Running {
            return Err(Failure::new(FailureClass::BackendError, format!("container {id} is running")));
        }
        let removed_ns = seen.container.end_ns(seen.stop).min(now);
        // Somebody may have removed it meanwhile, which is as good.
        let removed = journal.append(Line::Removed { id: id.0.clone(), removed_ns });
        removed.map(drop).map_err(|error| unreachable(&error))
    }

    pub(crate) fn list_owned(&self, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
        let containers = current(&mut self.journal())?.containers();
        self.folder.sweep(MARKS_STAY).map_err(|error| unreachable(&error))?;
        let now = now_ns();
        let owned = |seen: Seen| {
            let state = seen.observed(now);
            let container = seen.container;
            let is_listed = container.fleet == fleet && !container.is_hidden(now) && state != Observed::Gone;
            is_listed.then(|| Owned {
                id: container.execution_id(),
                name: container.run.name.clone(),
                job: container.run.job,
                attempt: container.run.attempt,
                running: state == Observed::Running,
            })
        };
        Ok(containers.into_iter().filter_map(owned).collect())
    }

    /// Returns when a container that this process knows may have ended, or after `at_most`.
    pub(crate) async fn changed(&self, at_most: Duration) {
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            // Before the look: a launch after it must not be missed.
            let sooner = self.sooner.notified();
            let (due, next) = {
                let mut journal = self.journal();
                let memory = journal.memory();
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

    /// The container with this id, if it is there; a failure while nobody sees it.
    fn visible(&self, id: &ExecutionId) -> Result<Option<Seen>, Failure> {
        visible(current(&mut self.journal())?, id)
    }

    /// Somebody of this process waits for its end.
    fn watch(&self, journal: &mut Journal, seen: &Seen) {
        journal.memory().watch(seen);
        self.tell(journal.memory());
    }

    fn tell(&self, memory: &mut Memory) {
        if memory.take_sooner() {
            self.sooner.notify_waiters();
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("nothing panics while it holds the journal")
    }
}

fn current(journal: &mut Journal) -> Result<&mut Memory, Failure> {
    journal.current().map_err(|error| unreachable(&error))
}

fn visible(memory: &Memory, id: &ExecutionId) -> Result<Option<Seen>, Failure> {
    match memory.container(id) {
        Some(seen) if seen.container.is_hidden(now_ns()) => Err(hidden(&seen.container.run.name)),
        seen => Ok(seen),
    }
}

/// The state of one that was asked for; none while nobody sees it.
fn observed(memory: &mut Memory, id: &ExecutionId, now: u64) -> Option<Observed> {
    let Some(seen) = memory.container(id) else { return Some(Observed::Gone) };
    let state = if seen.container.is_hidden(now) { None } else { Some(seen.observed(now)) };
    match state {
        None | Some(Observed::Starting | Observed::Running) => memory.saw_alive(&seen),
        Some(Observed::Ended(_) | Observed::Gone) => memory.settle(&seen.container),
    }
    state
}

/// A launch that would have made a second container, by a caller that was told that it would: the ledger has it, so that
/// nobody gets away with it.
fn doubled(journal: &mut Journal, there: &Container, now: u64) -> LaunchError {
    if let Err(error) = journal.append(Line::Doubled(there.second(now))) {
        return unwritten(&error);
    }
    let message = format!("{} was launched before, and launching again is another container here", there.run.name);
    LaunchError::NotLaunched(Failure::new(FailureClass::LaunchRejected, message))
}

/// Whether the line of a launch counts is not known.
fn unwritten(error: &io::Error) -> LaunchError {
    LaunchError::MaybeLaunched(format!("the ledger cannot be written: {error}"))
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
