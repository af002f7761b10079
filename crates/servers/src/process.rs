//! A server as a child process: started with its output in a log file, waited for until it is
//! ready, stopped in an orderly way.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Result};

/// How long a server may take until it is ready. A machine that is busy compiling needs several
/// times what an idle one does.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long a server may take to stop before it is killed.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(30);
/// The time between two looks at a condition of another process.
pub(crate) const POLL: Duration = Duration::from_millis(25);
/// How much of a log an error carries.
const TAIL_LINES: usize = 20;

/// A running child process.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
    stop_signal: Signal,
}

impl Server {
    /// Starts `command` with its output in `log`; `stop_signal` asks it for an orderly stop.
    pub(crate) fn spawn(name: &'static str, mut command: Command, log: PathBuf, stop_signal: Signal) -> Result<Self> {
        let output = File::create(&log).map_err(Error::io("make", &log))?;
        let errors = output.try_clone().map_err(Error::io("open", &log))?;
        // Ctrl-C goes to the terminal's foreground group: not to a group of its own.
        command.process_group(0).stdin(Stdio::null()).stdout(output).stderr(errors);
        let program = PathBuf::from(command.as_std().get_program());
        let child = command.spawn().map_err(Error::io("start", &program))?;
        tracing::debug!(server = name, pid = child.id(), "server started");
        Ok(Self { name, child, log, stop_signal })
    }

    /// Waits until `probe` says that the server is ready.
    ///
    /// # Errors
    /// With the end of the log, when the process ends first or the time is up.
    pub(crate) async fn ready(&mut self, probe: impl AsyncFn() -> bool) -> Result<()> {
        let end = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::io("wait for", &self.log))? {
                return Err(self.failed(format!("ended before it was ready ({status})")));
            }
            // A probe that hangs counts as one that failed.
            if timeout(Duration::from_secs(2), probe()).await == Ok(true) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(self.failed(format!("was not ready within {READY_WITHIN:?}")));
            }
            sleep(POLL).await;
        }
    }

    /// Stops the server and waits until it has ended; kills it when it does not.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.signal(self.stop_signal);
        let log = self.log.clone();
        let wait = timeout(STOP_WITHIN, self.child.wait()).await;
        if let Ok(ended) = wait {
            ended.map_err(Error::io("wait for", &log))?;
            return Ok(());
        }
        self.child.kill().await.map_err(Error::io("kill", &log))?;
        Err(self.failed(format!("did not stop within {STOP_WITHIN:?} and was killed")))
    }

    /// Ends the server with a signal that leaves it no time for an orderly stop, and waits until it has ended.
    pub(crate) async fn crash(mut self, signal: Signal) -> Result<()> {
        self.signal(signal);
        self.child.wait().await.map_err(Error::io("wait for", &self.log))?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // No id: it has ended and been waited for. An error: it has ended just now.
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }

    fn failed(&self, what: String) -> Error {
        Error::Server { server: self.name, what, log: self.log.clone(), tail: tail(&self.log) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(self.stop_signal);
    }
}

/// Runs a program to its end and returns what it printed on stdout.
pub(crate) async fn run(mut command: Command) -> Result<String> {
    command.kill_on_drop(true);
    let program = PathBuf::from(command.as_std().get_program());
    let output = command.output().await.map_err(Error::io("run", &program))?;
    succeeded(&program, output.status, &output.stderr)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// An error when a program that ran to its end did not succeed.
pub(crate) fn succeeded(program: &Path, status: ExitStatus, output: &[u8]) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let output = String::from_utf8_lossy(output).trim().to_owned();
    Err(Error::Command { program: program.display().to_string(), status, output })
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
