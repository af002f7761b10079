//! What every task of a worker shares, and the batched writes that they submit.

use std::sync::Arc;
use std::time::Duration;

use gantry_broker::{Broker, Outgoing, Peers, Publisher, publish};
use gantry_core::message::{Report, ReportsToWrite, Token};
use gantry_core::state::StopReason;
use gantry_core::{FleetId, WorkerId};
use gantry_store::attempts::{self, LaunchSent, Output, Preparing, Started};
use gantry_store::logs::{self, Append};
use gantry_store::workers::{self, HostCheck};
use gantry_store::{Error, Store};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::{Batcher, Trouble};
use crate::config::Settings;
use crate::guard::Guarded;
use crate::hosts::Hosts;
use crate::lease::Lease;
use crate::pace::Pace;
use crate::registry::Registry;

/// Bytes of one page of log.
pub(crate) const LOG_PAGE: usize = 256 << 10;
/// Pages in memory at most, in the whole process. When they are all in use nothing is read: the backend buffers.
const LOG_PAGES: usize = 128;
/// Items in one batched write at most.
const WRITES: usize = 256;
/// Bytes of log in one batched write at most, but for a single larger page: it must pass within the transaction
/// timeout, and what waits behind it waits so long. Four whole pages, each with room for what its rows weigh.
const LOG_WRITE: usize = 4 * (LOG_PAGE + (4 << 10));
/// From so many bytes on what is added to a log is large: its writes keep a pace, and no small one waits for them.
pub(crate) const LARGE_LOG: usize = 64 << 10;
/// Reports in one message at most, and in one round of publishing.
const REPORT_LIST: usize = 100;
const REPORTS: usize = 1_000;
/// How often such a round begins under load.
const EVERY: Duration = Duration::from_millis(12);

/// The shared parts of a worker.
pub(crate) struct Engine {
    pub(crate) id: WorkerId,
    pub(crate) fleet: FleetId,
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) broker: Broker,
    /// The workers that take work of this executor type.
    pub(crate) peers: Peers,
    pub(crate) executor: Guarded,
    pub(crate) lease: Lease,
    pub(crate) registry: Registry,
    pub(crate) hosts: Hosts,
    pub(crate) writes: Writes,
    /// Bounds the log pages in memory.
    pub(crate) log_pages: Arc<Semaphore>,
    /// Asks for a read of what the database says at once, not at the next beat.
    pub(crate) look: Notify,
    /// A write said that the worker was declared dead.
    pub(crate) dead: CancellationToken,
    /// No new work: the worker is about to hand over.
    pub(crate) draining: CancellationToken,
    /// The worker has ended: whatever its tasks wait for, they wait no longer.
    pub(crate) ended: CancellationToken,
    /// Requests to backends that must be answered before the worker hands over.
    pub(crate) requests: TaskTracker,
    /// Ended attempts whose logs and reports are on their way.
    pub(crate) finishing: TaskTracker,
}

impl Engine {
    /// Runs a task of this worker: at most until the worker has ended.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let ended = self.ended.clone();
        // Boxed at once: each layer around a future holds it once more, and it is moved into each.
        let task = Box::pin(task);
        tokio::spawn(async move {
            ended.run_until_cancelled(task).await;
        })
    }

    /// Runs a task that reports an end: as [`Engine::spawn`], and a hand-over waits for it.
    pub(crate) fn spawn_finishing(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        let task = Box::pin(task);
        self.finishing.spawn(async move {
            ended.run_until_cancelled(task).await;
        });
    }
}

/// The writes of single attempts, gathered into batches.
pub(crate) struct Writes {
    /// True if the token still held: only then may the launch be sent.
    pub(crate) launch_sent: Batcher<LaunchSent, bool>,
    /// Only for what takes long enough that somebody may ask.
    pub(crate) preparing: Batcher<Preparing, ()>,
    pub(crate) started: Batcher<Started, ()>,
    /// True if the token still held: only then may the stop be asked for.
    pub(crate) stop_reason: Batcher<(Token, StopReason), bool>,
    pub(crate) log: Batcher<Arc<Append>, ()>,
    pub(crate) large_log: Batcher<Arc<Append>, ()>,
    pub(crate) output: Batcher<Arc<Output>, ()>,
    pub(crate) host_check: Batcher<HostCheck, ()>,
    /// Done once RabbitMQ confirmed the report.
    pub(crate) report: Batcher<Arc<Report>, ()>,
}

