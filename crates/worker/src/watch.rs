//! One task per host watches all of its containers: states in bulk, logs a page at a time, deadlines, stops.

mod watched;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use gantry_core::host::Host;
use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::engine::Engine;
use crate::executor::{End, ExecutionId, Observed};
use crate::finish;
use crate::log::LogTail;
use crate::{hosts, logs, stop};

pub(crate) use watched::Watched;

/// The longest time between two looks at a host's containers, and what each of them adds to it: a look at many takes its
/// time, here and at the backend. An executor's hints shorten it.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_EACH: Duration = Duration::from_micros(100);
/// How soon a container that was just launched is looked at, so that its start is stored within a second.
const FIRST_LOOK: Duration = Duration::from_millis(250);
/// The shortest time between two looks, for one container and for each more of them.
const GAP: Duration = Duration::from_millis(1);
const GAP_EACH: Duration = Duration::from_micros(5);
/// Containers looked at in one request, so that what is asked and answered is not in memory for all of a host's at once.
/// Few hosts have more, and each request may list them all.
const LOOKED_AT: usize = 2_000;
/// Log pages read at once from one host.
const LOG_READS: usize = 8;
/// Silent logs read before the watcher does anything else.
const SILENT_READS: usize = 64;
/// How soon a container's log is read again after it gave something, and after it gave nothing.
const LOG_BUSY: Duration = Duration::from_millis(200);
const LOG_IDLE: Duration = Duration::from_millis(1_000);
/// What each container adds to the latter: logs that give nothing are read 400 times a second at most, all together.
const LOG_IDLE_EACH: Duration = Duration::from_micros(2_500);

/// Starts the watcher of a host; it ends with the sender.
pub(crate) fn spawn(engine: Arc<Engine>, host: Arc<Host>) -> mpsc::UnboundedSender<Box<Watched>> {
    let (sender, added) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut watcher = Watcher {
            engine,
            host,
            containers: HashMap::new(),
            reads: JoinSet::new(),
            logs: BinaryHeap::new(),
            unseen: false,
            deadline: None,
        };
        watcher.run(added).await;
    });
    sender
}

struct Watcher {
    engine: Arc<Engine>,
    host: Arc<Host>,
    containers: HashMap<Arc<ExecutionId>, Box<Watched>>,
    /// Log pages on their way; each brings the container's log back. Tasks, because they must go on while this one looks:
    /// a read that nobody polls would keep what it holds of the executor, and the look may be waiting for just that.
    reads: JoinSet<LogRead>,
    /// When whose log is to be read, the first on top. What is not due then any more has another place by now, or is over.
    logs: BinaryHeap<Reverse<(Duration, Arc<ExecutionId>)>>,
    /// Whether some container is to be looked at soon: its start was not stored at the last look, or it came since.
    unseen: bool,
    /// The first of the deadlines that were ahead at the last look, or came since.
    deadline: Option<Duration>,
}

/// A log that came back from a read.
struct LogRead {
    id: Arc<ExecutionId>,
    log: LogTail,
    /// When to read on.
    due: Due,
}

/// How soon a log is worth another read.
#[derive(Clone, Copy)]
enum Due {
    /// There is more already.
    Now,
    /// It gave something.
    Soon,
    /// It gave nothing, or could not be read.
    Later,
}

