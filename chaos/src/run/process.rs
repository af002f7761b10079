//! One process of the fleet under supervision: whatever ends is started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::links::Links;
use super::schedule::Member;
use super::servers::Addresses;
use crate::part::{Points, Process, Surroundings};

/// Between an end and the next start.
const PAUSE: Duration = Duration::from_millis(300);

/// A process and its place in the fleet.
pub(crate) struct Supervised {
    pub(crate) member: Member,
    pub(crate) links: Links,
    state: Arc<Mutex<State>>,
    wanted: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What is known of the processes that had this place.
#[derive(Debug, Default)]
struct State {
    pid: Option<u32>,
    /// The signal that was sent to end the one that runs.
    asked: bool,
    ends: Vec<Ended>,
    /// Why the last start failed.
    failure: Option<String>,
}

/// The end of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    pub(crate) status: ExitStatus,
    pub(crate) at: Instant,
    /// Whether it ended without having been asked.
    pub(crate) by_itself: bool,
}

impl Supervised {
    /// Starts it in a folder of its own.
    pub(crate) async fn start(
        member: Member,
        binaries: &Path,
        folder: PathBuf,
        addresses: &Addresses,
        listen: Option<String>,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        let links = Links::new(member, addresses, &folder).await;
        let surroundings = Surroundings {
            binaries: binaries.to_owned(),
            database: links.database().to_owned(),
            broker: links.broker().to_owned(),
            folder,
        };
        let state = Arc::<Mutex<State>>::default();
        let (wanted, watched) = watch::channel(true);
        let task = tokio::spawn(supervise(member, surroundings, listen, state.clone(), watched));
        Ok(Self { member, links, state, wanted, task })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Its process id, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.state().pid
    }

    /// Every end in this place so far.
    pub(crate) fn ends(&self) -> Vec<Ended> {
        self.state().ends.clone()
    }

    /// Why it could not be started, if that was so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    /// Sends a signal; `to_end` if it is one that ends it. False if there is no process just now.
    pub(crate) fn signal(&self, signal: Signal, to_end: bool) -> anyhow::Result<bool> {
        let mut state = self.state();
        let Some(pid) = state.pid.and_then(|pid| Pid::from_raw(pid.cast_signed())) else { return Ok(false) };
        state.asked |= to_end;
        kill_process(pid, signal).with_context(|| format!("could not signal {}", self.member))?;
        Ok(true)
    }

    /// Whether a process is wanted here. One that runs is not ended by this.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.send_replace(wanted);
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // And with the task its child.
        self.task.abort();
    }
}

async fn supervise(
    member: Member,
    surroundings: Surroundings,
    listen: Option<String>,
    state: Arc<Mutex<State>>,
    mut wanted: watch::Receiver<bool>,
) {
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        match run(member, &surroundings, listen.as_deref(), &state).await {
            Ok(()) => {}
            Err(error) => lock(&state).failure = Some(format!("{error:#}")),
        }
        sleep(PAUSE).await;
    }
}

/// One process from its start to its end.
async fn run(
    member: Member,
    surroundings: &Surroundings,
    listen: Option<&str>,
    state: &Mutex<State>,
) -> anyhow::Result<()> {
    let mut command = surroundings.command(member.part, Points::Ignored)?;
    // Where its engine's socket is.
    command.current_dir(&surroundings.folder);
    if let Some(listen) = listen {
        command.env("GANTRY_HTTP__LISTEN", listen);
    }
    let mut process = Process::start(command)?;
    let pid = process.id().context("a process that has just begun has an id")?;
    {
        let mut state = lock(state);
        state.pid = Some(pid);
        state.asked = false;
    }
    let ended = process.wait().await;
    let mut state = lock(state);
    state.pid = None;
    let by_itself = !state.asked;
    state.ends.push(Ended { pid, status: ended?, at: Instant::now(), by_itself });
    Ok(())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
