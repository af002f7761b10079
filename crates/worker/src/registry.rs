//! What this process knows of its attempts, and the comparison with what the database says it owns.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_core::host::Host;
use gantry_core::message::{Report, Token};
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::StopReason;
use gantry_core::{FleetId, JobId, TenantId};
use gantry_store::attempts::{Differences, Owned};
use gantry_store::claims::Claimed;
use tokio::sync::Notify;

use crate::executor::{ExecutionId, Launch};

/// An attempt that this worker runs: what is kept of it as long as it does, for thousands at once.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) token: Token,
    pub(crate) tenant: TenantId,
    pub(crate) host: Arc<Host>,
    pub(crate) timeout_seconds: u32,
    pub(crate) traceparent: Option<Box<str>>,
    /// Somebody asked for the job's end.
    cancelled: AtomicBool,
    /// Its host is drained and it has to run elsewhere.
    moved: AtomicBool,
    /// Told when one of the two is set.
    told: Notify,
    /// Set by the registry alone, see [`Active`].
    active: AtomicBool,
}

impl Run {
    /// With its launch, which nobody needs once a container is known.
    pub(crate) fn new(claimed: Claimed, host: Arc<Host>, fleet: FleetId) -> (Arc<Self>, Box<Launch>) {
        let Claimed { token, tenant, external_name, spec, .. } = claimed;
        let run = Self {
            token,
            tenant,
            host,
            timeout_seconds: spec.timeout_seconds(),
            traceparent: spec.traceparent.as_deref().map(Box::from),
            cancelled: AtomicBool::new(false),
            moved: AtomicBool::new(false),
            told: Notify::new(),
            active: AtomicBool::new(false),
        };
        let spec = ResolvedSpec { tenant: Some(tenant), ..spec };
        let launch = Launch { name: external_name, fleet, job: token.job, attempt: token.attempt, spec };
        (Arc::new(run), Box::new(launch))
    }

    /// Whether it is still being run here, as the registry has it.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// How long its container may run.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }

    /// Its trace context, for a message.
    pub(crate) fn traceparent(&self) -> Option<String> {
        self.traceparent.as_deref().map(str::to_owned)
    }

    /// Somebody asks for the job's end.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Its host is drained and it has to run elsewhere.
    fn move_away(&self) {
        self.moved.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    /// Why its container is to be stopped, if somebody said so.
    pub(crate) fn unwanted(&self) -> Option<StopReason> {
        let cancelled = self.cancelled.load(Ordering::Acquire).then_some(StopReason::Cancel);
        cancelled.or_else(|| self.moved.load(Ordering::Acquire).then_some(StopReason::Drain))
    }

    /// Waits until [`Run::unwanted`] has a reason.
    pub(crate) async fn becomes_unwanted(&self) {
        // Before the look: what is said after it must not be missed.
        let told = self.told.notified();
        if self.unwanted().is_none() {
            told.await;
        }
    }

    fn key(&self) -> Key {
        (self.token.job, self.token.attempt)
    }
}

type Key = (JobId, i32);

/// Where an attempt is in this process.
#[derive(Debug)]
enum Phase {
    /// A claim names it and has not been answered yet.
    Claiming,
    /// The claim's answer was lost: the next read of the database tells whether it is ours.
    Uncertain,
    /// Being launched, watched or finished.
    Active(Active),
    /// Its end is reported and confirmed by the broker; the container stays until the row has left the attempt.
    Reported(Box<Reported>),
}

/// The registry's own hold on a run. The run shows whether it is there, so that each look at thousands of containers asks
/// no lock for each.
#[derive(Debug)]
struct Active(Arc<Run>);

impl Active {
    fn new(run: &Arc<Run>) -> Self {
        run.active.store(true, Ordering::Release);
        Self(run.clone())
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct Reported {
    run: Arc<Run>,
    container: Option<ExecutionId>,
    report: Arc<Report>,
    sent: Duration,
    times: u32,
    /// Whether it was reported when the database was last asked: only then the answer tells whether it is still owned.
    asked: bool,
    removing: bool,
}

impl Reported {
    fn is_overdue(&self, now: Duration) -> bool {
        let patience = REPORT_PATIENCE * 2_u32.pow(self.times.min(REPORT_PATIENCE_DOUBLINGS) - 1);
        now.saturating_sub(self.sent) > patience
    }
}

#[derive(Debug)]
struct Entry {
    registered: Duration,
    phase: Phase,
}

/// What a read of the database calls for.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// Attempts that are ours and that nobody here runs.
    pub(crate) resume: Vec<Token>,
    /// Reports whose effect has not been seen.
    pub(crate) report_again: Vec<Arc<Report>>,
    /// Containers whose attempt is over.
    pub(crate) remove: Vec<(Arc<Run>, ExecutionId)>,
}

/// How long a report may take to be recorded before it is sent again; doubled each time.
const REPORT_PATIENCE: Duration = Duration::from_secs(10);
const REPORT_PATIENCE_DOUBLINGS: u32 = 5;

/// The attempts of this process. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Entry>> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Announces attempts before their claim is sent.
    pub(crate) fn claiming(&self, keys: impl IntoIterator<Item = Key>, now: Duration) {
        let mut entries = self.lock();
        for key in keys {
            entries.entry(key).or_insert(Entry { registered: now, phase: Phase::Claiming });
        }
    }

