//! How a container ended: its exit code, or why that is not the whole story.

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerState};
use chrono::{DateTime, Utc};
use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::End;

use crate::engine::Engine;
use crate::history::History;
use crate::time;

/// SIGKILL, as an exit code.
const KILLED: i32 = 137;
/// What an engine that goes down leaves behind: SIGKILL, SIGTERM, and a container that it lost sight of.
const WITH_THE_ENGINE: [i32; 3] = [KILLED, 143, 255];
/// How long after the end the news may come that a container hit its memory limit (seen: up to 70 ms).
const LATE_NEWS: Duration = Duration::from_millis(500);
/// The engine begins to watch a container's memory limit a moment after the container's start.
const UNWATCHED: Duration = Duration::from_secs(1);

/// The end of a container that the engine reports as ended.
pub(crate) async fn of(
    engine: &Engine,
    docker: &Docker,
    id: &str,
    container: &ContainerInspectResponse,
) -> Result<End, Error> {
    let state = container.state.clone().unwrap_or_default();
    let started_at = state.started_at.as_deref().and_then(time::parse);
    let finished_at = state.finished_at.as_deref().and_then(time::parse);
    let record = Record {
        id,
        started_at,
        finished_at,
        // One that ends at once can end before the time that the engine then puts down as its start.
        run: started_at.zip(finished_at).map(|(start, finish)| (finish - start).to_std().unwrap_or_default()),
        memory_limit: container.host_config.as_ref().and_then(|config| config.memory).filter(|limit| *limit > 0),
        state: &state,
    };
    Ok(End {
        log_cut: record.log_is_cut(engine, docker).await?,
        outcome: record.outcome(engine, docker).await?,
        run: record.run,
        max_memory_usage: engine.usage.peak_memory(id),
        cpu_usage_percent: started_at.and_then(|start| engine.usage.cpu_percent(id, start)),
        message: state.error.clone().unwrap_or_default(),
    })
}

/// What the engine has on record.
struct Record<'a> {
    id: &'a str,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    run: Option<Duration>,
    memory_limit: Option<i64>,
    state: &'a ContainerState,
}

impl Record<'_> {
    async fn outcome(&self, engine: &Engine, docker: &Docker) -> Result<Outcome, Error> {
        let Some(code) = self.state.exit_code.and_then(|code| i32::try_from(code).ok()) else {
            let message = "the engine has no exit code on record";
            return Ok(Outcome::Failed(Failure::new(FailureClass::BackendError, message)));
        };
        // A container that lost one process to its limit and still ended with 0 has coped.
        if self.state.oom_killed == Some(true) && code != 0 {
            return Ok(self.oom_killed(code, "the kernel killed it"));
        }
        if !WITH_THE_ENGINE.contains(&code) || engine.stops.has_asked(self.id) {
            return Ok(Outcome::Exited(code));
        }
        let limited = code == KILLED && self.memory_limit.is_some();
        let news_by = self.finished_at.filter(|_| limited).map(|finished_at| finished_at + LATE_NEWS);
        Ok(self.outcome_by(&History::read(docker, self.id, news_by).await?, code))
    }

    /// Whether the engine went down while the container ran: what it prints until an engine is there again is lost, and
    /// it may end by itself meanwhile. Nothing is asked of an engine that was listened to for all that time.
    async fn log_is_cut(&self, engine: &Engine, docker: &Docker) -> Result<bool, Error> {
        let Some(started_at) = self.started_at else { return Ok(false) };
        if engine.changes.heard_since().is_some_and(|since| since <= started_at) {
            return Ok(false);
        }
        Ok(History::read(docker, self.id, None).await?.is_younger_than(self.id, started_at))
    }

    /// The end by a signal that nobody here has sent.
    fn outcome_by(&self, history: &History, code: i32) -> Outcome {
        if self.started_at.is_some_and(|started_at| history.is_younger_than(self.id, started_at)) {
            let message = format!("the engine was stopped while the container ran (it ended with {code})");
            return Outcome::Failed(Failure::new(FailureClass::BackendError, message));
        }
        if code == KILLED && self.memory_limit.is_some() {
            if history.tells(self.id, "oom") {
                return self.oom_killed(code, "the kernel killed it");
            }
            if self.run.is_some_and(|run| run < UNWATCHED) && !history.tells(self.id, "kill") {
                return self
                    .oom_killed(code, "it was killed right after its start, before the engine watches, most likely");
            }
        }
        Outcome::Exited(code)
    }

    fn oom_killed(&self, code: i32, how: &str) -> Outcome {
        let limit = self.memory_limit.map(|limit| format!(" of {} MiB", limit >> 20)).unwrap_or_default();
        let message = format!("{how} at its memory limit{limit}");
        Outcome::Failed(Failure { exit_code: Some(code), ..Failure::new(FailureClass::OomKilled, message) })
    }
}
