//! Tables of what Cloud Run says, in its own JSON, and what it means.

use FailureClass::{
    BackendError, Cancelled, ImageNotFound, ImagePullDenied, LaunchRejected, Lost, NoCapacity, OomKilled, Timeout,
};
use gantry_core::state::Outcome;
use serde_json::{Value, json};

use super::*;

fn job(value: Value) -> Job {
    serde_json::from_value(value).expect("a Job")
}

fn execution(value: Value) -> Execution {
    serde_json::from_value(value).expect("an execution")
}

fn task(value: Value) -> Task {
    serde_json::from_value(value).expect("a task")
}

/// An execution whose last condition is this.
fn ended(state: &str, reason: Option<&str>, message: &str, failed: i32) -> Execution {
    let mut condition = json!({ "type": "Completed", "state": state, "message": message });
    if let Some(reason) = reason {
        condition["executionReason"] = json!(reason);
    }
    let conditions = json!([{ "type": "Started", "state": "CONDITION_SUCCEEDED" }, condition]);
    execution(json!({ "startTime": "2026-01-01T00:00:00Z", "failedCount": failed, "conditions": conditions }))
}

fn of_task(state: &str, result: Value) -> Task {
    let conditions = json!([{ "type": "Completed", "state": state }]);
    task(json!({
        "conditions": conditions, "lastAttemptResult": result,
        "startTime": "2026-01-01T00:00:00.5Z", "completionTime": "2026-01-01T00:00:02Z",
    }))
}

fn class(verdict: &Verdict) -> Option<FailureClass> {
    match verdict {
        Verdict::Known(Observed::Ended(end)) => match &end.outcome {
            Outcome::Failed(failure) => Some(failure.class),
            Outcome::Exited(_) => None,
        },
        _ => None,
    }
}

#[test]
fn a_job_tells_its_executions_state() {
    let reference = |status: &str| json!({ "latestCreatedExecution": { "name": "e", "completionStatus": status } });
    let failed = |more: Value| {
        let mut condition = json!({ "type": "Ready", "state": "CONDITION_FAILED" });
        condition.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        json!({ "terminalCondition": condition })
    };
    for (given, expected) in [
        (json!({ "reconciling": true }), Standing::Known(Observed::Starting)),
        (json!({}), Standing::Known(Observed::Starting)),
        (reference("EXECUTION_PENDING"), Standing::Known(Observed::Starting)),
        (reference("EXECUTION_RUNNING"), Standing::Known(Observed::Running)),
        // The service answers with numbers where a client asks for them.
        (json!({ "latestCreatedExecution": { "completionStatus": 3 } }), Standing::Known(Observed::Running)),
        (reference("EXECUTION_SUCCEEDED"), Standing::AskExecution),
        (reference("EXECUTION_FAILED"), Standing::AskExecution),
        (reference("EXECUTION_CANCELLED"), Standing::AskExecution),
        (reference("EXECUTION_SUSPENDED"), Standing::AskExecution),
        (json!({ "latestCreatedExecution": { "name": "e" } }), Standing::AskExecution),
        (json!({ "deleteTime": "2026-01-01T00:00:00Z" }), Standing::Known(Observed::Gone)),
        (failed(json!({ "reason": "POSTPONED_RETRY" })), Standing::Known(Observed::Starting)),
    ] {
        assert_eq!(of_job(&job(given.clone())), expected, "{given}");
    }
    for (more, expected) in [
        (json!({ "reason": "CONTAINER_MISSING", "message": "Image 'i' not found." }), ImageNotFound),
        (json!({ "reason": "CONTAINER_PERMISSION_DENIED" }), ImagePullDenied),
        (json!({ "reason": "UNKNOWN", "message": "Image 'i' not found." }), ImageNotFound),
        (json!({ "message": "Quota exceeded for total allowable CPU per project per region." }), NoCapacity),
        (json!({ "reason": "INTERNAL", "message": "An internal error occurred" }), BackendError),
        (json!({ "reason": "VPC_NETWORK_NOT_FOUND" }), BackendError),
    ] {
        let Standing::Known(Observed::Ended(end)) = of_job(&job(failed(more.clone()))) else { panic!("over: {more}") };
        let Outcome::Failed(failure) = end.outcome else { panic!("nothing ran: {more}") };
        assert_eq!((failure.class, failure.exit_code, end.run), (expected, None, None), "{more}");
    }
}

#[test]
fn only_a_job_at_rest_was_never_started() {
    assert!(was_never_started(&job(json!({ "terminalCondition": { "state": "CONDITION_SUCCEEDED" } }))));
    for given in [
        json!({ "reconciling": true }),
        json!({ "executionCount": 1 }),
        json!({ "latestCreatedExecution": { "name": "e" } }),
        json!({ "terminalCondition": { "state": "CONDITION_FAILED" } }),
        json!({ "deleteTime": "2026-01-01T00:00:00Z" }),
    ] {
        assert!(!was_never_started(&job(given.clone())), "{given}");
    }
}

#[test]
fn an_execution_that_is_not_over_runs_or_starts() {
    let with = |state: &str, reason: &str| json!([{ "type": "Completed", "state": state, "executionReason": reason }]);
    let at = "2026-01-01T00:00:00Z";
    for (given, expected) in [
        (json!({}), Observed::Starting),
        (json!({ "startTime": at }), Observed::Running),
        (json!({ "runningCount": 1 }), Observed::Running),
        (json!({ "conditions": with("CONDITION_PENDING", "DELAYED_START_PENDING") }), Observed::Starting),
        (json!({ "startTime": at, "conditions": with("CONDITION_RECONCILING", "CANCELLING") }), Observed::Running),
        (json!({ "startTime": at, "conditions": with("CONDITION_FAILED", "CANCELLING") }), Observed::Running),
    ] {
        assert_eq!(of_execution(&execution(given.clone()), None), Verdict::Known(expected), "{given}");
    }
    let trouble = ended("CONDITION_FAILED", Some("JOB_STATUS_SERVICE_POLLING_ERROR"), "later", 0);
    assert_eq!(of_execution(&trouble, None), Verdict::Unclear("later".into()));
}

