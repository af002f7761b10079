//! What can go wrong while a private server is started or stopped.

use std::io;
use std::path::{Path, PathBuf};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a private server could not be started, used or stopped.
///
/// Every message ends with what to do about it, because it is read by a person
/// at a terminal who asked for something else (`gantry dev`, `make test`).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server's program is not installed.
    #[error("{program} was not found: install the Debian package {package}")]
    Missing {
        /// The program that was looked for.
        program: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
    },

    /// The server refuses to run as root, and the account to run it as does not exist.
    #[error(
        "there is no account `{account}` to run the server as: install the Debian package \
         {package}, or start it as a user other than root"
    )]
    NoAccount {
        /// The account's name.
        account: &'static str,
        /// The Debian package that makes it.
        package: &'static str,
    },

    /// The server runs as another account, and that account cannot get to the data folder.
    #[error(
        "the account `{account}` cannot enter {}: choose a folder elsewhere, for example under \
         /var/tmp, or run `chmod o+x {}`", folder.display(), folder.display()
    )]
    Unreachable {
        /// The account that the server runs as.
        account: &'static str,
        /// The first folder on the way that shuts the account out.
        folder: PathBuf,
    },

    /// Docker Engine can only be started by root.
    #[error("a private Docker Engine needs root: run as root, or leave it out")]
    NeedsRoot,

    /// The Python environment with what others wrote is not there.
    #[error(
        "{variable} does not name a Python environment with ministack: make one with \
         `deploy/scripts/install.sh python`, and set {variable} to it"
    )]
    NoPython {
        /// The variable.
        variable: &'static str,
    },

    /// Another living process supervises the server in this folder.
    #[error("{} is in use by another process: stop that one first, or choose another folder", folder.display())]
    InUse {
        /// The server's folder.
        folder: PathBuf,
    },

    /// The path of a unix socket would be longer than the system allows.
    #[error(
        "the socket path {} has more than {limit} bytes: choose a folder with a shorter path",
        path.display()
    )]
    PathTooLong {
        /// The socket's path.
        path: PathBuf,
        /// The greatest length that works.
        limit: usize,
    },

    /// No free TCP port was found on 127.0.0.1.
    #[error("no free TCP port was found on 127.0.0.1")]
    NoFreePort,

    /// The server ended, or was not ready in time.
    #[error("{server} {what}; the end of {}:\n{tail}", log.display())]
    Server {
        /// The server's name.
        server: &'static str,
        /// What happened, as a verb and its object.
        what: String,
        /// The server's log file.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },

    /// A helper program that runs to its end failed.
    #[error("{program} failed ({status}): {output}")]
    Command {
        /// The program.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed.
        output: String,
    },

    /// A system call failed.
    #[error("could not {what}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Names the path in an I/O error; for use with `map_err`.
    pub(crate) fn io(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{verb} {}", path.display());
        move |source| Self::Io { what, source }
    }
}
