//! What the client's errors mean.

use std::error::Error as _;

use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::LaunchError;
use google_cloud_gax::error::Error;
use google_cloud_gax::error::rpc::{Code, Status, StatusDetails};

/// Whether the service answered with this code.
pub(crate) fn is(error: &Error, code: Code) -> bool {
    error.status().is_some_and(|status| status.code == code)
}

/// Whether the service itself says that there is no such thing.
pub(crate) fn not_found(error: &Error) -> bool {
    // By its own words: something between us and the service has a 404 of its own.
    is(error, Code::NotFound)
}

/// Whether something has changed since it was read: look again.
pub(crate) fn changed_meanwhile(error: &Error) -> bool {
    is(error, Code::Aborted)
}

/// Whether this is about one request and not about the way to the service: the next one may fare better.
pub(crate) fn is_answer(error: &Error) -> bool {
    error.status().is_some() || error.http_status_code().is_some()
}

/// The failure of a request that did not decide anything about a container.
pub(crate) fn failure(what: &str, error: &Error) -> Failure {
    let class = match (error.status(), error.http_status_code()) {
        (Some(status), _) if status.code == Code::ResourceExhausted => exhausted(status),
        (_, Some(429)) => FailureClass::Throttled,
        (Some(_), _) | (_, Some(_)) => FailureClass::BackendError,
        _ if error.is_authentication() && !error.is_transient_and_before_rpc() => FailureClass::BackendError,
        _ if error.is_connect() || error.is_io() || error.is_timeout() || error.is_transient_and_before_rpc() => {
            FailureClass::HostUnreachable
        }
        _ => FailureClass::BackendError,
    };
    Failure::new(class, format!("{what}: {}", text(error)))
}

/// What a launch that gave no execution came to.
///
/// An answer of class 4 is a refusal: the request was looked at and not done. After any other (5xx, one that cannot be
/// read, none at all) it may have been: `UNAVAILABLE` too, which Google calls "not always safe to retry".
pub(crate) fn launch(what: &str, error: &Error) -> LaunchError {
    let not_launched = |class| LaunchError::NotLaunched(Failure::new(class, format!("{what}: {}", text(error))));
    match error.http_status_code() {
        // 408 and 499 are about time, and 409 is about somebody else's change.
        Some(408 | 409 | 499) => maybe(what, error),
        Some(429) => not_launched(error.status().map_or(FailureClass::Throttled, exhausted)),
        Some(400..=499) => not_launched(error.status().map_or(FailureClass::BackendError, refused)),
        Some(_) => maybe(what, error),
        None if error.is_authentication() && !error.is_transient_and_before_rpc() => {
            not_launched(FailureClass::BackendError)
        }
        None if error.is_connect() || error.is_transient_and_before_rpc() => {
            not_launched(FailureClass::HostUnreachable)
        }
        // Neither was sent: it could not be written down.
        None if error.is_binding() || error.is_serialization() => not_launched(FailureClass::InvalidSpec),
        None => maybe(what, error),
    }
}

fn maybe(what: &str, error: &Error) -> LaunchError {
    LaunchError::MaybeLaunched(format!("{what}: {}", text(error)))
}

/// Whose fault a refusal is: the job's, if what it names cannot be run; else the place's, which another one may not
/// share.
fn refused(status: &Status) -> FailureClass {
    match (status.code, image_trouble(&status.message)) {
        (_, Some(class)) => class,
        (Code::InvalidArgument | Code::OutOfRange, None) => FailureClass::InvalidSpec,
        (Code::ResourceExhausted, None) => exhausted(status),
        // The project, the region, an account, a permission, a service that is not enabled.
        _ => FailureClass::BackendError,
    }
}

/// Two things wear one code: too many requests in a minute, and no room for one more container. The details tell, or
/// else the words; without either it is the first, which costs no more than a pause.
pub(crate) fn exhausted(status: &Status) -> FailureClass {
    for detail in &status.details {
        match detail {
            StatusDetails::ErrorInfo(info) if info.reason == "RATE_LIMIT_EXCEEDED" => {
                // The reason of every quota. Those that count requests do it by the minute.
                let quota = info.metadata.get("quota_limit").or_else(|| info.metadata.get("quota_unit"));
                return match quota {
                    Some(quota) if !is_rate(quota) => FailureClass::NoCapacity,
                    _ => FailureClass::Throttled,
                };
            }
            StatusDetails::QuotaFailure(failure) if !failure.violations.is_empty() => {
                let rate =
                    failure.violations.iter().any(|quota| is_rate(&quota.subject) || is_rate(&quota.description));
                return if rate { FailureClass::Throttled } else { FailureClass::NoCapacity };
            }
            _ => {}
        }
    }
    let is_room = !is_rate(&status.message) && says_no_room(&status.message);
    if is_room { FailureClass::NoCapacity } else { FailureClass::Throttled }
}

