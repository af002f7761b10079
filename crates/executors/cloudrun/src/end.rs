//! How a container ended: its exit code, or why there is none.
//!
//! The trap: `exitCode` 0 is left out of an answer, and so is the code of a task that has none. Only a task whose own
//! condition says that it succeeded has ended with 0.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::End;
use google_cloud_gax::error::rpc::Code;
use google_cloud_run_v2::model::condition::{ExecutionReason, State};
use google_cloud_run_v2::model::{Condition, Execution, Task};
use google_cloud_wkt::Timestamp;

use crate::state;

/// SIGKILL, as an exit code.
const KILLED: i32 = 137;

/// The end of a task that is over.
pub(crate) fn of(execution: &Execution, task: &Task) -> End {
    let said = Said::by(execution, task);
    End {
        outcome: said.outcome(task),
        run: ran_for(task.start_time.as_ref(), task.completion_time.as_ref()),
        max_memory_usage: None,
        cpu_usage_percent: None,
        message: said.message,
        log_cut: false,
    }
}

/// The end of what never came to run.
pub(crate) fn never_started(condition: &Condition) -> End {
    let class = state::class_of_start(condition);
    let message = match condition.message.as_str() {
        "" => "Cloud Run could not start the container, and does not say why".to_owned(),
        said => format!("Cloud Run could not start the container: {said}"),
    };
    bare(Failure::new(class, message))
}

/// Whether something killed it, and nobody said what: the system's own log may.
pub(crate) fn is_unexplained_kill(end: &End, execution: &Execution) -> bool {
    let cancelled = state::completed(&execution.conditions)
        .is_some_and(|completed| completed.execution_reason() == Some(&ExecutionReason::Cancelled));
    end.outcome == Outcome::Exited(KILLED) && !cancelled
}

/// The same end with what the system's log says.
pub(crate) fn explained(end: End, said: &str) -> End {
    if !tells_out_of_memory(said) {
        return end;
    }
    let line = said.lines().find(|line| tells_out_of_memory(line)).unwrap_or(said);
    let failure = Failure { exit_code: Some(KILLED), ..Failure::new(FailureClass::OomKilled, line) };
    End { outcome: Outcome::Failed(failure), ..end }
}

/// An end without any numbers.
pub(crate) fn bare(failure: Failure) -> End {
    End::bare(Outcome::Failed(failure))
}

/// What an execution that is over comes to if its task, which has the exit code, is never seen.
pub(crate) fn without_task(completed: &Condition) -> Failure {
    let message = format!("the execution is over, and nothing is known of its task's exit code: {}", completed.message);
    match completed.execution_reason() {
        Some(ExecutionReason::Cancelled) => Failure::new(FailureClass::Cancelled, message),
        Some(ExecutionReason::Deleted) => Failure::new(FailureClass::Lost, message),
        _ => Failure::new(FailureClass::BackendError, message),
    }
}

/// What the service says in words and codes about an end.
struct Said {
    message: String,
    /// The codes' reasons, of execution and task.
    reasons: Vec<ExecutionReason>,
    succeeded: bool,
    /// The status of the attempt.
    code: Option<i32>,
}

impl Said {
    fn by(execution: &Execution, task: &Task) -> Self {
        let conditions =
            || execution.conditions.iter().chain(&task.conditions).filter(|one| one.r#type == state::COMPLETED);
        let status = task.last_attempt_result.as_ref().and_then(|result| result.status.as_ref());
        let texts = conditions().map(|one| one.message.as_str()).chain(status.map(|status| status.message.as_str()));
        let texts: BTreeSet<&str> = texts.filter(|text| !text.is_empty()).collect();
        Self {
            message: texts.into_iter().collect::<Vec<_>>().join("\n"),
            reasons: conditions().filter_map(|one| one.execution_reason().cloned()).collect(),
            succeeded: state::completed(&task.conditions).is_some_and(|one| one.state == State::ConditionSucceeded),
            code: status.map(|status| status.code),
        }
    }

    fn outcome(&self, task: &Task) -> Outcome {
        let (code, signal) =
            task.last_attempt_result.as_ref().map_or((0, 0), |result| (result.exit_code, result.term_signal));
        // A signal is 128 and its number, as a shell has it.
        let code = match (code, signal) {
            (0, 0) => None,
            (0, signal) => Some(128 + signal),
            (code, _) => Some(code),
        };
        if self.succeeded {
            return Outcome::Exited(code.unwrap_or(0));
        }
        if tells_out_of_memory(&self.message) {
            let failure = Failure::new(FailureClass::OomKilled, &self.message);
            return Outcome::Failed(Failure { exit_code: code, ..failure });
        }
        if self.tells_timeout() {
            return Outcome::Failed(Failure::new(
                FailureClass::Timeout,
                format!("Cloud Run's own timeout: {}", self.message),
            ));
        }
        match code {
            Some(code) => Outcome::Exited(code),
            None => Outcome::Failed(self.failure()),
        }
    }

    fn tells_timeout(&self) -> bool {
        let text = self.message.to_lowercase();
        self.code == Some(Code::DeadlineExceeded as i32)
            || ["timeout was reached", "timed out", "timeout exceeded", "exceeded the timeout"]
                .iter()
                .any(|words| text.contains(words))
    }

    /// An end without a code.
    fn failure(&self) -> Failure {
        let class = if self.reasons.contains(&ExecutionReason::Cancelled) {
            FailureClass::Cancelled
        } else if self.reasons.contains(&ExecutionReason::Deleted) {
            FailureClass::Lost
        } else {
            let condition = Condition::new().set_message(&self.message);
            state::class_of_start(&condition)
        };
        Failure::new(class, format!("the container ended without an exit code: {}", self.message))
    }
}

/// "Memory limit of 512 MiB exceeded with 530 MiB used.", and other words for it.
fn tells_out_of_memory(text: &str) -> bool {
    let text = text.to_lowercase();
    (text.contains("memory limit") && text.contains("exceeded"))
        || text.contains("memory limit was reached")
        || text.contains("out of memory")
        || text.contains("out-of-memory")
}

fn ran_for(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Option<Duration> {
    let nanos = |time: &Timestamp| i128::from(time.seconds()) * 1_000_000_000 + i128::from(time.nanos());
    let ran = (nanos(end?) - nanos(start?)).max(0);
    Some(Duration::from_nanos(u64::try_from(ran).unwrap_or(u64::MAX)))
}
