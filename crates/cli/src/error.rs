//! What can go wrong in a command.

use std::io;

use gantry_api::wire::ProblemDetails;
use reqwest::{StatusCode, Url};

use crate::exit;

/// The result of a command.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a command failed. Each says what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API refused.
    #[error("{0}")]
    Refused(Box<ProblemDetails>),
    /// No connection.
    #[error(
        "nothing answers at {url} ({cause}); start Gantry with `gantry dev`, or give the address of a running one \
         with --url or GANTRY_URL"
    )]
    Unreachable { url: Url, cause: String },
    /// The connection broke, or nothing came in time.
    #[error("the connection to {url} failed: {cause}")]
    Lost { url: Url, cause: String },
    /// An answer that is none of Gantry's API.
    #[error("{url} answered {status} with what is no answer of Gantry's API: {cause}")]
    NotGantry { url: Url, status: StatusCode, cause: String },
    /// No key to identify with.
    #[error(
        "no API key: give one with --api-key or GANTRY_API_KEY; `gantry dev` writes its own into the file `env` of its \
         data folder, and `gantry tenant add` makes one"
    )]
    NoKey,
    /// A job that was waited for did not end in time.
    #[error("{0}")]
    NotEnded(String),
    /// A command that makes no sense as it was given.
    #[error("{0}")]
    Usage(String),
    /// No connection to Postgres.
    #[error("{place} does not answer ({source}); is Postgres running there?")]
    NoDatabase { place: String, source: gantry_store::Error },
    /// Postgres refused.
    #[error("{place}: {source}")]
    Database { place: String, source: gantry_store::Error },
    /// Postgres, while its schema was compared.
    #[error("{place}: {source}")]
    Validate { place: String, source: gantry_store::validate::Error },
    /// The streams and signals of this process.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// The kind of error for programs.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Refused(problem) => problem.code.into(),
            Self::Unreachable { .. } => "unreachable",
            Self::Lost { .. } => "connection_lost",
            Self::NotGantry { .. } => "unexpected_answer",
            Self::NoKey => "no_api_key",
            Self::NotEnded(_) => "not_ended",
            Self::Usage(_) => "usage",
            Self::NoDatabase { .. } | Self::Database { .. } | Self::Validate { .. } => "database",
            Self::Io(_) => "io",
        }
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::NotEnded(_) => exit::UNKNOWN,
            _ => exit::ERROR,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => true,
            Self::Refused(problem) => temporary(problem.status),
            Self::NotGantry { status, .. } => temporary(status.as_u16()),
            _ => false,
        }
    }

    /// Whether the reader of stdout went away, as `head` does.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn temporary(status: u16) -> bool {
    status >= 500 || [408, 429].contains(&status)
}
