//! A part of Gantry as a process of its own, with or without a failpoint.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    Dispatcher,
    Recorder,
    Worker,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Dispatcher, Self::Recorder, Self::Worker];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Recorder => "recorder",
            Self::Worker => "worker",
        }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Dispatcher => "gantry-dispatcher",
            Self::Recorder => "gantry-recorder",
            Self::Worker => "gantry-worker-mock",
        }
    }
}

/// What a process does about its failpoints.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Points<'a> {
    /// Nothing.
    Ignored,
    /// It notes the ones it passes.
    Noted,
    /// It dies at this one.
    Fatal(&'a str),
}

/// Where the processes of a fleet find everything.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    pub(crate) binaries: PathBuf,
    pub(crate) database: String,
    pub(crate) broker: String,
    /// Logs of the parts, and what their failpoints write.
    pub(crate) folder: PathBuf,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Surroundings {
    /// Starts a part. It is killed with the value.
    pub(crate) fn spawn(&self, part: Part, points: Points<'_>) -> anyhow::Result<Process> {
        let binary = self.binaries.join(part.binary());
        let mut command = Command::new(&binary);
        command
            .env("GANTRY_DATABASE__URL", &self.database)
            // Several fleets share a server of 300.
            .env("GANTRY_DATABASE__MAX_CONNECTIONS", "6")
            .env("GANTRY_BROKER__URL", &self.broker)
            .env("GANTRY_SERVE__LISTEN", "127.0.0.1:0")
            .env("GANTRY_TELEMETRY__FILTER", "info,lapin=off")
            .stdin(Stdio::null())
            .stdout(self.log(part)?)
            .stderr(self.log(part)?)
            .kill_on_drop(true);
        if part == Part::Worker {
            command
                // A transaction must be over in a third of the lease.
                .env("GANTRY_DATABASE__TRANSACTION_TIMEOUT_MILLIS", "1500")
                .env("GANTRY_WORKER__LEASE_SECONDS", "6")
                .env("GANTRY_WORKER__BEAT_MILLIS", "500")
                .env("GANTRY_WORKER__HOST_CHECK_SECONDS", "1")
                .env("GANTRY_WORKER__STOP_GRACE_SECONDS", "1");
        }
        match points {
            Points::Ignored => {}
            Points::Noted => {
                command.env("GANTRY_FAILPOINTS_SEEN", self.seen_path(part));
            }
            Points::Fatal(point) => {
                command.env("GANTRY_FAILPOINT", point).env("GANTRY_FAILPOINT_FIRED", self.fired_path());
            }
        }
        let child = command.spawn().with_context(|| format!("could not start {}", binary.display()))?;
        Ok(Process { child })
    }

    fn log(&self, part: Part) -> anyhow::Result<File> {
        let path = self.folder.join(format!("{}.log", part.name()));
        Ok(OpenOptions::new().create(true).append(true).open(path)?)
    }

    fn seen_path(&self, part: Part) -> PathBuf {
        self.folder.join(format!("{}.seen", part.name()))
    }

    fn fired_path(&self) -> PathBuf {
        self.folder.join("fired")
    }

    /// The points that this part's processes have passed so far.
    pub(crate) fn seen(&self, part: Part) -> anyhow::Result<BTreeSet<String>> {
        lines(&self.seen_path(part))
    }

    /// The proof that a process died at a point.
    pub(crate) fn fired(&self, point: &str) -> anyhow::Result<bool> {
        Ok(lines(&self.fired_path())?.contains(point))
    }
}

fn lines(path: &Path) -> anyhow::Result<BTreeSet<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("could not read {}", path.display())),
    }
}

impl Process {
    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Sends a signal; nothing happens if it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, signal)?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<()> {
        self.child.wait().await?;
        Ok(())
    }
}
