//! One attempt from its claim to a running container: prepare, launch, and what became of a launch whose answer
//! was lost.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::state::{Outcome, StopReason};
use gantry_core::{Failure, FailureClass};
use gantry_store::attempts::Attempt;
use gantry_store::logs::Position;
use tracing::Instrument;

use crate::engine::Engine;
use crate::executor::{ExecutionId, Found, Idempotence, Launch, LaunchError, Observed};
use crate::finish;
use crate::log::LogTail;
use crate::registry::Run;
use crate::watch::Watched;

/// Pauses between two questions about an unknown launch.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(15);

/// Where an attempt stands when this worker takes it up.
#[derive(Debug)]
struct Stand {
    /// When its launch must have succeeded, on the lease's clock.
    launch_deadline: Duration,
    /// How long ago a launch may have been sent by somebody; none if certainly none was.
    launch_sent: Option<Duration>,
    /// Whether its container was seen: then its absence means that it is lost.
    was_seen: bool,
    /// How long ago it was seen running.
    started: Option<Duration>,
    stop: Option<StopReason>,
    log: Position,
}

/// Launches a job that was just claimed.
pub(crate) fn start(engine: &Arc<Engine>, run: Arc<Run>) {
    let stand = Stand {
        launch_deadline: engine.lease.now() + engine.settings.launch_timeout(),
        launch_sent: None,
        was_seen: false,
        started: None,
        stop: None,
        log: Position::default(),
    };
    let span = span(&run);
    let shared = engine.clone();
    engine.spawn(async move { prepare_and_launch(&shared, run, stand, String::new()).await }.instrument(span));
}

/// Goes on with an attempt that was adopted, or whose claim's answer was lost.
pub(crate) fn resume(engine: &Arc<Engine>, run: Arc<Run>, attempt: Attempt) {
    let now = engine.lease.now();
    let stand = Stand {
        launch_deadline: (now + engine.settings.launch_timeout()).saturating_sub(attempt.claimed_ago),
        launch_sent: attempt.launch_sent,
        was_seen: attempt.started.is_some() || attempt.execution_id.is_some(),
        started: attempt.started,
        stop: attempt.stop_reason,
        log: attempt.log,
    };
    if attempt.cancel_requested {
        run.cancel.cancel();
    }
    let span = span(&run);
    let shared = engine.clone();
    engine.spawn(
        async move {
            match stand.launch_sent {
                None if stand.stop.is_some() => give_up(&shared, &run, stand.stop).await,
                None => prepare_and_launch(&shared, run, stand, String::new()).await,
                Some(_) => find(&shared, run, stand, String::new()).await,
            }
        }
        .instrument(span),
    );
}

fn span(run: &Run) -> tracing::Span {
    let span = tracing::info_span!("attempt", job.id = %run.token.job, attempt = run.token.attempt, host.name = %run.host.name);
    if let Some(context) = &run.spec.traceparent {
        let mut headers = gantry_broker::Headers::default();
        headers.insert("traceparent", context.as_str());
        gantry_broker::trace::set_parent(&span, &headers);
    }
    span
}

async fn prepare_and_launch(engine: &Arc<Engine>, run: Arc<Run>, stand: Stand, mut said: String) {
    if let Err(failure) = engine.executor.validate(&run.host, &run.spec) {
        return finish::never_ran(engine, &run, failure, said).await;
    }
    let left = stand.launch_deadline.saturating_sub(engine.lease.now());
    tokio::select! {
        biased;
        () = run.cancel.cancelled() => return give_up(engine, &run, Some(StopReason::Cancel)).await,
        // Nothing was sent: whoever adopts the attempt prepares it again.
        () = engine.draining.cancelled() => return,
        () = tokio::time::sleep(left) => return give_up(engine, &run, Some(StopReason::LaunchDeadline)).await,
        prepared = engine.executor.prepare(&run.host, &run.spec) => match prepared {
            Ok(more) => said.push_str(&more),
            Err(failure) => return finish::never_ran(engine, &run, failure, said).await,
        },
    }
    launch(engine, run, stand, said).await;
}

async fn launch(engine: &Arc<Engine>, run: Arc<Run>, mut stand: Stand, mut said: String) {
    let Some(places) = engine.hosts.launches(run.host.id) else { return };
    let place = tokio::select! {
        biased;
        () = engine.draining.cancelled() => return,
        place = places.acquire_owned() => place,
    };
    if run.cancel.is_cancelled() && stand.launch_sent.is_none() {
        return give_up(engine, &run, Some(StopReason::Cancel)).await;
    }
    // Where a launch under one name is idempotent for ever, the claim has stored it already.
    if engine.executor.idempotence() != Idempotence::Forever && stand.launch_sent.is_none() {
        match engine.writes.launch_sent.submit(run.token).await {
            Ok(true) => {}
            Ok(false) => return engine.registry.forget(run.token),
            Err(_) => return,
        }
    }
    let request = Launch {
        name: run.external_name.clone(),
        fleet: engine.fleet,
        job: run.token.job,
        attempt: run.token.attempt,
        spec: with_own_variables(&run),
    };
    // Handing over waits for the answer.
    let in_flight = engine.requests.token();
    let sent = engine.lease.now();
    let launched = engine.executor.launch(&run.host, &request).await;
    drop(in_flight);
    drop(place);
    match launched {
        Ok(id) => watch(engine, run, id, stand, Some(sent), said),
        Err(LaunchError::NotLaunched(failure)) => finish::never_ran(engine, &run, failure, said).await,
        Err(LaunchError::MaybeLaunched(cause)) => {
            tracing::warn!(%cause, "a launch was not answered");
            said.push_str(&format!("launch: {cause}\n"));
            stand.launch_sent = Some(Duration::ZERO);
            Box::pin(find(engine, run, stand, said)).await;
        }
    }
}

