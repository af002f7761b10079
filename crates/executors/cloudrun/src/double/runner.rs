//! What the cloud's machines do: from a token to an execution, from an execution to a container and its end.

use std::time::Duration;

use gantry_double::{Machine, Refused, State, Task};
use serde_json::Value;

use super::store::End;
use super::{Shared, jobs, now};

/// How often a container is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// A task's timeout, unless its Job has one.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Images whose execution never has a task.
const BROKEN: &str = "broken.invalid/";

/// Starts the execution that a Job's token names, if its image can be had.
pub(super) async fn start(shared: Shared, job: String, token: String) {
    let image = {
        let state = shared.store.lock();
        let Some(job) = state.jobs.get(&job) else { return };
        job.given["template"]["template"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
    };
    let failed = match shared.machine.pull(&image).await {
        _ if image.starts_with(BROKEN) => None,
        Ok(()) => None,
        Err(Refused::NoImage(image)) => Some(("CONTAINER_MISSING", format!("Image '{image}' not found."))),
        Err(Refused::Denied(image)) => Some((
            "CONTAINER_PERMISSION_DENIED",
            format!("The Cloud Run service agent must have permission to read the image, {image}."),
        )),
        Err(error @ (Refused::Rejected(_) | Refused::Engine(_))) => Some(("INTERNAL", error.to_string())),
    };
    if failed.is_some() {
        return shared.store.lock().change(&job, |job| {
            job.failed = failed;
            job.reconciling = false;
        });
    }
    let begun = jobs::begin(&shared, &job, &token, None);
    shared.store.lock().change(&job, |job| job.reconciling = false);
    if let Some((execution, _)) = begun {
        run(shared, job, execution).await;
    }
}

/// Runs an execution to its end.
pub(super) async fn run(shared: Shared, job: String, id: String) {
    let found = {
        let state = shared.store.lock();
        let execution = state.jobs.get(&job).and_then(|job| job.executions.iter().find(|one| one.id == id));
        execution.map(|execution| (execution.template.clone(), execution.uid.clone(), execution.cancel.clone()))
    };
    let Some((template, uid, cancel)) = found else { return };
    let task = task(&template, &uid);
    let end = if task.image.starts_with(BROKEN) {
        End { has_task: false, ..failed("An internal error occurred while the execution was prepared.") }
    } else if cancel.is_cancelled() {
        End { has_task: false, cancelled: true, ..failed("The execution was cancelled.") }
    } else {
        match shared.machine.start(task).await {
            Ok(container) => {
                shared.store.lock().change_execution(&job, &id, |execution| {
                    execution.started = Some(now());
                    execution.container = Some(container.clone());
                });
                let end = watch(&shared.machine, &container, &template, &cancel).await;
                // Deleted while it started: nobody else knows of its container.
                if !shared.store.lock().jobs.contains_key(&job)
                    && let Err(error) = shared.machine.remove(&container).await
                {
                    tracing::warn!(%error, container, "a container of a deleted Job stays");
                }
                end
            }
            Err(error) => failed(&format!("The container failed to start: {error}")),
        }
    };
    shared.store.lock().change_execution(&job, &id, |execution| execution.end = Some(end));
}

/// The container of an execution.
fn task(template: &Value, uid: &str) -> Task {
    let container = &template["containers"][0];
    let text = |key: &str| container[key].as_str().map(str::to_owned);
    let words = |key: &str| {
        let words = container[key].as_array()?;
        Some(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let environment = container["env"].as_array().into_iter().flatten();
    let variable =
        |one: &Value| format!("{}={}", one["name"].as_str().unwrap_or(""), one["value"].as_str().unwrap_or(""));
    Task {
        name: format!("cloudrun-{uid}"),
        image: text("image").unwrap_or_default(),
        entrypoint: words("command"),
        command: words("args"),
        environment: environment.map(variable).collect(),
        working_dir: text("workingDir"),
        memory: memory(template),
        nano_cpus: None,
    }
}

/// The memory limit in bytes, if there is one.
fn memory(template: &Value) -> Option<i64> {
    let limit = template["containers"][0]["resources"]["limits"]["memory"].as_str()?;
    let (number, unit) = match limit.strip_suffix("Gi") {
        Some(number) => (number, 1 << 30),
        None => (limit.strip_suffix("Mi")?, 1 << 20),
    };
    Some(number.parse::<i64>().ok()? * unit)
}

/// Waits for the end of a container: by itself, by its timeout, or because somebody cancelled it.
async fn watch(
    machine: &Machine,
    container: &str,
    template: &Value,
    cancel: &tokio_util::sync::CancellationToken,
) -> End {
    let seconds = template["timeout"].as_str().and_then(|text| text.strip_suffix('s')?.parse::<f64>().ok());
    let timeout = seconds.map_or(TIMEOUT, Duration::from_secs_f64);
    let ended = async {
        loop {
            match machine.state(container).await {
                Ok(Some(State::Running { .. })) => {}
                Ok(Some(State::Ended { code, out_of_memory, .. })) => return (code, out_of_memory),
                Ok(None) => return (0, false),
                Err(error) => tracing::debug!(%error, "the engine does not answer, asking again"),
            }
            // The pace of looking.
            tokio::time::sleep(LOOK).await;
        }
    };
    let mut ended = std::pin::pin!(ended);
    let by = tokio::select! {
        (code, out_of_memory) = &mut ended => {
            return if out_of_memory { killed_for_memory(template) } else { exited(code) };
        }
        () = cancel.cancelled() => "The execution was cancelled.",
        () = tokio::time::sleep(timeout) => "The configured timeout was reached.",
    };
    if let Err(error) = machine.stop(container, GRACE).await {
        tracing::warn!(%error, container, "a container does not stop");
    }
    let (code, _) = ended.await;
    if !cancel.is_cancelled() {
        // The trap of this API: no exit code, and words that speak of one.
        return End { code: 4, ..failed(&format!("{by} The container exited with exit code: 0.")) };
    }
    let (exit_code, term_signal) = if code == 137 { (0, 9) } else { (code, 0) };
    End { cancelled: true, code: 1, exit_code, term_signal, ..failed(by) }
}

fn exited(code: i64) -> End {
    if code == 0 {
        return End { succeeded: true, code: 0, system: "Container called exit(0).".into(), ..failed("") };
    }
    let system = format!("Container called exit({code}).");
    End { exit_code: code, code: 2, system, ..failed("The container exited with an error.") }
}

fn killed_for_memory(template: &Value) -> End {
    let limit = memory(template).unwrap_or_default() >> 20;
    let system = format!("Memory limit of {limit} MiB exceeded with {} MiB used.", limit + 1);
    End { term_signal: 9, code: 2, system, ..failed("The container exited with an error.") }
}

/// An end that has only words.
fn failed(message: &str) -> End {
    End {
        at: now(),
        has_task: true,
        cancelled: false,
        succeeded: false,
        exit_code: 0,
        term_signal: 0,
        code: 13,
        message: message.to_owned(),
        system: "Container terminated.".to_owned(),
    }
}
