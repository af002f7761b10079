//! What a process that stands for a job ends with.

use gantry_api::wire::{Job, LogEnd};
use gantry_core::{FailureClass, Status};

/// The command failed; for what concerns the job itself see [`End::code`].
pub(crate) const ERROR: u8 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: u8 = 2;
/// The job ran, or waited, too long; as `timeout` has it.
pub(crate) const TIMEOUT: u8 = 124;
/// The job has no exit code; as `docker run` has it.
pub(crate) const UNKNOWN: u8 = 125;
/// The job was cancelled; as a shell says of what was interrupted.
pub(crate) const INTERRUPTED: u8 = 130;

/// How a job ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// Where it stands.
    pub(crate) status: Status,
    /// Of the last attempt, if it had one.
    pub(crate) exit_code: Option<i32>,
    /// Why it did not complete.
    pub(crate) failure_class: Option<FailureClass>,
    /// The same in words.
    pub(crate) error_message: Option<&'a str>,
}

impl<'a> From<&'a LogEnd> for End<'a> {
    fn from(end: &'a LogEnd) -> Self {
        let LogEnd { status, exit_code, failure_class, error_message } = end;
        Self {
            status: *status,
            exit_code: *exit_code,
            failure_class: *failure_class,
            error_message: error_message.as_deref(),
        }
    }
}

impl<'a> From<&'a Job> for End<'a> {
    fn from(job: &'a Job) -> Self {
        Self {
            status: job.status,
            exit_code: job.exit_code,
            failure_class: job.failure_class,
            error_message: job.error_message.as_deref(),
        }
    }
}

impl End<'_> {
    /// The exit code for this end: the container's own, but for jobs that were stopped, which have whatever
    /// code the stop gave them.
    pub(crate) fn code(&self) -> u8 {
        match (self.status, self.exit_code) {
            (Status::Completed, _) => 0,
            (Status::Cancelled, _) => INTERRUPTED,
            (Status::Timeout, _) => TIMEOUT,
            // A job that failed and whose container says 0 must not look like a success.
            (_, None | Some(0)) => UNKNOWN,
            (_, Some(code)) => u8::try_from(code).unwrap_or(UNKNOWN),
        }
    }

    /// Why the job did not complete, unless the container has said so itself by its exit code.
    pub(crate) fn reason(&self) -> Option<String> {
        let class = self.failure_class.filter(|class| *class != FailureClass::ExitNonzero)?;
        Some(match self.error_message {
            Some(message) => format!("{class}: {message}"),
            None => class.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: Status, exit_code: Option<i32>) -> End<'static> {
        End { status, exit_code, failure_class: None, error_message: None }
    }

    #[test]
    fn a_job_that_ended_by_itself_has_the_containers_code() {
        assert_eq!(end(Status::Completed, Some(0)).code(), 0);
        assert_eq!(end(Status::Failed, Some(3)).code(), 3);
        assert_eq!(end(Status::Failed, Some(137)).code(), 137);
    }

    #[test]
    fn a_job_that_was_stopped_has_a_code_of_its_own() {
        for exit_code in [None, Some(0), Some(137), Some(143)] {
            assert_eq!(end(Status::Cancelled, exit_code).code(), 130);
            assert_eq!(end(Status::Timeout, exit_code).code(), 124);
        }
    }

    #[test]
    fn a_failure_never_looks_like_a_success() {
        for exit_code in [None, Some(0), Some(256), Some(-1)] {
            assert_eq!(end(Status::Failed, exit_code).code(), 125, "{exit_code:?}");
        }
    }

    #[test]
    fn the_reason_is_told_unless_the_exit_code_is_the_reason() {
        let failed =
            |class, message| End { failure_class: Some(class), error_message: message, ..end(Status::Failed, None) };
        assert_eq!(failed(FailureClass::ExitNonzero, Some("code 3")).reason(), None);
        assert_eq!(failed(FailureClass::Lost, Some("gone")).reason().as_deref(), Some("lost: gone"));
        assert_eq!(failed(FailureClass::OomKilled, None).reason().as_deref(), Some("oom_killed"));
        assert_eq!(end(Status::Completed, Some(0)).reason(), None);
    }
}
