//! The hosts of this worker: read from the database, reached, identified, watched over. Health is a property of
//! the pair (worker, host); a host that fails is no longer claimed for, but its attempts are still watched.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_core::host::Host;
use gantry_core::{FailureClass, HostId};
use gantry_store::hosts::{self, ServedHost};
use gantry_store::workers::HostCheck;
use gantry_store::{Error, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::watch::{self, Watched};

/// Failed checks in a row that take a host out.
const FAILURES: u32 = 3;
/// How often the list of hosts is read: a new one is served soon.
pub(crate) const REFRESH: Duration = Duration::from_secs(2);

/// The hosts of a worker. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Hosts {
    served: Arc<Mutex<HashMap<HostId, Served>>>,
    checking: Arc<Mutex<HashSet<HostId>>>,
}

/// One host.
struct Served {
    host: Arc<Host>,
    /// What its engine calls itself.
    identity: String,
    /// Whether it is reached, apart from a few failures in a row that are borne.
    reached: bool,
    /// Whether it can take jobs, as far as it said when it answered last.
    has_room: bool,
    failures: u32,
    checked: Option<Duration>,
    launches: Arc<Semaphore>,
    watch: mpsc::UnboundedSender<Box<Watched>>,
}

impl Hosts {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HostId, Served>> {
        self.served.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The hosts that may be claimed for.
    pub(crate) fn healthy(&self) -> Vec<HostId> {
        self.select(|served| served.reached && served.has_room)
    }

    /// The hosts that are reached, with or without room for more: what is there can be looked after.
    pub(crate) fn reached(&self) -> Vec<HostId> {
        self.select(|served| served.reached)
    }

    fn select(&self, which: impl Fn(&Served) -> bool) -> Vec<HostId> {
        self.lock().values().filter(|served| which(served)).map(|served| served.host.id).collect()
    }

    /// A host that was reached at least once.
    pub(crate) fn get(&self, id: HostId) -> Option<Arc<Host>> {
        self.lock().get(&id).map(|served| served.host.clone())
    }

    /// The places for launches in flight on a host.
    pub(crate) fn launches(&self, id: HostId) -> Option<Arc<Semaphore>> {
        self.lock().get(&id).map(|served| served.launches.clone())
    }

    /// A request to this host could not be delivered: it is checked again at once, not when it is due.
    pub(crate) fn suspect(&self, id: HostId) {
        if let Some(served) = self.lock().get_mut(&id) {
            served.checked = None;
        }
    }

    /// What the engine of a host calls itself.
    fn identity(&self, id: HostId) -> Option<String> {
        self.lock().get(&id).map(|served| served.identity.clone())
    }

    /// False if the host is being checked already.
    fn begin_check(&self, id: HostId) -> bool {
        self.checking.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id)
    }

    fn end_check(&self, id: HostId) {
        self.checking.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&id);
    }

    /// Ends the watchers: nothing is watched any more.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    /// Hands a container to its host's watcher.
    pub(crate) fn watch(&self, id: HostId, watched: Box<Watched>) {
        let watch = self.lock().get(&id).map(|served| served.watch.clone());
        match watch {
            // The watcher ends only with the worker.
            Some(watch) => drop(watch.send(watched)),
            None => tracing::debug!(host.id = %id, "the worker is ending: its successor watches the container"),
        }
    }
}

/// Reads the hosts and checks those that are new or due, side by side: a host that hangs holds no other up.
/// The checks end by themselves; each is stored when it does.
pub(crate) async fn refresh(engine: &Arc<Engine>) -> Result<Vec<JoinHandle<()>>, Error> {
    let listed = hosts::of_type(&engine.store, engine.executor.executor_type()).await?;
    let due = listed.into_iter().filter(|listed| is_due(engine, listed));
    let checks = due.filter(|listed| engine.hosts.begin_check(listed.host.id)).map(|listed| {
        let shared = engine.clone();
        engine.spawn(async move {
            let checked = check(&shared, &listed).await;
            let settled = settle(&shared, listed.host, checked);
            shared.hosts.end_check(settled.host);
            if let Err(trouble) = shared.writes.host_check.submit(settled).await {
                tracing::warn!(%trouble, "the check of a host could not be stored");
            }
        })
    });
    Ok(checks.collect())
}

fn is_due(engine: &Engine, listed: &ServedHost) -> bool {
    match engine.hosts.lock().get(&listed.host.id) {
        Some(served) => {
            *served.host != listed.host
                || served.checked.is_none_or(|at| engine.lease.now().saturating_sub(at) >= engine.settings.host_check())
        }
        None => true,
    }
}

/// Why a check failed.
enum Failed {
    /// It may answer the next time: a few of these are borne.
    NoAnswer(String),
    /// It is not the engine that it was: not one job more.
    AnotherEngine(String),
}

/// Whether the engine that answers for a host now is the one that it always was. Asked before a container counts as
/// gone: an address may lead to another engine from one moment to the next, and that one has never heard of it.
pub(crate) async fn answers_as_itself(engine: &Engine, host: &Host) -> bool {
    let answers = match engine.executor.identity(host).await {
        Ok(identity) => engine.hosts.identity(host.id).is_some_and(|known| known == identity),
        Err(_) => false,
    };
    if !answers {
        engine.hosts.suspect(host.id);
    }
    answers
}

