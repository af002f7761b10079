//! A part of Gantry as a process of its own, with or without a failpoint.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// The lease of a worker: shortened, so that what it must outlast does not take long.
pub(crate) const LEASE: Duration = Duration::from_secs(6);

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Part {
    Dispatcher,
    Recorder,
    /// Of simulated containers.
    Worker,
    /// Of real ones.
    DockerWorker,
    Api,
}

impl Part {
    /// What a fleet of simulated containers consists of.
    pub(crate) const ALL: [Self; 3] = [Self::Dispatcher, Self::Recorder, Self::Worker];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dispatcher => "dispatcher",
            Self::Recorder => "recorder",
            Self::Worker => "worker",
            Self::DockerWorker => "docker-worker",
            Self::Api => "api",
        }
    }

    fn binary(self) -> &'static str {
        match self {
            Self::Dispatcher => "gantry-dispatcher",
            Self::Recorder => "gantry-recorder",
            Self::Worker => "gantry-worker-mock",
            Self::DockerWorker => "gantry-worker-docker",
            Self::Api => "gantry-api",
        }
    }

    /// Whether it holds a lease.
    pub(crate) fn is_worker(self) -> bool {
        matches!(self, Self::Worker | Self::DockerWorker)
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
    /// The command that starts a part, with lease times that are over soon. The part is killed with its process's value.
    pub(crate) fn command(&self, part: Part, points: Points<'_>) -> anyhow::Result<Command> {
        // Absolute, so that it may start in any folder.
        let mut command = Command::new(std::path::absolute(self.binaries.join(part.binary()))?);
        command
            .env("GANTRY_DATABASE__URL", &self.database)
            // Several fleets share a server of 300.
            .env("GANTRY_DATABASE__MAX_CONNECTIONS", "6")
            .env("GANTRY_BROKER__URL", &self.broker)
            .env("GANTRY_TELEMETRY__FILTER", "info,lapin=off")
            .stdin(Stdio::null())
            .stdout(self.log(part)?)
            .stderr(self.log(part)?)
            .kill_on_drop(true);
        if part != Part::Api {
            command.env("GANTRY_SERVE__LISTEN", "127.0.0.1:0");
        }
        if part == Part::Dispatcher {
            // So that it happens while a point is waited for.
            command.env("GANTRY_DISPATCHER__RETENTION_MILLIS", "2000");
        }
        if part.is_worker() {
            command
                // A transaction must be over in a third of the lease.
                .env("GANTRY_DATABASE__TRANSACTION_TIMEOUT_MILLIS", "1500")
                .env("GANTRY_WORKER__LEASE_SECONDS", LEASE.as_secs().to_string())
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
        Ok(command)
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
    /// Starts a command. It is killed with the value, if the command says so.
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let binary = command.as_std().get_program().to_owned();
        let child = command.spawn().with_context(|| format!("could not start {}", binary.display()))?;
        Ok(Self { child })
    }

    /// Its process id, until its end is known.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

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
    pub(crate) async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }
}