    /// The claim was answered. Of the attempts that it did not give, some may be ours all the same, if an earlier
    /// answer was lost.
    pub(crate) fn not_claimed(&self, keys: impl IntoIterator<Item = Key>, answer_was_lost: bool) {
        let mut entries = self.lock();
        for key in keys {
            if let Some(entry) = entries.get_mut(&key)
                && matches!(entry.phase, Phase::Claiming)
            {
                if answer_was_lost {
                    entry.phase = Phase::Uncertain;
                } else {
                    entries.remove(&key);
                }
            }
        }
    }

    /// The claim gave it to us. It counts as registered now: a read that began before the claim's commit may not
    /// have seen it.
    pub(crate) fn claimed(&self, run: &Arc<Run>, now: Duration) {
        if let Some(entry) = self.lock().get_mut(&run.key()) {
            *entry = Entry { registered: now, phase: Phase::Active(Active::new(run)) };
        }
    }

    /// An attempt that was adopted, or found to be ours. False if it is being run here already.
    pub(crate) fn resumed(&self, run: &Arc<Run>, now: Duration) -> bool {
        let mut entries = self.lock();
        match entries.get(&run.key()) {
            Some(Entry { phase: Phase::Claiming | Phase::Uncertain, .. }) | None => {
                entries.insert(run.key(), Entry { registered: now, phase: Phase::Active(Active::new(run)) });
                true
            }
            Some(Entry { phase: Phase::Active(_) | Phase::Reported(_), .. }) => false,
        }
    }

    /// The end was reported and confirmed.
    pub(crate) fn reported(&self, run: &Arc<Run>, container: Option<ExecutionId>, report: Arc<Report>, now: Duration) {
        if let Some(entry) = self.lock().get_mut(&run.key()) {
            let (run, sent) = (run.clone(), now);
            let reported = Reported { run, container, report, sent, times: 1, asked: false, removing: false };
            entry.phase = Phase::Reported(Box::new(reported));
        }
    }

    /// Somebody else owns it, or nothing of it is left.
    pub(crate) fn forget(&self, token: Token) {
        self.lock().remove(&(token.job, token.attempt));
    }

    /// The container could not be removed: the next pass tries again.
    pub(crate) fn keep(&self, token: Token) {
        if let Some(Entry { phase: Phase::Reported(reported), .. }) = self.lock().get_mut(&(token.job, token.attempt)) {
            reported.removing = false;
        }
    }

    /// Whether this attempt is here, in whatever phase.
    pub(crate) fn knows(&self, key: Key) -> bool {
        self.lock().contains_key(&key)
    }

    /// Whether the effect of some report is overdue.
    pub(crate) fn waits_for_record(&self, now: Duration) -> bool {
        self.lock().values().any(|entry| matches!(&entry.phase, Phase::Reported(reported) if reported.is_overdue(now)))
    }

