//! What AWS' errors, and those on the way there, mean.

use std::error::Error;

use aws_sdk_ecs::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use gantry_core::{Failure, FailureClass};

/// A request that failed.
#[derive(Debug)]
pub(crate) struct Trouble {
    /// What is certain about it.
    pub(crate) kind: Kind,
    /// AWS' own code, such as `ClientException`.
    pub(crate) code: String,
    /// The operation and what was said.
    pub(crate) text: String,
}

/// What is certain about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It was not sent: nobody there.
    Unreachable,
    /// It was not sent: there are no credentials to sign it with.
    Unsigned,
    /// It may have been done: no answer, or a broken one.
    NoAnswer,
    /// It was not done, because there were too many.
    Throttled,
    /// It was not done (4xx).
    Refused,
    /// It may have been done (5xx): AWS answers 500 and 503 for faults of its own, wherever they were.
    Failed,
}

impl Trouble {
    pub(crate) fn of<E>(operation: &str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let code = error.code().unwrap_or_default().to_owned();
        let said = match error.message() {
            Some(message) => format!("{code}: {message}"),
            None => chain(error),
        };
        let status = error.raw_response().map(|response| response.status().as_u16());
        let kind = match error {
            SdkError::ServiceError(_) => answered(status.unwrap_or(500), &code, &said),
            SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => {
                unanswered(&said)
            }
            _ => Kind::NoAnswer,
        };
        Self { kind, code, text: format!("{operation}: {said}") }
    }

    /// Whether AWS says that what was asked about is not there.
    pub(crate) fn says(&self, code: &str, words: &str) -> bool {
        self.code == code && self.text.to_ascii_lowercase().contains(words)
    }

    /// As the failure of a request that decides nothing about a job.
    pub(crate) fn failure(self) -> Failure {
        let class = match self.kind {
            Kind::Unreachable | Kind::NoAnswer => FailureClass::HostUnreachable,
            Kind::Throttled => FailureClass::Throttled,
            Kind::Unsigned | Kind::Refused | Kind::Failed => FailureClass::BackendError,
        };
        Failure::new(class, self.text)
    }
}

/// Source: "Common error types" and the errors of each operation, Amazon ECS API Reference.
fn answered(status: u16, code: &str, said: &str) -> Kind {
    const THROTTLED: [&str; 4] =
        ["ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"];
    let words = said.to_ascii_lowercase();
    if status == 429
        || THROTTLED.contains(&code)
        || words.contains("rate exceeded")
        || words.contains("too many concurrent attempts")
    {
        Kind::Throttled
    } else if status < 500 {
        Kind::Refused
    } else {
        Kind::Failed
    }
}

fn unanswered(said: &str) -> Kind {
    let words = said.to_ascii_lowercase();
    let any = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if any(&["credential"]) {
        Kind::Unsigned
    } else if any(&["client error (connect)", "http connect timeout", "dns error"]) {
        Kind::Unreachable
    } else {
        Kind::NoAnswer
    }
}

/// An error with all its causes: the SDK's own text ends before the interesting part.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let table = [
            (400, "ThrottlingException", "Rate exceeded", Kind::Throttled),
            (503, "Throttling", "", Kind::Throttled),
            (429, "", "", Kind::Throttled),
            (
                400,
                "ClientException",
                "Too many concurrent attempts to create a new revision of the specified family.",
                Kind::Throttled,
            ),
            (400, "ClientException", "TaskDefinition is inactive", Kind::Refused),
            (403, "AccessDeniedException", "not authorized", Kind::Refused),
            (500, "ServerException", "", Kind::Failed),
            (503, "ServiceUnavailable", "", Kind::Failed),
        ];
        for (status, code, said, kind) in table {
            assert_eq!(answered(status, code, said), kind, "{status} {code} {said}");
        }
    }

    #[test]
    fn only_what_was_certainly_not_sent_was_not_sent() {
        let table = [
            (
                "dispatch failure: io error: client error (Connect): tcp connect error: Connection refused",
                Kind::Unreachable,
            ),
            ("dispatch failure: timeout: HTTP connect timeout occurred after 3s", Kind::Unreachable),
            ("dispatch failure: other: the credential provider was not enabled", Kind::Unsigned),
            ("dispatch failure: io error: client error (SendRequest): connection closed", Kind::NoAnswer),
            ("request has timed out: operation attempt timeout", Kind::NoAnswer),
        ];
        for (said, kind) in table {
            assert_eq!(unanswered(said), kind, "{said}");
        }
    }
}
