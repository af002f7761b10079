//! Docker Engine asked by its own program, so that what ran is told by the engine and not by Gantry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::query_parameters::EventsOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt as _;
use gantry_core::JobId;
use gantry_servers::DockerEngine;
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// How long the engine may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine and the file with its events.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    events: PathBuf,
    /// Whose containers are that bear no labels of Gantry's, by their environment.
    owners: Arc<Mutex<BTreeMap<String, (JobId, i32)>>>,
}

/// Writes an engine's events down for as long as it lives.
#[derive(Debug)]
pub(crate) struct Recorder {
    _events: Child,
}

/// Looks into the containers of an engine for as long as it lives.
#[derive(Debug)]
pub(crate) struct Inspector {
    _looks: JoinSet<()>,
}

/// A container of Gantry's, as the engine told of it. Times are nanoseconds since the epoch, by the engine's clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ran {
    pub(crate) job: Option<JobId>,
    pub(crate) attempt: i32,
    /// Each start; more than one breaks a promise.
    pub(crate) started: Vec<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) exit_code: Option<i32>,
}

impl Engine {
    /// Begins to write the engine's events to a file in `folder`.
    pub(crate) async fn record(engine: &DockerEngine, folder: &Path) -> anyhow::Result<(Self, Recorder)> {
        std::fs::create_dir_all(folder)?;
        let (socket, events) = (engine.socket_path().to_owned(), folder.join("events.jsonl"));
        let this = Self { socket, events, owners: Arc::default() };
        let file = File::create(&this.events)?;
        let mut command =
            this.docker(&["events", "--filter", "type=container", "--format", "{{json .}}", "--since", "0"]);
        let child = command.stdout(file).stderr(Stdio::null()).spawn().context("docker events does not start")?;
        // It is listening when it shows what it was asked to show.
        let probe = this.run(&["create", "--label", "gantry-chaos=probe", gantry_servers::TEST_IMAGE, "true"]).await?;
        this.run(&["rm", probe.trim()]).await?;
        for _ in 0..100 {
            if std::fs::metadata(&this.events)?.len() > 0 {
                return Ok((this, Recorder { _events: child }));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the engine tells no events")
    }

    /// Begins to look whose each new container is: the variables that Gantry gives it say so. For containers of clouds,
    /// which have no labels of Gantry's, and which their cloud may remove as soon as they are over: they are asked for in
    /// this process, because a program for each would come too late on a busy machine.
    pub(crate) fn inspect(&self) -> anyhow::Result<Inspector> {
        let docker = Docker::connect_with_unix(&self.endpoint(), PATIENCE.as_secs(), API_DEFAULT_VERSION)?;
        let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["create"])]);
        // Whatever was made before the first look is told too.
        let options = EventsOptionsBuilder::new().filters(&filters).since("0").build();
        let (this, mut looks) = (self.clone(), JoinSet::new());
        looks.spawn(async move {
            let mut events = std::pin::pin!(docker.events(Some(options)));
            let mut looks = JoinSet::new();
            while let Some(Ok(event)) = events.next().await {
                let Some(id) = event.actor.and_then(|actor| actor.id) else { continue };
                let (this, docker) = (this.clone(), docker.clone());
                looks.spawn(async move { this.look(&docker, &id).await });
                while looks.try_join_next().is_some() {}
            }
        });
        Ok(Inspector { _looks: looks })
    }

    /// Notes whose a container is. One that is gone already stays nobody's, which the judge tells.
    async fn look(&self, docker: &Docker, id: &str) {
        let Ok(told) = docker.inspect_container(id, None).await else { return };
        let variables = told.config.and_then(|config| config.env).unwrap_or_default();
        let value = |name| variables.iter().find_map(|one| one.strip_prefix(name)?.strip_prefix('='));
        let owner = || Some((value("GANTRY_JOB_ID")?.parse().ok()?, value("GANTRY_ATTEMPT")?.parse().ok()?));
        if let Some(owner) = owner() {
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), owner);
        }
    }

    /// As a host's connection config names it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.endpoint()).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.docker(arguments).output().await?;
        ensure!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The ids of a fleet's containers that are there, whatever their state.
    pub(crate) async fn containers(&self, fleet: &str) -> anyhow::Result<Vec<String>> {
        let filter = format!("label=gantry.fleet={fleet}");
        let listed = self.run(&["ps", "--all", "--quiet", "--filter", &filter]).await?;
        Ok(listed.lines().map(str::to_owned).collect())
    }

    /// Those of these containers that are there, whatever their state; or, where their cloud keeps those that are over,
    /// those that are not over. In words. What is nobody's yet may be another fleet's, made a moment ago.
    pub(crate) async fn left_of(&self, ran: &BTreeMap<String, Ran>, over_too: bool) -> anyhow::Result<Vec<String>> {
        let listed = self.run(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.State}}"]).await?;
        let left = listed.lines().filter_map(|line| line.split_once(' ')).filter_map(|(id, state)| {
            let over = matches!(state, "exited" | "dead");
            let ran = ran.get(id).filter(|_| over_too || !over)?;
            Some(format!("{id} ({state}) of attempt {} of {}", ran.attempt, ran.job?))
        });
        Ok(left.collect())
    }

    /// Every container of a fleet that the engine has told of, by id.
    pub(crate) fn ran(&self, fleet: &str) -> anyhow::Result<BTreeMap<String, Ran>> {
        let number = |told: &Value| told.as_str().and_then(|text| text.parse::<i32>().ok());
        self.told(|_, attributes| {
            let job = attributes["gantry.job"].as_str().and_then(|id| id.parse().ok());
            let attempt = number(&attributes["gantry.attempt"]).unwrap_or_default();
            (attributes["gantry.fleet"] == fleet).then_some((job, attempt))
        })
    }

    /// Every container of these jobs that was inspected, by id, and those that ran and are nobody's.
    pub(crate) fn ran_of(&self, jobs: &BTreeSet<JobId>) -> anyhow::Result<BTreeMap<String, Ran>> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ran = self.told(|id, _| match owners.get(id) {
            Some((job, attempt)) => jobs.contains(job).then_some((Some(*job), *attempt)),
            None => Some((None, 0)),
        })?;
        ran.retain(|_, ran| ran.job.is_some() || !ran.started.is_empty());
        Ok(ran)
    }

    /// The containers that the engine has told of and that are `ours`, which says whose they are.
    fn told(
        &self,
        ours: impl Fn(&str, &Value) -> Option<(Option<JobId>, i32)>,
    ) -> anyhow::Result<BTreeMap<String, Ran>> {
        let mut ran: BTreeMap<String, Ran> = BTreeMap::new();
        let text = std::fs::read_to_string(&self.events)?;
        // What follows the last line's end is being written just now.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line)?;
            let attributes = &event["Actor"]["Attributes"];
            let id = event["id"].as_str().unwrap_or_default();
            let Some((job, attempt)) = ours(id, attributes) else { continue };
            let at = event["timeNano"].as_u64().context("an event without a time")?;
            let container = ran.entry(id.to_owned()).or_default();
            (container.job, container.attempt) = (job, attempt);
            match event["Action"].as_str() {
                Some("start") => container.started.push(at),
                Some("die") => {
                    let code = attributes["exitCode"].as_str().and_then(|text| text.parse().ok());
                    (container.ended, container.exit_code) = (Some(at), code);
                }
                _ => {}
            }
        }
        Ok(ran)
    }
}

/// The most containers that ran at one moment.
pub(crate) fn most_at_once<'a>(ran: impl Iterator<Item = &'a Ran>) -> usize {
    // At one instant ends come before starts.
    let mut moments: Vec<(u64, bool)> = Vec::new();
    for container in ran {
        let Some(started) = container.started.first() else { continue };
        moments.push((*started, true));
        moments.extend(container.ended.map(|ended| (ended, false)));
    }
    moments.sort_unstable();
    let (mut running, mut most) = (0_usize, 0);
    for (_, starts) in moments {
        running = if starts { running + 1 } else { running.saturating_sub(1) };
        most = most.max(running);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_ran_at_once() {
        let ran = |started: u64, ended: Option<u64>| Ran { started: vec![started], ended, ..Ran::default() };
        let containers = [ran(1, Some(5)), ran(5, Some(9)), ran(6, None), Ran::default()];
        assert_eq!(most_at_once(containers.iter()), 2, "the next begins when the last is over");
        assert_eq!(most_at_once(containers[..2].iter()), 1);
    }
}
