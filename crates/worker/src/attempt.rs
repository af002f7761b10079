//! One attempt from its claim to a running container: prepare, launch, and what became of a launch whose answer
//! was lost. A loop of two steps, *launch* and *find*, that ends with a watched container or a reported end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::{Outcome, StopReason};
use gantry_core::{Failure, FailureClass};
use gantry_store::attempts::{Attempt, LaunchSent, Preparing};
use gantry_store::logs::Position;
use gantry_store::{Scope, jobs};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::engine::Engine;
use crate::executor::{ExecutionId, Found, Idempotence, Launch, LaunchError, Observed};
use crate::finish;
use crate::hosts;
use crate::log::LogTail;
use crate::metrics;
use crate::registry::Run;
use crate::stop;
use crate::throttle::{self, Patience};
use crate::watch::Watched;

/// Pauses between two questions about an unknown launch, and before a launch is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(15);
/// How long a preparation takes at least to be written down.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Where an attempt stands. Times are on the lease's clock.
struct Stand {
    /// With Gantry's own variables once it is prepared.
    request: Box<Launch>,
    /// When its container must run.
    launch_deadline: Duration,
    /// When a launch may first have been sent by somebody; none if certainly none was. Before the clock's zero, zero.
    launch_sent: Option<Duration>,
    /// How long before `launch_sent` counts from: the part that a clock younger than the attempt cannot show.
    launch_sent_ago: Duration,
    /// Whether its container was seen to run: then its absence means that it is lost.
    was_seen: bool,
    /// When it must have ended, if its start is stored.
    run_deadline: Option<Duration>,
    stop: Option<StopReason>,
    log: Position,
    prepared: bool,
    /// Why the last launch was refused.
    refused: Option<Failure>,
    /// How long it still asks again where it is throttled.
    patience: Patience,
    /// Whether the job may run elsewhere too; none as long as nobody needed to know.
    elsewhere: Option<bool>,
    pause: Duration,
    /// What the backend said so far.
    said: String,
}

/// What to do next.
enum Step {
    Launch,
    Find,
    /// It is watched, ended, or somebody else's.
    Done,
}

impl Stand {
    fn new(request: Box<Launch>, launch_deadline: Duration, log: Position) -> Self {
        Self {
            request,
            launch_deadline,
            launch_sent: None,
            launch_sent_ago: Duration::ZERO,
            was_seen: false,
            run_deadline: None,
            stop: None,
            log,
            prepared: false,
            refused: None,
            patience: Patience::new(),
            elsewhere: None,
            pause: ASK_AGAIN,
            said: String::new(),
        }
    }
}

/// Launches a job that was just claimed.
pub(crate) fn start(engine: &Arc<Engine>, run: Arc<Run>, request: Box<Launch>) {
    let deadline = engine.lease.now() + engine.settings.launch_timeout();
    spawn(engine, run, Box::new(Stand::new(request, deadline, Position::default())), Step::Launch);
}

/// Goes on with an attempt that was adopted, or whose claim's answer was lost.
pub(crate) fn resume(engine: &Arc<Engine>, run: Arc<Run>, request: Box<Launch>, attempt: Attempt) {
    // What is left of each time is fixed now: the clock may be younger than the attempt, and finding may take long.
    let now = engine.lease.now();
    let launch_deadline = now + engine.settings.launch_timeout().saturating_sub(attempt.claimed_ago);
    let stand = Stand {
        launch_sent: attempt.launch_sent.map(|_| now),
        launch_sent_ago: attempt.launch_sent.unwrap_or_default(),
        was_seen: attempt.started.is_some() || attempt.execution_id.is_some(),
        run_deadline: attempt.started.map(|ago| now + run.timeout().saturating_sub(ago)),
        stop: attempt.stop_reason,
        ..Stand::new(request, launch_deadline, attempt.log)
    };
    if attempt.cancel_requested {
        run.cancel();
    }
    let step = if stand.launch_sent.is_some() { Step::Find } else { Step::Launch };
    spawn(engine, run, Box::new(stand), step);
}

fn spawn(engine: &Arc<Engine>, run: Arc<Run>, stand: Box<Stand>, step: Step) {
    let span = span(&run);
    let shared = engine.clone();
    engine.spawn(async move { drive(&shared, &run, stand, step).await }.instrument(span));
}