impl Watcher {
    async fn run(&mut self, mut added: mpsc::UnboundedReceiver<Box<Watched>>) {
        let mut looked = self.engine.lease.now();
        let mut logs_wait = false;
        loop {
            let now = self.engine.lease.now();
            let gap = GAP + self.each(GAP_EACH);
            let not_before = (looked + gap).saturating_sub(now);
            let at_most = self.next_look(looked).saturating_sub(now);
            let idle = self.containers.is_empty();
            // Nobody is looked at before the gap is over: who comes until then is taken in together.
            let in_gap = !idle && !not_before.is_zero();
            let (engine, host) = (self.engine.clone(), self.host());
            let look = tokio::select! {
                biased;
                more = added.recv(), if !in_gap => {
                    let Some(more) = more else { return };
                    self.add(more);
                    while let Ok(more) = added.try_recv() {
                        self.add(more);
                    }
                    false
                }
                // A look comes before what else there is, or a flood of log pages would put it off: what is due at
                // once, and what the backend hints at after the gap, in which pages are taken back.
                () = std::future::ready(()), if !idle && !in_gap && at_most.is_zero() => true,
                // First the gap, so that a flood of hints is one look.
                // Not at all once it is over: even the shortest sleep would lose against pages without end.
                () = tokio::time::sleep(not_before), if in_gap => false,
                () = engine.executor.changed(&host, at_most), if !idle && !in_gap => true,
                Some(read) = self.reads.join_next(), if !self.reads.is_empty() => {
                    match read {
                        Ok(read) => self.give_back(read),
                        // Its panic is this task's: nobody would read that log on.
                        Err(error) => if let Ok(panic) = error.try_into_panic() { std::panic::resume_unwind(panic) },
                    }
                    false
                }
                () = tokio::task::yield_now(), if logs_wait => false,
            };
            if look {
                looked = self.engine.lease.now();
                self.look().await;
            }
            logs_wait = self.read_logs();
        }
    }

    fn add(&mut self, watched: Box<Watched>) {
        let now = self.engine.lease.now();
        self.unseen |= !watched.start_stored || watched.overdue(now).is_some();
        self.deadline = self.deadline.into_iter().chain(watched.due().filter(|due| *due > now)).min();
        if watched.was_seen_running() {
            self.logs.push(Reverse((watched.log_due, watched.id.clone())));
        }
        self.containers.insert(watched.id.clone(), watched);
    }

    fn each(&self, time: Duration) -> Duration {
        time * u32::try_from(self.containers.len()).unwrap_or(u32::MAX)
    }

    /// The host as it is now: an operator may have changed how it is reached.
    fn host(&self) -> Arc<Host> {
        self.engine.hosts.get(self.host.id).unwrap_or_else(|| self.host.clone())
    }

    /// When to look again, if nothing hints at it before.
    fn next_look(&self, looked: Duration) -> Duration {
        let regular = looked + if self.unseen { FIRST_LOOK } else { LOOK + self.each(LOOK_EACH) };
        // A deadline counts once: what is overdue after a look is being stopped.
        self.deadline.filter(|due| *due > looked).map_or(regular, |due| due.min(regular))
    }

    async fn look(&mut self) {
        // What left this worker is somebody else's to watch, or nobody's.
        self.containers.retain(|_, container| container.run.is_active());
        let ids: Vec<Arc<ExecutionId>> = self.containers.keys().cloned().collect();
        for some in ids.chunks(LOOKED_AT) {
            let some: Vec<ExecutionId> = some.iter().map(|id| ExecutionId::clone(id)).collect();
            if !self.observe(&some).await {
                break;
            }
        }
        self.enforce();
    }

    /// Looks at these; false if that failed.
    async fn observe(&mut self, ids: &[ExecutionId]) -> bool {
        let host = self.host();
        match self.engine.executor.observe(&host, ids).await {
            Ok(mut states) => {
                let gone = states.iter().any(|(_, state)| *state == Observed::Gone);
                if gone && !hosts::answers_as_itself(&self.engine, &host).await {
                    tracing::warn!(host.name = %host.name, "containers are gone from an engine that is not the host's own");
                    states.retain(|(_, state)| *state != Observed::Gone);
                }
                for (id, state) in states {
                    self.observed(&id, state);
                }
                true
            }
            // About the poll, not about any job.
            Err(failure) => {
                tracing::warn!(host.name = %self.host.name, %failure, "containers could not be observed, trying again");
                tokio::time::sleep(FIRST_LOOK).await;
                false
            }
        }
    }

