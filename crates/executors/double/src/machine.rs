//! The machine behind a double: containers of a Docker Engine.

use std::collections::HashMap;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum as Status, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;

/// The label of a double's containers; its value is the double's name.
const LABEL: &str = "gantry.double";
/// A registry that refuses whatever is asked of it.
const DENIED: &str = "denied.invalid/";
/// SIGKILL, as an exit code.
const KILLED: i64 = 137;
/// How often a removal is asked for before it has failed, and the pause between: the engine may be busy with the container.
const REMOVALS: u32 = 5;
const REMOVAL_PAUSE: Duration = Duration::from_millis(300);
/// How long the engine may take to begin an answer.
const PATIENCE: u64 = 60;

/// A Docker Engine, as one double uses it. Nothing is pulled: an image is there or it is missing, and whatever
/// begins with `denied.invalid/` is refused.
#[derive(Clone, Debug)]
pub struct Machine {
    docker: Docker,
    double: String,
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// The container's name, unique on the engine.
    pub name: String,
    /// The image.
    pub image: String,
    /// The image's own if absent.
    pub entrypoint: Option<Vec<String>>,
    /// The image's own if absent.
    pub command: Option<Vec<String>>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// The image's own if absent.
    pub working_dir: Option<String>,
    /// In bytes; unlimited if absent.
    pub memory: Option<i64>,
    /// In billionths of a CPU.
    pub nano_cpus: Option<i64>,
}

/// Why a task did not start.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such image.
    #[error("no such image: {0}")]
    NoImage(String),
    /// The registry refuses the image.
    #[error("the registry refuses {0}")]
    Denied(String),
    /// The engine does not start it, for example because its program does not exist.
    #[error("{0}")]
    Rejected(String),
    /// Nothing is known: the engine is away.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// The state of a container.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Not yet over.
    Running {
        /// Since when.
        started: Option<DateTime<Utc>>,
    },
    /// Over.
    Ended {
        /// The exit code.
        code: i64,
        /// Whether the kernel killed it at its memory limit.
        out_of_memory: bool,
        /// From when.
        started: Option<DateTime<Utc>>,
        /// To when.
        finished: Option<DateTime<Utc>>,
    },
}

/// One of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A line that a container printed, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When its first byte came.
    pub time: DateTime<Utc>,
    /// Where.
    pub stream: Stream,
    /// What.
    pub text: String,
}

impl Machine {
    /// The engine at `endpoint` (`unix://` or `tcp://`), for the double of this name.
    pub async fn connect(endpoint: &str, double: impl Into<String>) -> Result<Self, Error> {
        let docker = if endpoint.starts_with("unix://") {
            Docker::connect_with_unix(endpoint, PATIENCE, API_DEFAULT_VERSION)?
        } else {
            Docker::connect_with_http(endpoint, PATIENCE, API_DEFAULT_VERSION)?
        };
        Ok(Self { docker: docker.negotiate_version().await?, double: double.into() })
    }