fn span(run: &Run) -> tracing::Span {
    let span = tracing::info_span!("attempt", job.id = %run.token.job, attempt = run.token.attempt, host.name = %run.host.name);
    if let Some(context) = run.traceparent.as_deref() {
        let mut headers = gantry_broker::Headers::default();
        headers.insert("traceparent", context);
        gantry_broker::trace::set_parent(&span, &headers);
    }
    span
}

/// Takes step after step. What seldom happens is boxed, here and below: a future is as large as the largest that it may wait
/// for, and there is one for each attempt.
async fn drive(engine: &Arc<Engine>, run: &Arc<Run>, mut stand: Box<Stand>, mut step: Step) {
    loop {
        // Nothing is sent any more: whoever adopts the attempt goes on with it.
        if engine.draining.is_cancelled() {
            return;
        }
        // Adopted by another worker, or given up: not ours to go on with.
        if !run.is_active() {
            return;
        }
        step = match step {
            Step::Launch => launch(engine, run, &mut stand).await,
            Step::Find => Box::pin(find(engine, run, &mut stand)).await,
            Step::Done => return,
        };
    }
}

/// Why the attempt must not be launched any more.
fn unwanted(engine: &Engine, run: &Run, stand: &Stand) -> Option<StopReason> {
    let late = (engine.lease.now() >= stand.launch_deadline).then_some(StopReason::LaunchDeadline);
    stand.stop.or_else(|| run.unwanted()).or(late)
}

async fn launch(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand) -> Step {
    if let Some(reason) = unwanted(engine, run, stand) {
        return match stand.launch_sent {
            None => Box::pin(give_up(engine, run, reason)).await,
            // There may be a container: it is found and stopped.
            Some(_) => {
                stand.stop = Some(reason);
                Step::Find
            }
        };
    }
    if !stand.prepared
        && let Some(step) = prepare(engine, run, stand).await
    {
        return step;
    }
    let Some(places) = engine.hosts.launches(run.host.id) else { return Step::Done };
    let place = match places.clone().try_acquire_owned() {
        Ok(place) => Some(place),
        Err(_) => {
            let place = engine.draining.run_until_cancelled(places.acquire_owned());
            let Some(place) = Box::pin(place).await else { return Step::Done };
            place.ok()
        }
    };
    // From here on a hand-over waits for this launch.
    let in_flight = engine.requests.token();
    if engine.draining.is_cancelled() {
        return Step::Done;
    }
    // Where a launch under one name is idempotent for ever, the claim has stored it already.
    if engine.executor.idempotence() != Idempotence::Forever && stand.launch_sent.is_none() {
        match engine.writes.launch_sent.submit(LaunchSent { token: run.token, sent: true }).await {
            Ok(true) => {}
            Ok(false) => {
                engine.registry.forget(run.token);
                return Step::Done;
            }
            Err(_) => return Step::Done,
        }
    }
    // Whatever happened meanwhile: only the attempt's one runner launches it.
    if !run.is_active() {
        return Step::Done;
    }
    let sent = engine.lease.now();
    let launched = engine.executor.launch(&run.host, &stand.request, &engine.draining).await;
    drop(place);
    let was_throttled = |failure: &Failure| failure.class == FailureClass::Throttled;
    let goes_on = match &launched {
        None => true,
        Some(Err(LaunchError::NotLaunched(failure))) => was_throttled(failure),
        Some(_) => false,
    };
    // A hand-over waits for this, too.
    if goes_on && stand.launch_sent.is_none() {
        Box::pin(take_back(engine, run)).await;
    }
    drop(in_flight);
    let outcome = match &launched {
        None => "not_sent",
        Some(Ok(_)) => "launched",
        Some(Err(LaunchError::NotLaunched(failure))) if was_throttled(failure) => "throttled",
        Some(Err(LaunchError::NotLaunched(_))) => "not_launched",
        Some(Err(LaunchError::MaybeLaunched(_))) => "maybe_launched",
    };
    metrics::launch(engine.executor.executor_type(), outcome);
    match launched {
        None => Step::Done,
        Some(Ok(id)) => watch(engine, run, id, stand, Some(sent)),
        Some(Err(LaunchError::NotLaunched(failure))) => Box::pin(refuse(engine, run, stand, failure)).await,
        Some(Err(LaunchError::MaybeLaunched(cause))) => {
            tracing::warn!(%cause, "a launch was not answered");
            stand.said.push_str(&format!("launch: {cause}\n"));
            if stand.launch_sent.is_none() {
                stand.launch_sent = Some(sent);
                return Step::Find;
            }
            Box::pin(wait(engine, stand)).await
        }
    }
}

