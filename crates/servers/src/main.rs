//! `gantry-servers run -- COMMAND`: a command with private servers around it.

use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use gantry_servers::{DockerEngine, Ministack, Postgres, RabbitMq, TEST_IMAGE};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};

/// Private servers for tests and development.
#[derive(Debug, Parser)]
#[command(name = "gantry-servers", version)]
enum Arguments {
    /// Starts servers, runs a command that finds them in GANTRY_TEST_* variables, stops them.
    Run {
        /// Where the servers keep their data, also for the next run. Without it: a new folder
        /// that is removed afterwards.
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
        /// The servers to start.
        #[arg(long, value_delimiter = ',', default_value = "postgres,rabbitmq")]
        with: Vec<Kind>,
        /// The command to run. Its exit code becomes this program's.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Postgres,
    Rabbitmq,
    Docker,
    /// Needs docker.
    Ministack,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Arguments::Run { dir, with, command } = Arguments::parse();
    // From here on signals are remembered instead of ending this process, so that whatever was
    // started is stopped again.
    let mut signals = Signals::listen()?;
    let (folder, temporary) = match dir {
        Some(dir) => (dir, None),
        None => {
            let made = tempfile::Builder::new().prefix("gantry-servers-").tempdir()?;
            (made.path().to_owned(), Some(made))
        }
    };
    let servers = Servers::start(&folder, &with).await?;
    let ended = run(&command, &servers, &mut signals).await;
    servers.stop().await?;
    if let Some(made) = temporary {
        made.close().context("could not remove the servers' folder")?;
    }
    Ok(exit_code(ended?))
}

/// The servers that were asked for.
#[derive(Debug, Default)]
struct Servers {
    postgres: Option<Postgres>,
    rabbitmq: Option<RabbitMq>,
    docker: Option<DockerEngine>,
    ministack: Option<Ministack>,
}

impl Servers {
    async fn start(folder: &Path, with: &[Kind]) -> anyhow::Result<Self> {
        let asked = |kind| with.contains(&kind);
        let (postgres, rabbitmq, docker) = tokio::join!(
            maybe(asked(Kind::Postgres), Postgres::start(folder)),
            maybe(asked(Kind::Rabbitmq), RabbitMq::start(folder)),
            maybe(asked(Kind::Docker), async {
                let engine = DockerEngine::start(folder).await?;
                engine.import_test_image().await?;
                Ok(engine)
            }),
        );
        let mut servers = Self::default();
        let failures: Vec<_> = [
            postgres.map(|started| servers.postgres = started).err(),
            rabbitmq.map(|started| servers.rabbitmq = started).err(),
            docker.map(|started| servers.docker = started).err(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let failure = failures.into_iter().next();
        let failure = match &servers.docker {
            Some(docker) if failure.is_none() && asked(Kind::Ministack) => {
                let engine = format!("unix://{}", docker.socket_path().display());
                let ministack = Ministack::start(folder, &engine).await;
                ministack.map(|started| servers.ministack = Some(started)).err().map(anyhow::Error::from)
            }
            None if failure.is_none() && asked(Kind::Ministack) => {
                Some(anyhow::anyhow!("ministack runs its containers on a Docker Engine: add docker to --with"))
            }
            _ => failure.map(anyhow::Error::from),
        };
        match failure {
            None => Ok(servers),
            Some(failure) => {
                // Why one did not start is the better story than what went wrong afterwards.
                let _ = servers.stop().await;
                Err(failure)
            }
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = Vec::new();
        if let Some(postgres) = &self.postgres {
            variables.push(("GANTRY_TEST_POSTGRES_URL", postgres.url("postgres", "postgres")));
        }
        if let Some(rabbitmq) = &self.rabbitmq {
            variables.push(("GANTRY_TEST_AMQP_URL", rabbitmq.amqp_url("/")));
            variables.push(("GANTRY_TEST_RABBITMQ_MANAGEMENT_URL", rabbitmq.management_url()));
        }
        if let Some(docker) = &self.docker {
            let host = format!("unix://{}", docker.socket_path().display());
            variables.push(("GANTRY_TEST_DOCKER_HOST", host));
            variables.push(("GANTRY_TEST_IMAGE", TEST_IMAGE.to_owned()));
        }
        if let Some(ministack) = &self.ministack {
            variables.push(("GANTRY_TEST_MINISTACK_URL", ministack.url()));
        }
        variables
    }

    /// Stops all, also when one fails to.
    async fn stop(self) -> gantry_servers::Result<()> {
        // Before the engine that runs its containers.
        let ministack = match self.ministack {
            Some(server) => server.stop().await,
            None => Ok(()),
        };
        let stopped = tokio::join!(
            async { if let Some(server) = self.postgres { server.stop().await } else { Ok(()) } },
            async { if let Some(server) = self.rabbitmq { server.stop().await } else { Ok(()) } },
            async { if let Some(server) = self.docker { server.stop().await } else { Ok(()) } },
        );
        ministack.and(stopped.0).and(stopped.1).and(stopped.2)
    }
}

async fn maybe<T>(
    asked: bool,
    start: impl Future<Output = gantry_servers::Result<T>>,
) -> gantry_servers::Result<Option<T>> {
    if asked { start.await.map(Some) } else { Ok(None) }
}

/// Runs the command to its end, passing on the signals that ask it to stop.
async fn run(command: &[String], servers: &Servers, signals: &mut Signals) -> anyhow::Result<ExitStatus> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .envs(servers.environment())
        .spawn()
        .with_context(|| format!("could not start {program}"))?;
    loop {
        tokio::select! {
            ended = child.wait() => return Ok(ended?),
            signal = signals.next() => pass_on(signal, &child),
        }
    }
}

fn pass_on(signal: Signal, child: &Child) {
    // The terminal has sent Ctrl-C to the command as well, and many programs take a second one
    // as the order to drop everything.
    if signal == Signal::INT && std::io::stdin().is_terminal() {
        return;
    }
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // An error: it has ended just now.
        let _ = kill_process(pid, signal);
    }
}

/// SIGINT, SIGTERM and SIGHUP, remembered from the moment this value is made.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hangup: unix::signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.hangup.recv() => Signal::HUP,
        }
    }
}

/// A shell's convention: a command ended by signal N counts as code 128 + N.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