    /// Whether the image can be had.
    pub async fn pull(&self, image: &str) -> Result<(), Refused> {
        if image.starts_with(DENIED) {
            return Err(Refused::Denied(image.to_owned()));
        }
        match self.docker.inspect_image(image).await {
            Ok(_) => Ok(()),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Err(Refused::NoImage(image.to_owned())),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs a task and returns the container's id.
    pub async fn start(&self, task: Task) -> Result<String, Refused> {
        self.pull(&task.image).await?;
        let name = CreateContainerOptionsBuilder::new().name(&task.name).build();
        let body = ContainerCreateBody {
            image: Some(task.image),
            entrypoint: task.entrypoint,
            cmd: task.command,
            env: Some(task.environment),
            working_dir: task.working_dir,
            labels: Some(HashMap::from([(LABEL.to_owned(), self.double.clone())])),
            host_config: Some(HostConfig {
                memory: task.memory,
                memory_swap: task.memory,
                nano_cpus: task.nano_cpus,
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let rejected = |error| match error {
            Error::DockerResponseServerError { message, .. } => Refused::Rejected(message),
            error => Refused::Engine(error),
        };
        let id = self.docker.create_container(Some(name), body).await.map_err(rejected)?.id;
        if let Err(error) = self.docker.start_container(&id, None).await {
            self.remove(&id).await?;
            return Err(rejected(error));
        }
        Ok(id)
    }

    /// The state of a container; none if there is no such container.
    pub async fn state(&self, id: &str) -> Result<Option<State>, Error> {
        let container = match self.docker.inspect_container(id, None).await {
            Ok(container) => container,
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let limited = container.host_config.and_then(|config| config.memory).is_some_and(|limit| limit > 0);
        let state = container.state.unwrap_or_default();
        let time = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
        let started = time(&state.started_at);
        let over = matches!(state.status, Some(Status::EXITED | Status::DEAD | Status::REMOVING));
        Ok(Some(if over {
            let code = state.exit_code.unwrap_or_default();
            let finished: Option<DateTime<Utc>> = time(&state.finished_at);
            let run = started.zip(finished).map(|(start, finish): (DateTime<Utc>, _)| finish - start);
            // The engine begins to watch the limit a moment after the start, and does not tell of an earlier kill.
            let unwatched = limited && code == KILLED && run.is_none_or(|run| run < chrono::TimeDelta::seconds(1));
            let out_of_memory = code != 0 && (state.oom_killed == Some(true) || unwatched);
            State::Ended { code, out_of_memory, started, finished }
        } else {
            State::Running { started }
        }))
    }

    /// All lines so far, in the order of their times. A line that is not over yet is left out while the container
    /// runs.
    pub async fn lines(&self, id: &str) -> Result<Vec<Line>, Error> {
        let over = matches!(self.state(id).await?, Some(State::Ended { .. }) | None);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).build();
        let mut entries = self.docker.logs(id, Some(options));
        let mut open: HashMap<Stream, (DateTime<Utc>, Vec<u8>)> = HashMap::new();
        let mut lines = Vec::new();
        let closed = |stream, (time, text): (_, Vec<u8>)| Line {
            time,
            stream,
            text: String::from_utf8_lossy(&text).into_owned(),
        };
        while let Some(entry) = entries.try_next().await? {
            let (stream, message) = match entry {
                LogOutput::StdOut { message } => (Stream::Stdout, message),
                LogOutput::StdErr { message } => (Stream::Stderr, message),
                LogOutput::StdIn { .. } | LogOutput::Console { .. } => continue,
            };
            let Some((time, text)) = stamped(&message) else { continue };
            let line = open.entry(stream).or_insert((time, Vec::new()));
            match text.strip_suffix(b"\n") {
                // A long line comes in several pieces; only the last has its end.
                None => line.1.extend_from_slice(text),
                Some(text) => {
                    line.1.extend_from_slice(text);
                    let line = open.remove(&stream).expect("it was put there above");
                    lines.push(closed(stream, line));
                }
            }
        }
        if over {
            lines.extend(open.into_iter().map(|(stream, line)| closed(stream, line)));
        }
        lines.sort_by_key(|line| line.time);
        Ok(lines)
    }

    /// SIGTERM, `grace` in whole seconds, SIGKILL. Returns once it has ended; what is over or gone is no error.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let docker = self.docker.clone().with_timeout(grace + Duration::from_secs(PATIENCE));
        gone_is_fine(docker.stop_container(id, Some(StopContainerOptionsBuilder::new().t(seconds).build())).await)
    }

    /// Removes a container, whatever its state.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        for _ in 1..REMOVALS {
            if gone_is_fine(self.docker.remove_container(id, Some(options.clone())).await).is_ok() {
                return Ok(());
            }
            tokio::time::sleep(REMOVAL_PAUSE).await;
        }
        gone_is_fine(self.docker.remove_container(id, Some(options)).await)
    }

    /// Removes every container of the double of this name.
    pub async fn remove_all(&self) -> Result<(), Error> {
        let filters = HashMap::from([("label", vec![format!("{LABEL}={}", self.double)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for container in self.docker.list_containers(Some(options)).await? {
            if let Some(id) = container.id {
                self.remove(&id).await?;
            }
        }
        Ok(())
    }
}

fn gone_is_fine(answer: Result<(), Error>) -> Result<(), Error> {
    match answer {
        Err(Error::DockerResponseServerError { status_code: 304 | 404 | 409, .. }) => Ok(()),
        other => other,
    }
}

/// A piece of a log and its time.
fn stamped(message: &[u8]) -> Option<(DateTime<Utc>, &[u8])> {
    let space = message.iter().position(|byte| *byte == b' ')?;
    let time = std::str::from_utf8(&message[..space]).ok()?.parse().ok()?;
    Some((time, &message[space + 1..]))
}