/// Stores that no launch was sent after all, before the attempt waits to send one again, or is handed over: whoever adopts
/// it goes on, and does not take it for lost. If that fails nothing is wrong, but an attempt may be spent.
async fn take_back(engine: &Engine, run: &Run) {
    if engine.executor.idempotence() == Idempotence::Forever {
        // An adopter may launch in any case.
        return;
    }
    if let Err(trouble) = engine.writes.launch_sent.submit(LaunchSent { token: run.token, sent: false }).await {
        tracing::debug!(%trouble, "that no launch was sent was not stored");
    }
}

/// Pulls or registers what the launch needs. A step, if the attempt does not get that far.
async fn prepare(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand) -> Option<Step> {
    if let Err(failure) = engine.executor.validate(&run.host, &stand.request.spec) {
        return Some(Box::pin(refuse(engine, run, stand, failure)).await);
    }
    let left = stand.launch_deadline.saturating_sub(engine.lease.now());
    let prepared = {
        let mut preparing = pin!(engine.executor.prepare(&run.host, &stand.request.spec));
        // `launch` has just looked at all that would end it, and what needs no preparation waits for none of them.
        match preparing.as_mut().now_or_never() {
            Some(prepared) => prepared,
            None => match Box::pin(prepared_within(engine, run, left, preparing)).await {
                Ok(prepared) => prepared,
                Err(step) => return Some(step),
            },
        }
    };
    match prepared {
        Ok(said) => {
            stand.said.push_str(&said);
            stand.prepared = true;
            // Only now: what is prepared is the same for every attempt.
            set_own_variables(run, &mut stand.request.spec);
            None
        }
        Err(failure) => Some(Box::pin(refuse(engine, run, stand, failure)).await),
    }
}

/// Goes on with a preparation that takes its time. A step, if something ends it.
async fn prepared_within<T>(
    engine: &Arc<Engine>,
    run: &Arc<Run>,
    left: Duration,
    preparing: impl Future<Output = T>,
) -> Result<T, Step> {
    tokio::select! {
        biased;
        prepared = told_of(engine, run, preparing) => Ok(prepared),
        // `launch` sees why.
        () = run.becomes_unwanted() => Err(Step::Launch),
        () = engine.draining.cancelled() => Err(Step::Done),
        () = tokio::time::sleep(left) => Err(Step::Launch),
    }
}

/// Does `prepare`. If it takes its time, that is stored meanwhile: whoever asks why nothing runs is told. Nothing waits
/// for these writes, and what needs no preparation costs none.
async fn told_of<T>(engine: &Arc<Engine>, run: &Arc<Run>, prepare: impl Future<Output = T>) -> T {
    let began = engine.lease.now();
    let mut prepare = pin!(prepare);
    if let Ok(done) = tokio::time::timeout(WORTH_TELLING, prepare.as_mut()).await {
        return done;
    }
    let tell = |over, before: Option<JoinHandle<()>>| {
        let (shared, token, lasts) = (engine.clone(), run.token, engine.lease.now().saturating_sub(began));
        engine.spawn(async move {
            // One after the other: the later one is what stays.
            if let Some(before) = before {
                let _ = before.await;
            }
            if let Err(trouble) = shared.writes.preparing.submit(Preparing { token, lasts, over }).await {
                tracing::debug!(%trouble, "that an attempt is being prepared was not stored");
            }
        })
    };
    let told = tell(false, None);
    let done = prepare.await;
    tell(true, Some(told));
    done
}

/// What was refused, and of which certainly nothing was launched now, ends here, unless asking again may help.
async fn refuse(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand, failure: Failure) -> Step {
    if failure.class == FailureClass::HostUnreachable {
        engine.hosts.suspect(run.host.id);
    }
    if stand.launch_sent.is_some() {
        // An earlier launch may have left a container: only its absence ends the attempt.
        stand.said.push_str(&format!("refused: {failure}\n"));
        stand.refused = Some(failure);
        return wait(engine, stand).await;
    }
    refused(engine, run, stand, failure).await
}