fn is_rate(text: &str) -> bool {
    let text = text.to_lowercase();
    ["perminute", "per minute", "persecond", "per second", "/min", "requests"].iter().any(|word| text.contains(word))
}

/// Whether a text of the service says that the region has no room for this project.
pub(crate) fn says_no_room(text: &str) -> bool {
    let text = text.to_lowercase();
    text.contains("quota") || text.contains("allowable") || text.contains("capacity") || text.contains("exhausted")
}

/// What a text of the service says about an image, if anything.
pub(crate) fn image_trouble(text: &str) -> Option<FailureClass> {
    let text = text.to_lowercase();
    if !text.contains("image") {
        return None;
    }
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["permission", "denied", "unauthorized", "not authorized", "forbidden"]) {
        return Some(FailureClass::ImagePullDenied);
    }
    says(&["not found", "does not exist", "manifest unknown"]).then_some(FailureClass::ImageNotFound)
}

/// The error with all its causes: the client's own text often ends before the interesting part.
pub(crate) fn text(error: &Error) -> String {
    if let Some(status) = error.status() {
        return format!("{} ({})", status.message, status.code);
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use FailureClass::{
        BackendError, HostUnreachable, ImageNotFound, ImagePullDenied, InvalidSpec, NoCapacity, Throttled,
    };
    use serde_json::{Value, json};

    use super::*;

    fn answered(http: u16, error: &Value) -> Error {
        let status: Status = serde_json::from_value(error.clone()).expect("a status");
        Error::service_with_http_metadata(status, Some(http), None)
    }

    fn quota(limit: &str) -> Value {
        json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED",
            "domain": "googleapis.com", "metadata": { "quota_limit": limit, "service": "run.googleapis.com" },
        })
    }

    fn violation(description: &str) -> Value {
        let violations = json!([{ "subject": "project:1", "description": description }]);
        json!({ "@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations })
    }

    #[test]
    fn a_refused_launch_has_its_class() {
        for (http, code, message, details, class) in [
            (400, 3, "Invalid value for container.args", json!([]), InvalidSpec),
            (400, 3, "Image 'a/b:1' not found.", json!([]), ImageNotFound),
            (400, 9, "Billing is not enabled", json!([]), BackendError),
            (401, 16, "Request had invalid authentication credentials", json!([]), BackendError),
            (403, 7, "Permission 'run.jobs.create' denied on resource", json!([]), BackendError),
            (403, 7, "must have permission to read the image, a/b:1", json!([]), ImagePullDenied),
            (404, 5, "The region does not exist", json!([]), BackendError),
            (429, 8, "Quota exceeded for quota metric", json!([quota("WritePerMinutePerProject")]), Throttled),
            (429, 8, "Quota exceeded", json!([quota("RunningExecutionsPerProjectPerRegion")]), NoCapacity),
            (429, 8, "Quota exceeded", json!([violation("Quota exceeded for total allowable CPU")]), NoCapacity),
            (429, 8, "Quota exceeded", json!([violation("Write requests per minute")]), Throttled),
            (429, 8, "Quota exceeded for total allowable jobs in region", json!([]), NoCapacity),
            (429, 8, "Too many", json!([]), Throttled),
        ] {
            let error = answered(http, &json!({ "code": code, "message": message, "details": details }));
            match launch("create", &error) {
                LaunchError::NotLaunched(failure) => assert_eq!(failure.class, class, "{message}"),
                maybe => panic!("{message}: {maybe}"),
            }
        }
    }

    #[test]
    fn what_may_have_been_done_is_not_called_refused() {
        for (http, code) in [(500, 13), (503, 14), (504, 4), (409, 10), (408, 4), (499, 1)] {
            let error = answered(http, &json!({ "code": code, "message": "later" }));
            assert!(matches!(launch("create", &error), LaunchError::MaybeLaunched(_)), "{http}");
        }
        for error in [Error::io("broken pipe"), Error::timeout("too late"), Error::deser("half an answer")] {
            assert!(matches!(launch("create", &error), LaunchError::MaybeLaunched(_)), "{error}");
        }
    }

    #[test]
    fn what_never_left_is_not_launched() {
        let LaunchError::NotLaunched(failure) = launch("create", &Error::connect("refused")) else {
            panic!("there was no connection")
        };
        assert_eq!(failure.class, HostUnreachable);
    }

    #[test]
    fn a_poll_that_fails_has_its_class_too() {
        for (error, class) in [
            (Error::connect("refused"), HostUnreachable),
            (Error::timeout("late"), HostUnreachable),
            (answered(503, &json!({ "code": 14, "message": "later" })), BackendError),
            (answered(403, &json!({ "code": 7, "message": "denied" })), BackendError),
            (answered(429, &json!({ "code": 8, "message": "slowly" })), Throttled),
        ] {
            assert_eq!(failure("get", &error).class, class, "{error}");
        }
    }
}