impl Writes {
    /// `dead` is cancelled by the first write that says so: the worker must end.
    pub(crate) fn new(store: &Store, worker: WorkerId, broker: &Broker, dead: &CancellationToken) -> Self {
        let checked = |dead: &CancellationToken| {
            let dead = dead.clone();
            move |error: Error| {
                if matches!(error, Error::NotAlive(_)) {
                    dead.cancel();
                }
                Trouble::from(error)
            }
        };
        let (s, check) = (store.clone(), checked(dead));
        let launch_sent = Batcher::spawn("store launch_sent_at", WRITES, move |launches: Vec<LaunchSent>| {
            let (s, check) = (s.clone(), check.clone());
            async move {
                let held = attempts::put_launch_sent(&s, worker, &launches).await.map_err(check)?;
                Ok(launches.iter().map(|launch| held.contains(&launch.token)).collect())
            }
        });
        let (s, check) = (store.clone(), checked(dead));
        let preparing = Batcher::spawn("store preparing", WRITES, move |preparing: Vec<Preparing>| {
            let (s, check) = (s.clone(), check.clone());
            async move {
                attempts::put_preparing(&s, worker, &preparing).await.map_err(check)?;
                Ok(vec![(); preparing.len()])
            }
        });
        let (s, check) = (store.clone(), checked(dead));
        let started = Batcher::spawn("store started_at", WRITES, move |started: Vec<Started>| {
            let (s, check) = (s.clone(), check.clone());
            async move {
                attempts::put_started(&s, worker, &started).await.map_err(check)?;
                Ok(vec![(); started.len()])
            }
        });
        let (s, check) = (store.clone(), checked(dead));
        let stop_reason = Batcher::spawn("store stop_reason", WRITES, move |stops: Vec<(Token, StopReason)>| {
            let (s, check) = (s.clone(), check.clone());
            async move {
                let held = attempts::put_stop_reason(&s, worker, &stops).await.map_err(check)?;
                Ok(stops.iter().map(|(token, _)| held.contains(token)).collect())
            }
        });
        let (s, check) = (store.clone(), checked(dead));
        let log = Batcher::spawn_weighed(
            "store logs",
            WRITES,
            LOG_WRITE,
            logs::Append::weight,
            move |appends: Vec<Arc<Append>>| {
                let (s, check) = (s.clone(), check.clone());
                async move {
                    logs::append(&s, worker, &appends).await.map_err(check)?;
                    Ok(vec![(); appends.len()])
                }
            },
        );
        let (s, check, pace) = (store.clone(), checked(dead), Arc::new(Pace::new()));
        let large_log = Batcher::spawn_weighed(
            "store large logs",
            WRITES,
            LOG_WRITE,
            logs::Append::weight,
            move |appends: Vec<Arc<Append>>| {
                let (s, check, pace) = (s.clone(), check.clone(), pace.clone());
                async move {
                    pace.write(logs::append(&s, worker, &appends)).await.map_err(check)?;
                    Ok(vec![(); appends.len()])
                }
            },
        );
        let (s, check) = (store.clone(), checked(dead));
        let output = Batcher::spawn("store outputs", WRITES, move |outputs: Vec<Arc<Output>>| {
            let (s, check) = (s.clone(), check.clone());
            async move {
                attempts::put_outputs(&s, worker, &outputs).await.map_err(check)?;
                Ok(vec![(); outputs.len()])
            }
        });
        let (s, check) = (store.clone(), checked(dead));
        let host_check = Batcher::spawn("store host checks", WRITES, move |checks: Vec<HostCheck>| {
            let (s, check) = (s.clone(), check.clone());
            async move {
                workers::put_checks(&s, worker, &checks).await.map_err(check)?;
                Ok(vec![(); checks.len()])
            }
        });
        let (publisher, topology) = (Publisher::new(broker), broker.topology().clone());
        let report = Batcher::spawn_lingering("publish reports", REPORTS, EVERY, move |reports: Vec<Arc<Report>>| {
            let (publisher, route) = (publisher.clone(), topology.reports());
            async move {
                let lists: Vec<Outgoing> = reports
                    .chunks(REPORT_LIST)
                    .map(|list| {
                        let reports = list.iter().map(Arc::as_ref).collect();
                        Outgoing::json(route.clone(), &ReportsToWrite::V1 { reports })
                    })
                    .collect::<Result<_, serde_json::Error>>()
                    .map_err(|error| Trouble::Refused(error.to_string()))?;
                for result in publisher.publish_all(lists).await {
                    // Twice is harmless. Only what is about the report itself is final: a queue that is missing comes back.
                    result.map_err(|error| match error {
                        publish::Error::TooLarge { .. } | publish::Error::Stopped => {
                            Trouble::Refused(error.to_string())
                        }
                        error => Trouble::Transient(error.to_string()),
                    })?;
                }
                Ok(vec![(); reports.len()])
            }
        });
        Self { launch_sent, preparing, started, stop_reason, log, large_log, output, host_check, report }
    }
}

/// The pages of log that may be in memory at once.
pub(crate) fn log_pages() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(LOG_PAGES))
}
