//! How a task ended.

use std::time::Duration;

use aws_sdk_ecs::types::{Container, Task, TaskStopCode};
use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::End;

use crate::overrides::CONTAINER;
use crate::reasons;

/// The end of a task that is `STOPPED`.
pub(crate) fn of(task: &Task) -> End {
    let container = task.containers().iter().find(|container| container.name() == Some(CONTAINER));
    End {
        outcome: outcome(task, container),
        run: run(task),
        max_memory_usage: None,
        cpu_usage_percent: None,
        message: said(task, container),
        log_cut: false,
    }
}

/// Source: "Stopped tasks error codes", Amazon ECS Developer Guide. The exit code is the job's only if nothing from
/// outside ended it: who is interrupted may well end with 0 on SIGTERM, and has not done its work.
fn outcome(task: &Task, container: Option<&Container>) -> Outcome {
    let text = said(task, container);
    let failed = |class, code| {
        let message =
            if text.is_empty() { "the task stopped, and ECS does not say why".to_owned() } else { text.clone() };
        Outcome::Failed(Failure { exit_code: code, ..Failure::new(class, message) })
    };
    if is_interrupted(task) {
        return failed(FailureClass::BackendError, None);
    }
    let code = container.and_then(Container::exit_code);
    let is_oom = container.and_then(Container::reason).is_some_and(|reason| reason.contains("OutOfMemoryError"));
    match code {
        // A container that lost one process to its limit and still ended with 0 has coped.
        Some(code) if is_oom && code != 0 => failed(FailureClass::OomKilled, Some(code)),
        // A container that was never started has no exit code, whatever is written there.
        Some(code) if task.stop_code() != Some(&TaskStopCode::TaskFailedToStart) => Outcome::Exited(code),
        _ => failed(reasons::without_exit_code(&text), None),
    }
}

/// Whether the machine was taken away under the task. Source: "AWS Fargate Spot termination notices" and "Task
/// maintenance for AWS Fargate", Amazon ECS Developer Guide.
fn is_interrupted(task: &Task) -> bool {
    let by_code = matches!(task.stop_code(), Some(TaskStopCode::SpotInterruption | TaskStopCode::TerminationNotice))
        || task.stop_code().is_some_and(|code| code.as_str() == "InfrastructureHealth");
    let reason = task.stopped_reason().unwrap_or_default().to_ascii_lowercase();
    let by_reason = ["spot interruption", "spotinterruption", "host ec2 (instance", "maintenance on the underlying"];
    by_code || by_reason.iter().any(|words| reason.contains(words))
}

/// By ECS' own times. What never started ran for no time.
fn run(task: &Task) -> Option<Duration> {
    let (started, stopped) = (task.started_at()?, task.execution_stopped_at().or(task.stopped_at())?);
    let millis = stopped.to_millis().ok()?.saturating_sub(started.to_millis().ok()?);
    Some(Duration::from_millis(u64::try_from(millis).unwrap_or_default()))
}