    /// Whether one of these jobs runs here.
    pub(crate) fn knows_any(&self, jobs: &[JobId]) -> bool {
        let entries = self.lock();
        entries.keys().any(|(job, _)| jobs.contains(job))
    }

    /// How many attempts are here, in whatever phase.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The tokens of what is run here, to ask the database what differs. Not of what was reported: as long as that is owned
    /// the answer names it, as one that is not known, and what the answer does not name is over. That is nearly all of it.
    pub(crate) fn ask(&self) -> Vec<Token> {
        let mut entries = self.lock();
        let mut tokens = Vec::new();
        for entry in entries.values_mut() {
            match &mut entry.phase {
                Phase::Claiming | Phase::Uncertain => {}
                Phase::Active(Active(run)) => tokens.push(run.token),
                Phase::Reported(reported) => reported.asked = true,
            }
        }
        tokens
    }

    /// Acts on what differs between [`Registry::ask`] and the database, which was read after that and after `began`. Entries
    /// registered since are left alone: their claim may have been committed after the read. So are those reported since they
    /// were asked for.
    pub(crate) fn reconcile(
        &self,
        differences: &Differences,
        began: Duration,
        now: Duration,
        may_report_again: bool,
    ) -> Decisions {
        let mut decisions = Decisions::default();
        let mut entries = self.lock();
        let Differences { owned, gone } = differences;
        let by_key: HashMap<Key, &Owned> = owned.iter().map(|o| ((o.token.job, o.token.attempt), o)).collect();
        for owned in owned {
            match entries.get(&(owned.token.job, owned.token.attempt)) {
                None => decisions.resume.push(owned.token),
                Some(Entry { phase: Phase::Uncertain, registered }) if *registered < began => {
                    decisions.resume.push(owned.token);
                }
                Some(_) => {}
            }
        }
        entries.retain(|key, entry| {
            if entry.registered >= began {
                return true;
            }
            match (&mut entry.phase, by_key.get(key)) {
                (Phase::Claiming, _) | (Phase::Uncertain, Some(_)) => true,
                (Phase::Uncertain, None) => false,
                // Another epoch, or over without our report: not ours to touch any more.
                (Phase::Active(Active(run)), _) if gone.contains(&run.token) => {
                    tracing::info!(job.id = %key.0, attempt = key.1, epoch = run.token.epoch, "the attempt left this worker");
                    false
                }
                (Phase::Active(Active(run)), owned) => {
                    let owned = owned.filter(|owned| owned.token == run.token);
                    if owned.is_some_and(|owned| owned.cancel_requested) {
                        run.cancel();
                    }
                    if owned.is_some_and(|owned| owned.moves) {
                        run.move_away();
                    }
                    true
                }
                (Phase::Reported(reported), _) if !reported.asked => true,
                (Phase::Reported(reported), Some(owned)) if owned.token == reported.run.token => {
                    if may_report_again && reported.is_overdue(now) {
                        reported.sent = now;
                        reported.times += 1;
                        decisions.report_again.push(reported.report.clone());
                    }
                    true
                }
                // The row has left it.
                (Phase::Reported(reported), _) => {
                    let Some(container) = reported.container.clone() else { return false };
                    if !reported.removing {
                        reported.removing = true;
                        decisions.remove.push((reported.run.clone(), container));
                    }
                    true
                }
            }
        });
        decisions
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use futures::FutureExt;
    use gantry_core::message::{Ended, ReportKind, ReportedOutcome};
    use gantry_core::spec::Submission;
    use gantry_core::{ExecutorType, HostId};

    const T: fn(u64) -> Duration = Duration::from_secs;

    /// A job of this submission that was claimed, and its host.
    pub(crate) fn claimed(submission: &[u8]) -> (Claimed, Arc<Host>) {
        let spec = Submission::decode(submission).expect("valid").spec.expect("inline");
        let host = Host {
            id: HostId::new(),
            name: "h".into(),
            executor_type: ExecutorType::Mock,
            connection_config: serde_json::json!({}),
            executor_config: serde_json::json!({}),
        };
        let claimed = Claimed {
            token: Token { job: JobId::new(), attempt: 1, epoch: 1 },
            tenant: TenantId::new(),
            host: host.id,
            external_name: "g-1".into(),
            spec: ResolvedSpec { container: spec, labels: Default::default(), traceparent: None, tenant: None },
        };
        (claimed, Arc::new(host))
    }

    fn run(epoch: i32) -> Arc<Run> {
        let (mut claimed, host) = claimed(br#"{"spec": {"image": "i"}}"#);
        claimed.token.epoch = epoch;
        Run::new(claimed, host, FleetId::new()).0
    }

    fn owned(run: &Run, cancel_requested: bool) -> Owned {
        Owned { token: run.token, cancel_requested, moves: false }
    }

    /// What the database answers to [`Registry::ask`] of an owner of these.
    fn answer(known: &[Token], owned: &[Owned]) -> Differences {
        let differs = |o: &&Owned| o.cancel_requested || o.moves || !known.contains(&o.token);
        Differences {
            owned: owned.iter().filter(differs).copied().collect(),
            gone: known.iter().filter(|token| owned.iter().all(|o| o.token != **token)).copied().collect(),
        }
    }

    /// [`Registry::reconcile`] with what the database says of an owner of these.
    fn reconcile(registry: &Registry, owned: &[Owned], began: Duration, now: Duration, may: bool) -> Decisions {
        let differences = answer(&registry.ask(), owned);
        registry.reconcile(&differences, began, now, may)
    }

    fn report(run: &Run) -> Arc<Report> {
        let ended = Ended::bare(ReportedOutcome::Exited { exit_code: 0 });
        Arc::new(Report { token: run.token, traceparent: None, kind: ReportKind::Ended(ended) })
    }

    #[test]
    fn a_claim_whose_answer_was_lost_is_resumed_or_forgotten() {
        let (registry, ours, not_ours) = (Registry::default(), run(1), run(1));
        registry.claiming([ours.key(), not_ours.key()], T(1));
        registry.not_claimed([ours.key(), not_ours.key()], true);
        let decisions = reconcile(&registry, &[owned(&ours, false)], T(2), T(2), true);
        assert_eq!(decisions.resume, [ours.token]);
        assert_eq!(registry.len(), 1);
        assert!(registry.resumed(&ours, T(3)));
        assert!(!registry.resumed(&ours, T(3)), "only once");
    }

    #[test]
    fn a_claim_in_flight_is_left_alone() {
        let (registry, ours) = (Registry::default(), run(1));
        registry.claiming([ours.key()], T(1));
        let decisions = reconcile(&registry, &[owned(&ours, false)], T(2), T(2), true);
        assert!(decisions.resume.is_empty() && registry.len() == 1);
        registry.claimed(&ours, T(3));
        let decisions = reconcile(&registry, &[], T(2), T(3), true);
        assert!(decisions.remove.is_empty() && registry.len() == 1, "registered after the read began");
    }

    #[test]
    fn a_cancel_reaches_the_run_and_another_epoch_ends_it_here() {
        let (registry, ours) = (Registry::default(), run(1));
        assert!(registry.resumed(&ours, T(1)));
        reconcile(&registry, &[owned(&ours, true)], T(2), T(2), true);
        assert_eq!(ours.unwanted(), Some(StopReason::Cancel));
        let mut stolen = owned(&ours, false);
        stolen.token.epoch = 2;
        reconcile(&registry, &[stolen], T(3), T(3), true);
        assert_eq!(registry.len(), 0);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_run_is_told_of_a_move_and_of_a_cancel() {
        for reason in [StopReason::Drain, StopReason::Cancel] {
            let say = if reason == StopReason::Drain { Run::move_away } else { Run::cancel };
            let run = run(1);
            let mut waiting = std::pin::pin!(run.becomes_unwanted());
            assert_eq!((run.unwanted(), waiting.as_mut().now_or_never()), (None, None));
            say(&run);
            waiting.await;
            run.becomes_unwanted().await;
            assert_eq!(run.unwanted(), Some(reason));
        }
    }

    #[test]
    fn a_run_is_active_until_it_is_reported_or_left_this_worker() {
        let (registry, ours, left, late) = (Registry::default(), run(1), run(1), run(1));
        registry.claimed(&late, T(1));
        assert!(!late.is_active(), "its claim was given up meanwhile");
        for run in [&ours, &left] {
            assert!(!run.is_active());
            registry.claiming([run.key()], T(1));
            registry.claimed(run, T(1));
            assert!(run.is_active());
        }
        registry.reported(&ours, None, report(&ours), T(2));
        reconcile(&registry, &[owned(&ours, false)], T(3), T(3), true);
        assert!(!ours.is_active() && !left.is_active());
        assert!(registry.resumed(&left, T(4)) && left.is_active());
        registry.forget(left.token);
        assert!(!left.is_active());
    }

    #[test]
    fn a_container_goes_only_after_a_read_that_began_after_its_report() {
        let (registry, ours) = (Registry::default(), run(1));
        registry.resumed(&ours, T(1));
        let before = registry.ask();
        registry.reported(&ours, Some(ExecutionId("c".into())), report(&ours), T(5));
        for owned in [&[owned(&ours, false)][..], &[]] {
            let decisions = registry.reconcile(&answer(&before, owned), T(4), T(6), true);
            assert!(decisions.remove.is_empty() && registry.len() == 1);
        }
        assert_eq!(reconcile(&registry, &[], T(6), T(6), true).remove.len(), 1);
        assert!(reconcile(&registry, &[], T(7), T(7), true).remove.is_empty(), "one removal at a time");
        registry.keep(ours.token);
        assert_eq!(reconcile(&registry, &[], T(8), T(8), true).remove.len(), 1);
        registry.forget(ours.token);
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn what_was_reported_is_not_asked_for_and_stays_as_long_as_the_answer_names_it() {
        let (registry, ours, adopted) = (Registry::default(), run(1), run(1));
        for run in [&ours, &adopted] {
            registry.resumed(run, T(1));
            registry.reported(run, None, report(run), T(2));
        }
        assert_eq!(registry.ask(), []);
        // Of the other this worker owns another epoch, whose entry is not here yet.
        let mut other = owned(&adopted, false);
        other.token.epoch = 2;
        let decisions = reconcile(&registry, &[owned(&ours, false), other], T(3), T(3), true);
        assert!(decisions.resume.is_empty() && registry.knows(ours.key()) && !registry.knows(adopted.key()));
        assert_eq!(reconcile(&registry, &[owned(&ours, false), other], T(4), T(4), true).resume, [other.token]);
        reconcile(&registry, &[other], T(5), T(5), true);
        assert_eq!(registry.len(), 0);
    }

    /// The report is confirmed while the database is being read, of a container that nobody knows.
    #[test]
    fn an_end_that_is_reported_during_a_read_is_left_to_the_next() {
        let (registry, ours) = (Registry::default(), run(1));
        registry.resumed(&ours, T(1));
        let known = registry.ask();
        assert_eq!(known, [ours.token]);
        // By the clock before the read, as for somebody who had to wait for the lock.
        registry.reported(&ours, None, report(&ours), T(2));
        registry.reconcile(&answer(&known, &[owned(&ours, false)]), T(3), T(20), true);
        assert_eq!(registry.len(), 1, "the answer does not name it, because it was known");
        assert_eq!(reconcile(&registry, &[owned(&ours, false)], T(21), T(21), true).report_again.len(), 1);
    }

    #[test]
    fn an_unrecorded_end_is_reported_again_with_growing_patience() {
        let (registry, ours) = (Registry::default(), run(1));
        registry.resumed(&ours, T(0));
        registry.reported(&ours, None, report(&ours), T(1));
        let again = |now, may| reconcile(&registry, &[owned(&ours, false)], T(now), T(now), may).report_again.len();
        assert_eq!((again(10, true), again(12, false), again(12, true)), (0, 0, 1));
        assert_eq!((again(23, true), again(33, true)), (0, 1));
    }
}
