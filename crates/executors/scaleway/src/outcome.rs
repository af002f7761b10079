//! How a run ended, from the service's state, reason and exit code.

use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::End;

use crate::wire::Run;

/// Whether the exit code may still come: the container ran, and nothing says why there should be none.
pub(crate) fn awaits_exit_code(run: &Run) -> bool {
    let ran = run.started_at.is_some();
    let by_itself =
        matches!(run.reason.as_deref(), None | Some("unknown_reason" | "exited_with_error" | "cancellation"));
    run.exit_code.is_none() && ran && by_itself
}

/// The end of a run that is over.
pub(crate) fn end(run: &Run, log_is_elsewhere: bool) -> End {
    let times = run.started_at.zip(run.terminated_at);
    End {
        outcome: outcome(run),
        run: times.map(|(started, terminated)| (terminated - started).to_std().unwrap_or_default()),
        max_memory_usage: None,
        cpu_usage_percent: None,
        message: run.error_message.clone().unwrap_or_default(),
        log_cut: log_is_elsewhere,
    }
}

fn outcome(run: &Run) -> Outcome {
    let code = run.exit_code.and_then(|code| i32::try_from(code).ok());
    let reason = run.reason.as_deref().unwrap_or("unknown_reason");
    let failed = |class| {
        let said = run.error_message.as_deref().unwrap_or_default();
        Outcome::Failed(Failure::new(class, format!("{} ({reason}) {said}", run.state).trim_end().to_owned()))
    };
    match (run.state.as_str(), reason, code) {
        // The state is the service's own word for exit code 0, where no code has come in time.
        ("succeeded", _, code) => Outcome::Exited(code.unwrap_or(0)),
        (_, "timeout", _) => failed(FailureClass::Timeout),
        (_, "memory_usage_exceeded", code) => with_code(failed(FailureClass::OomKilled), code),
        (_, "storage_usage_exceeded", code) => with_code(failed(FailureClass::ExitNonzero), code),
        (_, "image_not_found", _) if says_denied(run) => failed(FailureClass::ImagePullDenied),
        (_, "image_not_found", _) => failed(FailureClass::ImageNotFound),
        (_, "invalid_request", _) => failed(FailureClass::InvalidSpec),
        (_, "invalid_image" | "secret_disabled" | "secret_not_found" | "application_not_started", _) => {
            failed(FailureClass::LaunchRejected)
        }
        (_, "quota_exceeded", _) => failed(FailureClass::NoCapacity),
        (_, "technical_error", _) => failed(FailureClass::BackendError),
        (_, "cancellation", Some(code)) => Outcome::Exited(code),
        (_, "cancellation", None) => failed(FailureClass::Cancelled),
        // Stopped by the service for reasons of its own: the job had no part in its exit code.
        ("interrupted", "unknown_reason", Some(code)) => Outcome::Exited(code),
        ("interrupted", _, _) => failed(FailureClass::BackendError),
        // An exit code of 0 does not make a failed run a success.
        (_, _, Some(code)) if code != 0 => Outcome::Exited(code),
        (_, "exited_with_error", None) => failed(FailureClass::ExitNonzero),
        _ => failed(FailureClass::BackendError),
    }
}

fn with_code(outcome: Outcome, code: Option<i32>) -> Outcome {
    match outcome {
        Outcome::Failed(failure) => Outcome::Failed(Failure { exit_code: code, ..failure }),
        exited @ Outcome::Exited(_) => exited,
    }
}

/// The service has one reason for an image that it does not find and one that it may not have; the message tells.
fn says_denied(run: &Run) -> bool {
    const DENIED: [&str; 5] = ["denied", "unauthorized", "forbidden", "authentication required", "401"];
    let said = run.error_message.as_deref().unwrap_or_default().to_ascii_lowercase();
    DENIED.iter().any(|word| said.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: &str, reason: Option<&str>, exit_code: Option<i64>) -> Run {
        Run { state: state.into(), reason: reason.map(Into::into), exit_code, ..Run::default() }
    }

    fn class(run: &Run) -> (FailureClass, Option<i32>) {
        match outcome(run) {
            Outcome::Failed(failure) => (failure.class, failure.exit_code),
            exited @ Outcome::Exited(_) => panic!("{run:?} is {exited:?}"),
        }
    }

    #[test]
    fn exit_codes_are_kept() {
        assert_eq!(outcome(&run("succeeded", None, Some(0))), Outcome::Exited(0));
        assert_eq!(outcome(&run("failed", Some("exited_with_error"), Some(3))), Outcome::Exited(3));
        assert_eq!(outcome(&run("failed", None, Some(255))), Outcome::Exited(255));
        assert_eq!(outcome(&run("interrupted", Some("cancellation"), Some(143))), Outcome::Exited(143));
    }

    #[test]
    fn an_end_without_an_exit_code_is_a_failure_of_its_class() {
        use FailureClass::*;
        for (reason, expected) in [
            ("timeout", Timeout),
            ("memory_usage_exceeded", OomKilled),
            ("image_not_found", ImageNotFound),
            ("invalid_image", LaunchRejected),
            ("invalid_request", InvalidSpec),
            ("application_not_started", LaunchRejected),
            ("secret_not_found", LaunchRejected),
            ("quota_exceeded", NoCapacity),
            ("technical_error", BackendError),
            ("exited_with_error", ExitNonzero),
            ("cancellation", Cancelled),
            ("a_reason_of_tomorrow", BackendError),
        ] {
            assert_eq!(class(&run("failed", Some(reason), None)), (expected, None), "{reason}");
        }
        assert_eq!(class(&run("failed", None, None)), (BackendError, None));
        assert_eq!(class(&run("failed", None, Some(0))), (BackendError, None));
        assert_eq!(class(&run("interrupted", Some("preemption"), Some(143))), (BackendError, None));
        assert_eq!(class(&run("failed", Some("memory_usage_exceeded"), Some(137))), (OomKilled, Some(137)));
        let mut denied = run("failed", Some("image_not_found"), None);
        denied.error_message = Some("pull access denied for x".into());
        assert_eq!(class(&denied), (ImagePullDenied, None));
    }

    #[test]
    fn a_missing_exit_code_is_waited_for_where_one_may_come() {
        let ran = |state: &str, reason| Run { started_at: Some(Default::default()), ..run(state, reason, None) };
        assert!(awaits_exit_code(&ran("succeeded", None)));
        assert!(awaits_exit_code(&ran("failed", Some("exited_with_error"))));
        assert!(!awaits_exit_code(&ran("failed", Some("timeout"))));
        assert!(!awaits_exit_code(&run("failed", Some("image_not_found"), None)));
        assert!(!awaits_exit_code(&run("succeeded", None, Some(0))));
    }

    #[test]
    fn the_times_are_the_services_own() {
        let mut run = run("succeeded", None, Some(0));
        assert_eq!(end(&run, false).run, None);
        run.started_at = Some("2026-01-01T00:00:00Z".parse().expect("a time"));
        run.terminated_at = Some("2026-01-01T00:00:02.5Z".parse().expect("a time"));
        assert_eq!(end(&run, false).run, Some(std::time::Duration::from_millis(2_500)));
        assert!(end(&run, true).log_cut);
    }
}