/// Asks what became of a launch, until there is an answer.
async fn find(engine: &Arc<Engine>, run: Arc<Run>, stand: Stand, said: String) {
    let asked = engine.lease.now();
    let mut pause = ASK_AGAIN;
    loop {
        match engine.executor.find(&run.host, &run.external_name).await {
            Found::Found(id) if may_launch_again(engine, &stand, asked) && is_unstarted(engine, &run, &id).await => {
                // Created by somebody who did not get to start it: the same launch starts it.
                return Box::pin(launch(engine, run, stand, said)).await;
            }
            Found::Found(id) => return watch(engine, run, id, stand, None, said),
            Found::Absent if stand.stop.is_some() => return give_up(engine, &run, stand.stop).await,
            Found::Absent if run.cancel.is_cancelled() => return give_up(engine, &run, Some(StopReason::Cancel)).await,
            Found::Absent if may_launch_again(engine, &stand, asked) => {
                return Box::pin(prepare_and_launch(engine, run, stand, said)).await;
            }
            Found::Absent => {
                let message = format!("the container {} was launched and is nowhere to be found", run.external_name);
                return finish::never_ran(engine, &run, Failure::new(FailureClass::Lost, message), said).await;
            }
            Found::Unknown(cause) => {
                tracing::debug!(%cause, "it is unknown what became of a launch, asking again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = engine.draining.cancelled() => return,
                }
                pause = (pause * 2).min(ASK_AGAIN_MAX);
            }
        }
    }
}

/// Whether launching again can only ever give the one container of this attempt.
fn may_launch_again(engine: &Engine, stand: &Stand, asked: Duration) -> bool {
    let ago = stand.launch_sent.map(|ago| ago + engine.lease.now().saturating_sub(asked));
    match (ago, engine.executor.idempotence()) {
        _ if stand.was_seen => false,
        (None, _) | (_, Idempotence::Forever) => true,
        (Some(ago), Idempotence::For(limit)) => ago + engine.settings.request_timeout() < limit,
        (Some(_), Idempotence::Never) => false,
    }
}

async fn is_unstarted(engine: &Engine, run: &Run, id: &ExecutionId) -> bool {
    let observed = engine.executor.observe(&run.host, std::slice::from_ref(id)).await;
    observed.is_ok_and(|states| states.iter().any(|(found, state)| found == id && *state == Observed::Starting))
}

fn watch(engine: &Engine, run: Arc<Run>, id: ExecutionId, stand: Stand, sent: Option<Duration>, said: String) {
    let now = engine.lease.now();
    let running_since = match (stand.started, stand.launch_sent) {
        (Some(ago), _) => Some(now.saturating_sub(ago)),
        // Adopted before its start was stored, which takes less than a second: the launch is the best that is known.
        (None, Some(ago)) if sent.is_none() => Some(now.saturating_sub(ago)),
        _ => None,
    };
    let log = LogTail::new(stand.log, engine.settings.log_head_bytes, engine.settings.log_tail_bytes);
    let watched = Watched::new(run.clone(), id, log, said)
        .launched(sent, stand.launch_deadline)
        .running_since(running_since, stand.started.is_some())
        .stopping(stand.stop);
    engine.hosts.watch(run.host.id, Box::new(watched));
}

/// Ends an attempt that has no container and will not get one.
async fn give_up(engine: &Arc<Engine>, run: &Arc<Run>, reason: Option<StopReason>) {
    let reason = reason.unwrap_or(StopReason::Cancel);
    match engine.writes.stop_reason.submit((run.token, reason)).await {
        Ok(true) => {
            let failure = match reason {
                StopReason::Cancel => Failure::cancelled(),
                StopReason::Timeout => Failure::new(FailureClass::Timeout, "the job ran longer than its timeout"),
                StopReason::LaunchDeadline => {
                    Failure::new(FailureClass::BackendError, "the container did not start before the launch deadline")
                }
            };
            finish::report(engine, run, None, finish::ended(Outcome::Failed(failure))).await;
        }
        Ok(false) => engine.registry.forget(run.token),
        // The worker is ending; whoever adopts the attempt gives it up.
        Err(_) => {}
    }
}

/// The job's environment with what Gantry tells every container.
fn with_own_variables(run: &Run) -> gantry_core::spec::ResolvedSpec {
    let mut spec = run.spec.clone();
    let timeout = spec.timeout_seconds().to_string();
    let mut set = |name: &str, value: String| spec.container.environment.insert(name.to_owned(), value);
    set("GANTRY_JOB_ID", run.token.job.to_string());
    set("GANTRY_ATTEMPT", run.token.attempt.to_string());
    set("GANTRY_TIMEOUT_SECONDS", timeout);
    if let Some(context) = run.spec.traceparent.clone() {
        set("TRACEPARENT", context);
    }
    spec
}
