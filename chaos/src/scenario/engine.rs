//! Docker Engine asked by its own program, so that what ran is told by the engine and not by Gantry.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use gantry_core::JobId;
use gantry_servers::DockerEngine;
use serde_json::Value;
use tokio::process::{Child, Command};

/// An engine and the file with its events.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    socket: PathBuf,
    events: PathBuf,
}

/// Writes an engine's events down for as long as it lives.
#[derive(Debug)]
pub(crate) struct Recorder {
    _events: Child,
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
        let this = Self { socket: engine.socket_path().to_owned(), events: folder.join("events.jsonl") };
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

    /// Every container of a fleet that the engine has told of, by id.
    pub(crate) fn ran(&self, fleet: &str) -> anyhow::Result<BTreeMap<String, Ran>> {
        let mut ran: BTreeMap<String, Ran> = BTreeMap::new();
        let text = std::fs::read_to_string(&self.events)?;
        // What follows the last line's end is being written just now.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let event: Value = serde_json::from_str(line)?;
            let attributes = &event["Actor"]["Attributes"];
            if attributes["gantry.fleet"] != fleet {
                continue;
            }
            let number = |name: &str| attributes[name].as_str().and_then(|text| text.parse::<i32>().ok());
            let at = event["timeNano"].as_u64().context("an event without a time")?;
            let container = ran.entry(event["id"].as_str().unwrap_or_default().to_owned()).or_default();
            container.job = attributes["gantry.job"].as_str().and_then(|id| id.parse().ok());
            container.attempt = number("gantry.attempt").unwrap_or_default();
            match event["Action"].as_str() {
                Some("start") => container.started.push(at),
                Some("die") => (container.ended, container.exit_code) = (Some(at), number("exitCode")),
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