/// All that ECS says: code, reason, the container's reason.
fn said(task: &Task, container: Option<&Container>) -> String {
    let code = task.stop_code().map(TaskStopCode::as_str);
    let parts = [code, task.stopped_reason(), container.and_then(Container::reason)];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::primitives::DateTime;

    use super::*;

    fn task(code: &str, reason: &str, container: Option<(Option<i32>, Option<&str>)>) -> Task {
        let container = container.map(|(code, reason)| {
            let reason = reason.map(str::to_owned);
            Container::builder().name(CONTAINER).set_exit_code(code).set_reason(reason).build()
        });
        Task::builder()
            .set_stop_code((!code.is_empty()).then(|| code.into()))
            .stopped_reason(reason)
            .set_containers(container.map(|container| vec![container]))
            .build()
    }

    /// "Stopped tasks error codes" and "Stopped tasks error messages", Amazon ECS Developer Guide.
    #[test]
    fn every_stop_code_has_its_outcome() {
        let exited = "Essential container in task exited";
        let oom = "OutOfMemoryError: Container killed due to memory usage";
        let pull = "CannotPullContainerError: pull image manifest has been retried 1 time(s): x: not found";
        let spot = "Your Spot Task was interrupted.";
        let maintenance = "ECS is performing maintenance on the underlying infrastructure hosting the task.";
        let failed = |class| Err((class, None));
        let table = [
            ("EssentialContainerExited", exited, Some((Some(0), None)), Ok(0)),
            ("EssentialContainerExited", exited, Some((Some(3), None)), Ok(3)),
            ("EssentialContainerExited", exited, Some((Some(137), None)), Ok(137)),
            (
                "EssentialContainerExited",
                exited,
                Some((Some(137), Some(oom))),
                Err((FailureClass::OomKilled, Some(137))),
            ),
            ("EssentialContainerExited", exited, Some((Some(0), Some(oom))), Ok(0)),
            ("EssentialContainerExited", exited, Some((None, None)), failed(FailureClass::BackendError)),
            ("UserInitiated", "Stopped by Gantry", Some((Some(143), None)), Ok(143)),
            ("UserInitiated", "Stopped by Gantry", Some((None, None)), failed(FailureClass::BackendError)),
            ("UserInitiated", "Stopped by Gantry", None, failed(FailureClass::BackendError)),
            ("TaskFailedToStart", pull, Some((None, None)), failed(FailureClass::ImageNotFound)),
            ("TaskFailedToStart", pull, None, failed(FailureClass::ImageNotFound)),
            (
                "TaskFailedToStart",
                "Task failed to start",
                Some((None, Some("CannotStartContainerError: x"))),
                failed(FailureClass::LaunchRejected),
            ),
            ("TaskFailedToStart", "Task failed to start", Some((Some(0), None)), failed(FailureClass::BackendError)),
            ("TaskFailedToStart", "Capacity is unavailable at this time", None, failed(FailureClass::NoCapacity)),
            ("SpotInterruption", spot, Some((Some(143), None)), failed(FailureClass::BackendError)),
            ("SpotInterruption", spot, Some((Some(0), None)), failed(FailureClass::BackendError)),
            (
                "TerminationNotice",
                "Fargate terminates the task",
                Some((Some(137), None)),
                failed(FailureClass::BackendError),
            ),
            ("InfrastructureHealth", "", Some((Some(137), None)), failed(FailureClass::BackendError)),
            ("ServiceSchedulerInitiated", "by hand", Some((Some(143), None)), Ok(143)),
            ("", maintenance, Some((Some(143), None)), failed(FailureClass::BackendError)),
            ("", "Host EC2 (instance i-1) terminated.", None, failed(FailureClass::BackendError)),
            ("", "", Some((Some(0), None)), Ok(0)),
            ("", "", None, failed(FailureClass::BackendError)),
        ];
        for (code, reason, container, expected) in table {
            let got = match of(&task(code, reason, container)).outcome {
                Outcome::Exited(code) => Ok(code),
                Outcome::Failed(failure) => {
                    assert!(!failure.message.is_empty());
                    Err((failure.class, failure.exit_code))
                }
            };
            assert_eq!(got, expected, "{code} {reason} {container:?}");
        }
    }

    #[test]
    fn a_run_is_from_its_start_to_the_containers_end() {
        let at = DateTime::from_secs;
        let ended = Task::builder().stopped_at(at(130)).build();
        assert_eq!(run(&ended), None, "it never started");
        let ended = Task::builder().started_at(at(100)).stopped_at(at(130)).build();
        assert_eq!(run(&ended), Some(Duration::from_secs(30)));
        let ended = Task::builder().started_at(at(100)).execution_stopped_at(at(110)).stopped_at(at(130)).build();
        assert_eq!(run(&ended), Some(Duration::from_secs(10)));
        let ended = Task::builder().started_at(at(100)).stopped_at(at(99)).build();
        assert_eq!(run(&ended), Some(Duration::ZERO), "an earlier end is no run at all");
    }
}