/// Certainly nothing was launched, now or earlier: a place that is only too busy is asked again, any other refusal ends the
/// attempt.
async fn refused(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand, failure: Failure) -> Step {
    if failure.class == FailureClass::Throttled {
        let lasts = match may_go_elsewhere(engine, run, stand).await {
            true => engine.settings.throttle_patience(),
            // Another attempt would meet the same: nothing is gained by spending this one.
            false => engine.settings.launch_timeout(),
        };
        let now = engine.lease.now();
        if let Some(pause) = stand.patience.pause(now, lasts, stand.launch_deadline, rand::random()) {
            tracing::debug!(%failure, ?pause, "throttled, asking again");
            return tokio::select! {
                () = tokio::time::sleep(pause) => Step::Launch,
                // `launch` sees why.
                () = run.becomes_unwanted() => Step::Launch,
                () = engine.draining.cancelled() => Step::Done,
            };
        }
    }
    finish::never_ran(engine, run, failure, std::mem::take(&mut stand.said)).await;
    Step::Done
}

/// Whether another executor may run the job. While that cannot be read, none: it is asked again with the next refusal.
async fn may_go_elsewhere(engine: &Engine, run: &Run, stand: &mut Stand) -> bool {
    if stand.elsewhere.is_none() {
        let present = engine.executor.executor_type();
        match jobs::spec(&engine.store, Scope::Fleet, run.token.job).await {
            Ok(stored) => {
                stand.elsewhere = Some(stored.is_some_and(|job| throttle::may_go_elsewhere(&job.routing, present)));
            }
            Err(error) => tracing::debug!(%error, "where else the job may run could not be read"),
        }
    }
    stand.elsewhere.unwrap_or(false)
}

/// Waits a little longer each time, and then asks what became of the launch.
async fn wait(engine: &Engine, stand: &mut Stand) -> Step {
    tokio::select! {
        () = tokio::time::sleep(stand.pause) => {}
        () = engine.draining.cancelled() => return Step::Done,
    }
    stand.pause = (stand.pause * 2).min(ASK_AGAIN_MAX);
    Step::Find
}

/// Asks what became of a launch.
async fn find(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand) -> Step {
    match engine.executor.find(&run.host, &stand.request.name).await {
        Found::Found(id) if is_unstarted(engine, run, &id).await => found_unstarted(engine, run, stand, id).await,
        Found::Found(id) => watch(engine, run, id, stand, None),
        Found::Absent if !hosts::answers_as_itself(engine, &run.host).await => {
            tracing::warn!("a container is absent from an engine that is not the host's own, asking again");
            wait(engine, stand).await
        }
        Found::Absent => match unwanted(engine, run, stand) {
            Some(reason) => give_up(engine, run, reason).await,
            None => absent(engine, run, stand).await,
        },
        Found::Unknown(cause) => {
            tracing::debug!(%cause, "it is unknown what became of a launch, asking again");
            wait(engine, stand).await
        }
    }
}

/// Created by somebody who did not get to start it. The same launch starts it, and only it; unwanted, it is removed. The
/// reason is committed before: whoever adopts the attempt and finds nothing would launch it otherwise.
async fn found_unstarted(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand, id: ExecutionId) -> Step {
    if let Some(reason) = unwanted(engine, run, stand) {
        stand.stop = Some(reason);
        if engine.executor.idempotence() != Idempotence::Forever {
            // Launching it again is not what is wanted, and it may start by itself: it is watched, and stopped.
            return watch(engine, run, id, stand, None);
        }
        if !stop::put_reason(engine, run, reason).await {
            engine.registry.forget(run.token);
            return Step::Done;
        }
        if let Err(failure) = engine.executor.remove(&run.host, &id).await {
            tracing::warn!(%failure, "a container that was never started could not be removed, trying again");
        }
        return wait(engine, stand).await;
    }
    if may_launch_again(engine, stand) { Step::Launch } else { watch(engine, run, id, stand, None) }
}

async fn absent(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand) -> Step {
    let may_launch_again = may_launch_again(engine, stand);
    // Only what may be launched has been refused; and what was once refused may be asked for again.
    if let Some(failure) = stand.refused.take() {
        return match may_launch_again {
            true => refused(engine, run, stand, failure).await,
            false => lost(engine, run, stand, failure).await,
        };
    }
    if may_launch_again {
        return Step::Launch;
    }
    let message = format!("the container {} was launched and is nowhere to be found", stand.request.name);
    lost(engine, run, stand, Failure::new(FailureClass::Lost, message)).await
}

