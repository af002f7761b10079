//! What Cloud Run's three records of an attempt (Job, execution, task) say together. Pure: no request is made here.

use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::Observed;
use google_cloud_run_v2::model::condition::{CommonReason, ExecutionReason, State};
use google_cloud_run_v2::model::execution_reference::CompletionStatus;
use google_cloud_run_v2::model::{Condition, Execution, Job, Task};

use crate::end;

/// The condition in which an execution and a task tell how they ended.
pub(crate) const COMPLETED: &str = "Completed";

/// What a Job alone tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Standing {
    /// This is its state.
    Known(Observed),
    /// Its execution is over, or says something new: the execution tells.
    AskExecution,
}

/// What an execution tells, with its task where there is one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// This is its state.
    Known(Observed),
    /// It is over, and its task, which has the exit code, is not to be seen. What it is if the task never comes.
    TaskMissing(Failure),
    /// The service has trouble of its own with it, and will try again.
    Unclear(String),
}

/// The state of a Job with the one execution that it starts.
pub(crate) fn of_job(job: &Job) -> Standing {
    if job.delete_time.is_some() {
        return Standing::Known(Observed::Gone);
    }
    let Some(reference) = &job.latest_created_execution else {
        return Standing::Known(match failed_start(job) {
            Some(condition) => Observed::Ended(end::never_started(condition)),
            None => Observed::Starting,
        });
    };
    if reference.completion_time.is_some() || reference.delete_time.is_some() {
        return Standing::AskExecution;
    }
    match reference.completion_status {
        CompletionStatus::ExecutionPending => Standing::Known(Observed::Starting),
        CompletionStatus::ExecutionRunning => Standing::Known(Observed::Running),
        _ => Standing::AskExecution,
    }
}

/// Whether the execution of a Job is over, by the Job's own words.
pub(crate) fn has_ended(job: &Job) -> bool {
    job.latest_created_execution.as_ref().is_some_and(|reference| {
        reference.completion_time.is_some()
            || matches!(
                reference.completion_status,
                CompletionStatus::ExecutionSucceeded
                    | CompletionStatus::ExecutionFailed
                    | CompletionStatus::ExecutionCancelled
            )
    })
}

/// Whether a Job is complete and at rest and has never started anything: somebody created it without its token.
pub(crate) fn was_never_started(job: &Job) -> bool {
    job.latest_created_execution.is_none()
        && job.execution_count == 0
        && !job.reconciling
        && job.delete_time.is_none()
        && failed_start(job).is_none()
}

/// Why a Job could not start its execution. Not while the service still tries.
fn failed_start(job: &Job) -> Option<&Condition> {
    let condition = job.terminal_condition.as_ref().filter(|_| !job.reconciling)?;
    let tries_again = matches!(
        condition.reason(),
        Some(CommonReason::ImmediateRetry | CommonReason::PostponedRetry | CommonReason::WaitingForOperation)
    );
    (condition.state == State::ConditionFailed && !tries_again).then_some(condition)
}

/// The state of an execution, and of its task if that is known.
pub(crate) fn of_execution(execution: &Execution, task: Option<&Task>) -> Verdict {
    let running = Verdict::Known(if execution.start_time.is_some() || execution.running_count > 0 {
        Observed::Running
    } else {
        Observed::Starting
    });
    let Some(completed) = completed(&execution.conditions) else { return running };
    if !is_over(completed) {
        return running;
    }
    match completed.execution_reason() {
        Some(ExecutionReason::JobStatusServicePollingError) => return Verdict::Unclear(completed.message.clone()),
        // Not over, whatever the state says.
        Some(ExecutionReason::Cancelling | ExecutionReason::DelayedStartPending) => return running,
        _ => {}
    }
    match task {
        Some(task) if self::completed(&task.conditions).is_some_and(is_over) => {
            Verdict::Known(Observed::Ended(end::of(execution, task)))
        }
        Some(_) => Verdict::TaskMissing(end::without_task(completed)),
        None if has_task(execution, completed) => Verdict::TaskMissing(end::without_task(completed)),
        None => Verdict::Known(Observed::Ended(end::never_started(completed))),
    }
}

/// Whether there must be a task, by the execution's own counts.
fn has_task(execution: &Execution, completed: &Condition) -> bool {
    let counted = execution.succeeded_count + execution.failed_count + execution.cancelled_count > 0;
    counted
        || completed.state == State::ConditionSucceeded
        || completed.execution_reason() == Some(&ExecutionReason::NonZeroExitCode)
}

/// The condition that tells the end, if there is one.
pub(crate) fn completed(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.r#type == COMPLETED)
}

pub(crate) fn is_over(condition: &Condition) -> bool {
    matches!(condition.state, State::ConditionSucceeded | State::ConditionFailed)
}

/// The class of a start that failed, by the service's reason or else by its words.
pub(crate) fn class_of_start(condition: &Condition) -> FailureClass {
    let text = condition.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match (condition.reason(), condition.execution_reason()) {
        (Some(CommonReason::ContainerMissing), _) => FailureClass::ImageNotFound,
        (
            Some(
                CommonReason::ContainerPermissionDenied
                | CommonReason::ContainerImageUnauthorized
                | CommonReason::ContainerImageAuthorizationCheckFailed,
            ),
            _,
        ) => FailureClass::ImagePullDenied,
        (_, Some(ExecutionReason::Cancelled | ExecutionReason::Cancelling)) => FailureClass::Cancelled,
        (_, Some(ExecutionReason::Deleted)) => FailureClass::Lost,
        _ => match crate::error::image_trouble(&text) {
            Some(class) => class,
            None if says(&["exec failed", "failed to start", "invalid command", "executable file not found"]) => {
                FailureClass::LaunchRejected
            }
            None if crate::error::says_no_room(&text) => FailureClass::NoCapacity,
            None => FailureClass::BackendError,
        },
    }
}

#[cfg(test)]
mod tests;