/// What a host says of itself.
struct Answer {
    detail: String,
    identity: String,
    /// Whether it can take jobs.
    has_room: bool,
}

/// Reaches a host: what it says of itself if it is the engine that it always was.
async fn check(engine: &Engine, listed: &ServedHost) -> Result<Answer, Failed> {
    let answer = match engine.executor.check(&listed.host).await {
        Ok(health) => Answer { detail: health.detail, identity: health.identity, has_room: true },
        Err(failure) if failure.class == FailureClass::NoCapacity => {
            let identity = engine.executor.identity(&listed.host).await;
            let identity = identity.map_err(|_| Failed::NoAnswer(failure.message.clone()))?;
            Answer { detail: failure.message, identity, has_room: false }
        }
        Err(failure) => return Err(Failed::NoAnswer(failure.message)),
    };
    let known = match &listed.engine_identity {
        Some(known) => known.clone(),
        None => identify(&engine.store, listed.host.id, &answer.identity).await.map_err(Failed::NoAnswer)?,
    };
    if known != answer.identity {
        return Err(Failed::AnotherEngine(format!(
            "another engine answers here ({}, not {known}): this worker does not serve the host",
            answer.identity
        )));
    }
    Ok(answer)
}

async fn identify(store: &Store, host: HostId, identity: &str) -> Result<String, String> {
    hosts::identify(store, host, identity).await.map_err(|error| error.to_string())
}

/// Whether a host is served after a check, from what it was before and the failures in a row with this one: one success
/// brings it back.
fn stays(healthy: bool, answered: bool, bearable: bool, failures: u32) -> bool {
    answered || bearable && healthy && failures < FAILURES
}

/// Keeps the result of a check; the first one that succeeds makes the host one of ours.
fn settle(engine: &Arc<Engine>, host: Host, checked: Result<Answer, Failed>) -> HostCheck {
    let now = engine.lease.now();
    let mut served = engine.hosts.lock();
    let (answer, bearable, detail) = match checked {
        Ok(answer) => (Some((answer.identity, answer.has_room)), true, answer.detail),
        Err(Failed::NoAnswer(cause)) => (None, true, cause),
        Err(Failed::AnotherEngine(cause)) => (None, false, cause),
    };
    let answered = answer.is_some();
    let (reached, has_room) = match served.get_mut(&host.id) {
        Some(entry) => {
            entry.failures = if answered { 0 } else { entry.failures + 1 };
            let reached = stays(entry.reached, answered, bearable, entry.failures);
            let has_room = answer.map_or(entry.has_room, |(_, has_room)| has_room);
            if (reached, has_room) != (entry.reached, entry.has_room) {
                let healthy = reached && has_room;
                tracing::warn!(host.name = %host.name, healthy, detail, "a host's health changed");
            }
            (entry.reached, entry.has_room) = (reached, has_room);
            entry.checked = Some(now);
            // A new address counts once the same engine has answered there.
            if answered && *entry.host != host {
                entry.host = Arc::new(host.clone());
            }
            (reached, has_room)
        }
        None if let Some((identity, has_room)) = answer => {
            tracing::info!(host.name = %host.name, detail, "serving a host");
            let host = Arc::new(host.clone());
            let entry = Served {
                watch: watch::spawn(engine.clone(), host.clone()),
                host,
                identity,
                reached: true,
                has_room,
                failures: 0,
                checked: Some(now),
                launches: Arc::new(Semaphore::new(engine.settings.launches_per_host)),
            };
            served.insert(entry.host.id, entry);
            (true, has_room)
        }
        None => {
            tracing::debug!(host.name = %host.name, detail, "a host cannot be served");
            (false, true)
        }
    };
    // While failures are borne, a host without room is not out of reach: it counts as one that answers.
    let answered = answered || reached && !has_room;
    HostCheck { host: host.id, answered, healthy: reached && has_room, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the host is served after each of these checks.
    fn after(checks: &[(bool, bool)]) -> Vec<bool> {
        let (mut healthy, mut failures) = (true, 0);
        let step = |&(answered, bearable): &(bool, bool)| {
            failures = if answered { 0 } else { failures + 1 };
            healthy = stays(healthy, answered, bearable, failures);
            healthy
        };
        checks.iter().map(step).collect()
    }

    #[test]
    fn three_failures_in_a_row_take_a_host_out_and_one_success_brings_it_back() {
        let (good, silent, other) = ((true, true), (false, true), (false, false));
        assert_eq!(after(&[silent, silent, silent, silent, good]), [true, true, false, false, true]);
        // Only those in a row count.
        assert_eq!(after(&[silent, silent, good, silent, silent]), [true; 5]);
        // After it was brought back it is borne with again.
        assert_eq!(after(&[silent, silent, silent, good, silent])[3..], [true, true]);
        // Another engine is not borne with, and silence after it does not bring it back.
        assert_eq!(after(&[other, silent, good]), [false, false, true]);
    }
}