/// Whether launching again can only ever give the one container of this attempt.
fn may_launch_again(engine: &Engine, stand: &Stand) -> bool {
    if stand.was_seen {
        return false;
    }
    match (stand.launch_sent, engine.executor.idempotence()) {
        (None, _) | (_, Idempotence::Forever) => true,
        (Some(sent), Idempotence::For(limit)) => {
            let ago = stand.launch_sent_ago + engine.lease.now().saturating_sub(sent);
            ago + engine.settings.request_timeout() < limit
        }
        (Some(_), Idempotence::Never) => false,
    }
}

async fn is_unstarted(engine: &Engine, run: &Run, id: &ExecutionId) -> bool {
    let observed = engine.executor.observe(&run.host, std::slice::from_ref(id)).await;
    observed.is_ok_and(|states| states.iter().any(|(found, state)| found == id && *state == Observed::Starting))
}

fn watch(engine: &Engine, run: &Arc<Run>, id: ExecutionId, stand: &mut Stand, sent: Option<Duration>) -> Step {
    let log =
        LogTail::new(std::mem::take(&mut stand.log), engine.settings.log_head_bytes, engine.settings.log_tail_bytes);
    let watched = Watched::new(run.clone(), id, log, std::mem::take(&mut stand.said))
        .launched(sent, stand.launch_deadline)
        .started_before(stand.run_deadline)
        .stopping(stand.stop);
    engine.hosts.watch(run.host.id, Box::new(watched));
    Step::Done
}

/// Ends an attempt of which nothing is there, and of which something may have been.
async fn lost(engine: &Arc<Engine>, run: &Arc<Run>, stand: &mut Stand, failure: Failure) -> Step {
    finish::lost(engine, run, failure, std::mem::take(&mut stand.said)).await;
    Step::Done
}

/// Ends an attempt that has no container and shall not get one: the reason first.
async fn give_up(engine: &Arc<Engine>, run: &Arc<Run>, reason: StopReason) -> Step {
    if !stop::put_reason(engine, run, reason).await {
        engine.registry.forget(run.token);
        return Step::Done;
    }
    let failure = match reason {
        StopReason::Cancel => Failure::cancelled(),
        StopReason::Timeout => Failure::new(FailureClass::Timeout, "the job ran longer than its timeout"),
        StopReason::LaunchDeadline => {
            Failure::new(FailureClass::BackendError, "the container did not start before the launch deadline")
        }
        StopReason::Drain => Failure::new(FailureClass::BackendError, "its host was drained before it was launched"),
    };
    finish::report(engine, run, None, finish::ended(Outcome::Failed(failure))).await;
    Step::Done
}

/// Adds what Gantry tells every container to the job's environment.
fn set_own_variables(run: &Run, spec: &mut ResolvedSpec) {
    let mut set = |name: &str, value: String| spec.container.environment.insert(name.to_owned(), value);
    set("GANTRY_JOB_ID", run.token.job.to_string());
    set("GANTRY_ATTEMPT", run.token.attempt.to_string());
    set("GANTRY_TIMEOUT_SECONDS", run.timeout_seconds.to_string());
    if let Some(context) = run.traceparent() {
        set("TRACEPARENT", context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::claimed;
    use gantry_core::FleetId;

    #[test]
    fn a_container_is_told_whose_it_is_beside_its_own_environment() {
        let submission = br#"{"spec": {"image": "i", "timeout_seconds": 7, "environment": {"A": "b"}}}"#;
        let (mut claimed, host) = claimed(submission);
        claimed.token.attempt = 3;
        claimed.spec.traceparent = Some("t".into());
        let job = claimed.token.job.to_string();
        let (run, mut request) = Run::new(claimed, host, FleetId::new());
        assert_eq!((request.attempt, request.spec.tenant), (3, Some(run.tenant)));
        assert_eq!(request.spec.container.environment.len(), 1, "nothing that a definition would differ by");
        set_own_variables(&run, &mut request.spec);
        let set: Vec<(&str, &str)> =
            request.spec.container.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("A", "b"),
            ("GANTRY_ATTEMPT", "3"),
            ("GANTRY_JOB_ID", job.as_str()),
            ("GANTRY_TIMEOUT_SECONDS", "7"),
            ("TRACEPARENT", "t"),
        ];
        assert_eq!(set, expected);
    }
}