    fn observed(&mut self, id: &ExecutionId, state: Observed) {
        let now = self.engine.lease.now();
        let Some(container) = self.containers.get_mut(id) else { return };
        match state {
            Observed::Starting => {}
            Observed::Running => {
                if container.seen_running(now) {
                    self.logs.push(Reverse((container.log_due, container.id.clone())));
                }
                if !container.start_stored {
                    container.start_stored = true;
                    finish::started(&self.engine, container);
                }
            }
            Observed::Ended(end) => self.ended(id, end),
            Observed::Gone => {
                let message = "the container is gone from its host, and nobody knows how it ended";
                let end = End::bare(Outcome::Failed(Failure::new(FailureClass::Lost, message)));
                self.ended(id, end);
            }
        }
    }

    /// Over: its log is read to the end, and then it is reported.
    fn ended(&mut self, id: &ExecutionId, end: End) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.end = Some(Box::new(end));
        if container.log.is_some()
            && let Some(container) = self.containers.remove(id)
        {
            finish::spawn(&self.engine, container);
        }
        // Else its log is with a read that is on its way: `give_back` goes on.
    }

    fn give_back(&mut self, read: LogRead) {
        let now = self.engine.lease.now();
        let due = match read.due {
            Due::Now => now,
            Due::Soon => now + LOG_BUSY,
            Due::Later => now + LOG_IDLE.max(self.each(LOG_IDLE_EACH)),
        };
        let Some(container) = self.containers.get_mut(&read.id) else { return };
        container.log = Some(read.log);
        container.log_due = due;
        container.is_silent = matches!(read.due, Due::Later);
        if container.end.is_some()
            && let Some(container) = self.containers.remove(&read.id)
        {
            finish::spawn(&self.engine, container);
        } else {
            self.logs.push(Reverse((due, read.id)));
        }
    }

    /// Begins the stops that are due, and notes what the next look is for.
    fn enforce(&mut self) {
        let now = self.engine.lease.now();
        (self.unseen, self.deadline) = (false, None);
        for container in self.containers.values_mut().filter(|container| container.end.is_none()) {
            let reason = container.stop.or_else(|| container.run.unwanted()).or_else(|| container.overdue(now));
            if let Some(reason) = reason
                && container.stopping.is_none()
            {
                container.stopping = Some(stop::spawn(&self.engine, &container.run, &container.id, reason));
            }
            self.unseen |= !container.start_stored;
            self.deadline = self.deadline.into_iter().chain(container.due().filter(|due| *due > now)).min();
        }
    }

    /// Begins the reads that are due and that there is room for. True if there are more.
    fn read_logs(&mut self) -> bool {
        let now = self.engine.lease.now();
        let mut silent = 0;
        while self.reads.len() < LOG_READS && self.logs.peek().is_some_and(|first| first.0.0 <= now) {
            if silent == SILENT_READS {
                return true;
            }
            let Some(Reverse((due, id))) = self.logs.pop() else { break };
            let Some(container) = self.containers.get_mut(&id).filter(|container| container.log_due == due) else {
                continue;
            };
            let Some(mut log) = container.log.take() else { continue };
            let is_silent = container.is_silent;
            let (engine, run) = (self.engine.clone(), container.run.clone());
            let mut read = Box::pin(async move {
                // A failed read is tried again when it is due: only the end waits for completeness.
                let due = match logs::read_page(&engine, &run, &id, &mut log).await {
                    Ok(page) if page.more => Due::Now,
                    Ok(page) if !page.pieces.is_empty() => Due::Soon,
                    _ => Due::Later,
                };
                LogRead { id, log, due }
            });
            // Most likely nothing, and some backends say so at once: no task for that. Not for one that prints: its pages
            // are work, which others can do meanwhile.
            if is_silent {
                silent += 1;
                if let Some(read) = read.as_mut().now_or_never() {
                    self.give_back(read);
                    continue;
                }
            }
            self.reads.spawn(read);
        }
        false
    }
}