#[test]
fn an_exit_code_is_the_tasks_own() {
    let nonzero = ended("CONDITION_FAILED", Some("NON_ZERO_EXIT_CODE"), "Task e-task0 failed", 1);
    let cancelled = ended("CONDITION_FAILED", Some("CANCELLED"), "Cancelled by user", 0);
    let succeeded = ended("CONDITION_SUCCEEDED", None, "", 0);
    for (execution, state, result, code) in [
        (&succeeded, "CONDITION_SUCCEEDED", json!({}), 0),
        (&succeeded, "CONDITION_SUCCEEDED", json!({ "status": {} }), 0),
        (&nonzero, "CONDITION_FAILED", json!({ "exitCode": 3, "status": { "code": 2 } }), 3),
        (&nonzero, "CONDITION_FAILED", json!({ "termSignal": 9 }), 137),
        (&cancelled, "CONDITION_FAILED", json!({ "exitCode": 143 }), 143),
        (&cancelled, "CONDITION_FAILED", json!({ "termSignal": 15 }), 143),
    ] {
        let verdict = of_execution(execution, Some(&of_task(state, result.clone())));
        let Verdict::Known(Observed::Ended(end)) = verdict else { panic!("{result}: {verdict:?}") };
        assert_eq!(end.outcome, Outcome::Exited(code), "{result}");
        assert_eq!(end.run, Some(std::time::Duration::from_millis(1500)));
    }
}

#[test]
fn an_end_without_a_code_is_never_zero() {
    let plain = |message: &str| ended("CONDITION_FAILED", None, message, 1);
    for (execution, result, expected) in [
        // The trap: the message speaks of exit code 0.
        (plain("The configured timeout was reached. exit code: 0"), json!({}), Timeout),
        (plain(""), json!({ "status": { "code": 4, "message": "exit code 0" } }), Timeout),
        (plain("Memory limit of 512 MiB exceeded with 530 MiB used."), json!({ "termSignal": 9 }), OomKilled),
        (plain("Memory limit of 512 MiB exceeded with 530 MiB used."), json!({}), OomKilled),
        (plain("The container failed to start: executable file not found"), json!({}), LaunchRejected),
        (plain("Internal error"), json!({}), BackendError),
        (plain(""), json!(null), BackendError),
        (ended("CONDITION_FAILED", Some("CANCELLED"), "", 0), json!({}), Cancelled),
        (ended("CONDITION_FAILED", Some("DELETED"), "", 0), json!({}), Lost),
    ] {
        let verdict = of_execution(&execution, Some(&of_task("CONDITION_FAILED", result.clone())));
        assert_eq!(class(&verdict), Some(expected), "{execution:?} {result}");
    }
}

#[test]
fn an_execution_without_a_task_never_started_or_is_asked_again() {
    for (execution, expected) in [
        (ended("CONDITION_FAILED", None, "Resources were not available: capacity", 0), NoCapacity),
        (ended("CONDITION_FAILED", Some("CANCELLED"), "", 0), Cancelled),
        (ended("CONDITION_FAILED", Some("DELETED"), "", 0), Lost),
        (ended("CONDITION_FAILED", None, "An internal error", 0), BackendError),
    ] {
        assert_eq!(class(&of_execution(&execution, None)), Some(expected), "{execution:?}");
    }
    for execution in [
        ended("CONDITION_FAILED", Some("NON_ZERO_EXIT_CODE"), "", 0),
        ended("CONDITION_FAILED", None, "", 1),
        ended("CONDITION_SUCCEEDED", None, "", 0),
    ] {
        assert!(matches!(of_execution(&execution, None), Verdict::TaskMissing(_)), "{execution:?}");
        let unfinished = of_task("CONDITION_RECONCILING", json!({}));
        assert!(matches!(of_execution(&execution, Some(&unfinished)), Verdict::TaskMissing(_)));
    }
}

#[test]
fn a_kill_is_explained_by_the_systems_log() {
    let killed = |execution: &Execution| {
        let verdict = of_execution(execution, Some(&of_task("CONDITION_FAILED", json!({ "termSignal": 9 }))));
        let Verdict::Known(Observed::Ended(end)) = verdict else { panic!("{verdict:?}") };
        end
    };
    let by_somebody = ended("CONDITION_FAILED", Some("CANCELLED"), "", 0);
    assert!(!end::is_unexplained_kill(&killed(&by_somebody), &by_somebody));
    let by_nobody = ended("CONDITION_FAILED", Some("NON_ZERO_EXIT_CODE"), "", 1);
    assert!(end::is_unexplained_kill(&killed(&by_nobody), &by_nobody));
    let said = "Container terminated on signal 9.\nMemory limit of 512 MiB exceeded with 530 MiB used.";
    let explained = end::explained(killed(&by_nobody), said);
    let Outcome::Failed(failure) = explained.outcome else { panic!("killed at its limit") };
    assert_eq!((failure.class, failure.exit_code), (OomKilled, Some(137)));
    assert!(failure.message.starts_with("Memory limit"), "{failure}");
    let other = end::explained(killed(&by_nobody), "Container terminated on signal 9.");
    assert_eq!(other.outcome, Outcome::Exited(137));
}
