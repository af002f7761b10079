//! The life of a run: queued, pulled, running, over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gantry_double::{Refused, State, Task};

use super::expand::expanded;
use super::state::{End, Run, now};
use super::{GRACE, Shared};

/// Between two looks at a container.
const LOOK: Duration = Duration::from_millis(100);

/// Why and how a run is over.
struct Over {
    state: &'static str,
    reason: Option<&'static str>,
    exit_code: Option<i64>,
    error_message: Option<String>,
    times: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

pub(super) async fn live(shared: Arc<Shared>, id: String) {
    let Some(run) = advance(&shared, &id, "queued") else { return };
    let over = match shared.machine.start(task(&shared, &run)).await {
        Ok(container) => follow(&shared, &id, container, run.timeout).await,
        Err(refused) => never_ran(&refused),
    };
    let mut book = shared.book();
    let Some(run) = book.run(&id) else { return };
    run.state = over.state;
    run.started_at = over.times.map(|(started, _)| started);
    run.updated_at = now();
    run.end = Some(End {
        terminated_at: over.times.map_or(run.updated_at, |(_, finished)| finished),
        run_duration: over.times.map(|(started, finished)| format!("{}s", (finished - started).as_seconds_f64())),
        reason: over.reason,
        exit_code: over.exit_code,
        error_message: over.error_message,
    });
}

/// SIGTERM, the double's grace, SIGKILL, meanwhile.
pub(super) fn stop(shared: &Arc<Shared>, container: String) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if let Err(error) = shared.machine.stop(&container, GRACE).await {
            tracing::warn!(%error, "a container of the double could not be stopped");
        }
    });
}

/// Another state of a run that is wanted still, and the run.
fn advance(shared: &Shared, id: &str, state: &'static str) -> Option<Run> {
    let mut book = shared.book();
    let run = book.run(id)?;
    if !run.stop_asked {
        run.state = state;
    }
    run.updated_at = now();
    Some(run.clone())
}

fn task(shared: &Shared, run: &Run) -> Task {
    let words = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|word| expanded(word, &run.environment_variables)).collect();
        (!words.is_empty()).then_some(words)
    };
    let mut environment: Vec<String> =
        run.environment_variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    environment.push(format!("SCW_SLS_RESOURCE_ID={}", run.id));
    environment.push(format!("SCW_SLS_PARENT_ID={}", run.job_definition_id));
    Task {
        name: format!("{}-{}", shared.name, run.id),
        image: run.image.clone(),
        entrypoint: words(&run.startup_command),
        command: words(&run.args),
        environment,
        memory: Some(i64::from(run.memory_limit) << 20),
        ..Task::default()
    }
}

/// Watches a container to its end, keeps its lines and removes it.
async fn follow(shared: &Arc<Shared>, id: &str, container: String, timeout: Duration) -> Over {
    let began = Instant::now();
    let stop_asked = {
        let mut book = shared.book();
        let run = book.run(id).expect("runs are never removed");
        run.container = Some(container.clone());
        run.started_at = Some(now());
        if !run.stop_asked {
            run.state = "running";
        }
        run.stop_asked
    };
    let mut timed_out = false;
    if stop_asked {
        stop(shared, container.clone());
    }
    let ended = loop {
        match shared.machine.state(&container).await {
            Ok(Some(State::Running { .. })) => {}
            Ok(ended) => break ended,
            Err(error) => tracing::warn!(%error, "a container of the double could not be looked at"),
        }
        if !timed_out && began.elapsed() > timeout {
            timed_out = true;
            stop(shared, container.clone());
        }
        tokio::time::sleep(LOOK).await;
    };
    let lines = shared.machine.lines(&container).await.unwrap_or_default();
    let stop_asked = {
        let mut book = shared.book();
        let run = book.run(id).expect("runs are never removed");
        (run.lines, run.container) = (lines, None);
        run.stop_asked
    };
    if let Err(error) = shared.machine.remove(&container).await {
        tracing::warn!(%error, "a container of the double could not be removed");
    }
    over(ended, timed_out, stop_asked)
}

fn over(ended: Option<State>, timed_out: bool, stop_asked: bool) -> Over {
    let Some(State::Ended { code, out_of_memory, started, finished }) = ended else {
        return failed("technical_error", "its container is gone".to_owned());
    };
    let (state, reason) = match code {
        _ if timed_out => ("failed", Some("timeout")),
        _ if stop_asked => ("interrupted", Some("cancellation")),
        _ if out_of_memory => ("failed", Some("memory_usage_exceeded")),
        0 => ("succeeded", None),
        _ => ("failed", Some("exited_with_error")),
    };
    Over { state, reason, exit_code: Some(code), error_message: None, times: started.zip(finished) }
}

fn never_ran(refused: &Refused) -> Over {
    let reason = match refused {
        Refused::NoImage(_) | Refused::Denied(_) => "image_not_found",
        Refused::Rejected(_) => "application_not_started",
        Refused::Engine(_) => "technical_error",
    };
    let message = match refused {
        Refused::Denied(image) => format!("pull access denied for {image}"),
        refused => refused.to_string(),
    };
    failed(reason, message)
}

fn failed(reason: &'static str, message: String) -> Over {
    Over { state: "failed", reason: Some(reason), exit_code: None, error_message: Some(message), times: None }
}
