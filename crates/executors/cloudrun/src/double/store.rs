//! What the double knows: Jobs with their executions, and operations. In memory only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::now;

/// Everything, behind one lock that is never held while something is waited for.
#[derive(Default)]
pub(super) struct Store {
    state: Mutex<State>,
    uids: AtomicU64,
}

#[derive(Default)]
pub(super) struct State {
    /// By full name.
    pub(super) jobs: BTreeMap<String, Job>,
    /// By full name.
    pub(super) operations: BTreeMap<String, Operation>,
    /// How many Jobs a location may have, if that is bounded.
    pub(super) most_jobs: Option<usize>,
}

/// A Job.
pub(super) struct Job {
    /// As it was given, without what only the service says.
    pub(super) given: Value,
    pub(super) uid: String,
    pub(super) created: DateTime<Utc>,
    pub(super) updated: DateTime<Utc>,
    pub(super) generation: u64,
    /// Counts every change, and is the etag.
    pub(super) version: u64,
    /// Until when nobody sees it.
    pub(super) hidden_until: Option<Instant>,
    /// Its token's execution is on its way.
    pub(super) reconciling: bool,
    /// Why it is not ready: reason and message.
    pub(super) failed: Option<(&'static str, String)>,
    /// By their ids; the last one is the latest.
    pub(super) executions: Vec<Execution>,
    pub(super) execution_count: u64,
}

/// An execution with its one task.
pub(super) struct Execution {
    pub(super) id: String,
    pub(super) uid: String,
    pub(super) number: u64,
    /// The Job's template, with the overrides of this run.
    pub(super) template: Value,
    pub(super) labels: Value,
    pub(super) created: DateTime<Utc>,
    pub(super) started: Option<DateTime<Utc>>,
    pub(super) container: Option<String>,
    /// Somebody asked for its end.
    pub(super) cancel: CancellationToken,
    pub(super) end: Option<End>,
}

/// How an execution ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) at: DateTime<Utc>,
    /// Whether there is a task that tells.
    pub(super) has_task: bool,
    pub(super) cancelled: bool,
    pub(super) succeeded: bool,
    pub(super) exit_code: i64,
    pub(super) term_signal: i64,
    /// Of the attempt, as `google.rpc.Code`; 0 is well.
    pub(super) code: i32,
    pub(super) message: String,
    /// What the system says about it in its own log.
    pub(super) system: String,
}

/// Something that takes its time.
pub(super) struct Operation {
    /// The Job, or the execution, that it is about.
    pub(super) target: Target,
    /// What was done, for a resource that is gone.
    pub(super) last: Value,
}

/// What an operation waits for.
#[derive(Clone)]
pub(super) enum Target {
    /// The Job is at rest.
    Job(String),
    /// The execution of this Job has ended.
    Execution(String, String),
    /// Nothing: it is done.
    Done,
}

impl Store {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new identifier in the form of a UUID. It begins with the time: an earlier double on the same engine may have
    /// left containers.
    pub(super) fn uid(&self) -> String {
        let (millis, number) = (now().timestamp_millis(), self.uids.fetch_add(1, Ordering::Relaxed));
        let process = std::process::id();
        format!("{:08x}-{:04x}-4000-8000-{:06x}{number:06x}", millis >> 16, millis & 0xffff, process & 0xff_ffff)
    }
}

impl State {
    /// A Job that can be seen.
    pub(super) fn job(&self, name: &str) -> Option<&Job> {
        self.jobs.get(name).filter(|job| job.is_visible())
    }

    /// Whether a location has as many Jobs as it may have, those that cannot be seen yet among them.
    pub(super) fn is_full(&self, parent: &str) -> bool {
        let prefix = format!("{parent}/jobs/");
        let jobs = self.jobs.keys().filter(|name| name.starts_with(&prefix)).count();
        self.most_jobs.is_some_and(|most| jobs >= most)
    }

    /// Changes a Job, if it is still there.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get_mut(name) {
            change(job);
            job.touch();
        }
    }

    /// Changes an execution, if it is still there.
    pub(super) fn change_execution(&mut self, job: &str, execution: &str, change: impl FnOnce(&mut Execution)) {
        self.change(job, |job| {
            if let Some(execution) = job.executions.iter_mut().find(|one| one.id == execution) {
                change(execution);
            }
        });
    }

    /// The Jobs of a location that can be seen, the newest first.
    pub(super) fn in_location(&self, parent: &str) -> Vec<(&String, &Job)> {
        let prefix = format!("{parent}/jobs/");
        let mut jobs: Vec<_> =
            self.jobs.iter().filter(|(name, job)| name.starts_with(&prefix) && job.is_visible()).collect();
        jobs.sort_by_key(|(_, job)| std::cmp::Reverse(job.created));
        jobs
    }
}

impl Job {
    pub(super) fn is_visible(&self) -> bool {
        self.hidden_until.is_none_or(|until| Instant::now() >= until)
    }

    pub(super) fn etag(&self) -> String {
        format!("\"{}-{}\"", self.generation, self.version)
    }

    pub(super) fn touch(&mut self) {
        self.version += 1;
        self.updated = now();
    }
}
