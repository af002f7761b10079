//! What the client's errors mean.

use std::error::Error as _;

use bollard::errors::Error;
use gantry_core::{Failure, FailureClass};

/// The HTTP status and message of an engine that answered with an error.
pub(crate) fn answer(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

/// Whether the engine itself says that it has no such container.
pub(crate) fn no_such_container(error: &Error) -> bool {
    // By the text too: something between us and the engine has a 404 of its own.
    matches!(answer(error), Some((404, message)) if message.contains("No such container"))
}

/// Whether the request certainly never left: there was no connection.
pub(crate) fn never_sent(error: &Error) -> bool {
    match error {
        Error::HyperLegacyError { err } => err.is_connect(),
        Error::SocketNotFoundError(_) => true,
        _ => false,
    }
}

/// The error with all its causes: the client's own text often ends before the interesting part.
pub(crate) fn text(error: &Error) -> String {
    if let Some((status, message)) = answer(error) {
        return format!("{} (HTTP {status})", message.trim());
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

/// The failure of a request that did not decide anything about a container.
pub(crate) fn failure(what: &str, error: &Error) -> Failure {
    let class = match answer(error) {
        _ if no_such_container(error) => FailureClass::Lost,
        Some((429, _)) => FailureClass::Throttled,
        Some(_) => FailureClass::BackendError,
        None => match error {
            Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::SocketNotFoundError(_)
            | Error::RequestTimeoutError
            | Error::IOError { .. } => FailureClass::HostUnreachable,
            _ => FailureClass::BackendError,
        },
    };
    Failure::new(class, format!("{what}: {}", text(error)))
}
