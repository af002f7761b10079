//! A container that is being watched.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::state::StopReason;
use tokio_util::task::AbortOnDropHandle;

use crate::executor::{End, ExecutionId};
use crate::log::LogTail;
use crate::registry::Run;

/// How long a container runs before its log is read for the first time.
const FIRST_LOG: Duration = Duration::from_millis(250);

/// A container and what is known of it. Times are on the lease's clock. There may be thousands that only run: what comes
/// with an end is in boxes.
pub(crate) struct Watched {
    pub(crate) run: Arc<Run>,
    pub(crate) id: Arc<ExecutionId>,
    /// None while a read has it.
    pub(crate) log: Option<LogTail>,
    pub(super) log_due: Duration,
    /// Whether the last read of its log gave nothing.
    pub(super) is_silent: bool,
    /// What the backend said while it was launched.
    pub(crate) said: String,
    /// When the launch was sent, if this worker did it.
    launch_sent: Option<Duration>,
    launch_deadline: Duration,
    /// When this worker first saw it running.
    running_since: Option<Duration>,
    /// When it must have ended: from its stored start, or else from when it was first seen running.
    run_deadline: Option<Duration>,
    /// Whether `started_at` is stored, or on its way.
    pub(super) start_stored: bool,
    /// From the launch request to running.
    pub(crate) startup: Option<Duration>,
    /// A stop that was committed before this worker took the attempt over.
    pub(super) stop: Option<StopReason>,
    /// The task that stops it; ends with this value.
    pub(super) stopping: Option<AbortOnDropHandle<()>>,
    pub(crate) end: Option<Box<End>>,
}

impl Watched {
    pub(crate) fn new(run: Arc<Run>, id: ExecutionId, log: LogTail, said: String) -> Self {
        Self {
            run,
            id: Arc::new(id),
            log: Some(log),
            log_due: Duration::ZERO,
            is_silent: false,
            said,
            launch_sent: None,
            launch_deadline: Duration::MAX,
            running_since: None,
            run_deadline: None,
            start_stored: false,
            startup: None,
            stop: None,
            stopping: None,
            end: None,
        }
    }

    pub(crate) fn launched(self, sent: Option<Duration>, deadline: Duration) -> Self {
        Self { launch_sent: sent, launch_deadline: deadline, ..self }
    }

    /// Its start is stored, and with it when it must have ended.
    pub(crate) fn started_before(self, run_deadline: Option<Duration>) -> Self {
        Self { start_stored: run_deadline.is_some(), run_deadline, ..self }
    }

    pub(crate) fn stopping(self, reason: Option<StopReason>) -> Self {
        Self { stop: reason, ..self }
    }

    /// It runs; the first sight counts. Whether this is it: its log is due at another time then.
    pub(super) fn seen_running(&mut self, now: Duration) -> bool {
        let is_first = self.running_since.is_none();
        if is_first {
            self.running_since = Some(now);
            self.startup = self.launch_sent.map(|sent| now.saturating_sub(sent));
            // One that ends right away is read once, at its end.
            self.log_due = now + FIRST_LOG;
            self.run_deadline.get_or_insert(now + self.run.timeout());
        }
        is_first
    }

    /// From its claim to when it ran, `ran_for` before `now`. The launch deadline counts from the claim.
    pub(crate) fn since_claim(&self, now: Duration, ran_for: Duration, launch_timeout: Duration) -> Duration {
        let claimed = self.launch_deadline.saturating_sub(launch_timeout);
        now.saturating_sub(ran_for).saturating_sub(claimed)
    }

    /// How long it has run by this worker's clock.
    pub(crate) fn running_for(&self, now: Duration) -> Duration {
        self.running_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Whether it was seen running, by this worker or by one before.
    pub(crate) fn was_seen_running(&self) -> bool {
        self.run_deadline.is_some()
    }

    /// The deadline that it has passed.
    pub(super) fn overdue(&self, now: Duration) -> Option<StopReason> {
        match self.run_deadline {
            Some(deadline) => (now >= deadline).then_some(StopReason::Timeout),
            None => (now >= self.launch_deadline).then_some(StopReason::LaunchDeadline),
        }
    }

    /// When it is to be looked at on its own account.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.stopping.is_some() || self.end.is_some() {
            return None;
        }
        Some(self.run_deadline.unwrap_or(self.launch_deadline))
    }
}
