//! `gantry job run`.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use gantry_core::spec::{ContainerSpec, Mount, Submission, SubmissionVersion};
use gantry_core::{ExecutorType, JobId, Status, lost};
use tokio::time::sleep;
use uuid::Uuid;

use super::super::values::{duration, map, one_of, pair};
use super::interrupt::Interrupts;
use super::logs::Sink;
use super::{ended, follow, wait};
use crate::client::Client;
use crate::error::Result;
use crate::exit::{self, End};
use crate::output::{Format, note};

/// How long a job may be pending before its reason is told, and between two looks at it.
const WORTH_TELLING: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Run {
    /// The image
    #[arg(long, value_name = "IMAGE", required_unless_present = "template")]
    image: Option<String>,
    /// Run this container template instead of an image
    #[arg(long, value_name = "NAME", conflicts_with_all = ["image", "timeout", "memory", "cpus", "mount", "on_lost"])]
    template: Option<String>,
    /// Where to run it; if not given, Gantry chooses
    #[arg(long, value_parser = one_of::<ExecutorType>(), value_name = "TYPE")]
    executor: Option<ExecutorType>,
    /// An environment variable; may be given more than once
    #[arg(long, short, value_parser = pair, value_name = "KEY=VALUE")]
    env: Vec<(String, String)>,
    /// How long it may run, such as 30s or 5m
    #[arg(long, value_parser = seconds, value_name = "TIME")]
    timeout: Option<u32>,
    /// Its memory limit, in MiB
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// How many CPUs it may use, such as 0.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// A directory of the host to see in the container, read-only, where the host allows it; may be given more than once
    #[arg(long, value_parser = mount, value_name = "SOURCE:TARGET")]
    mount: Vec<Mount>,
    /// What to do when its host does not come back: wait, retry or fail, with the seconds to wait before, such as
    /// retry:600
    #[arg(long, value_parser = on_lost, value_name = "ACTION[:SECONDS]")]
    on_lost: Option<lost::Policy>,
    /// A name for people
    #[arg(long)]
    name: Option<String>,
    /// A label; may be given more than once
    #[arg(long, value_parser = pair, value_name = "KEY=VALUE")]
    label: Vec<(String, String)>,
    /// -100 to 100; higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    priority: i16,
    /// Print the job's id and leave it to itself
    #[arg(long, short)]
    detach: bool,
    /// The command's words; if not given, the image's own command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Run {
    pub(super) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let detach = self.detach;
        let mut interrupts = Interrupts::new()?;
        let Some(accepted) = interrupts.or_leave(client.submit(&self.submission())).await else {
            note("gantry: left before Gantry has answered; `gantry job list` shows whether the job was accepted");
            return Ok(ExitCode::from(exit::INTERRUPTED));
        };
        let accepted = accepted?;
        let id = accepted.id;
        if detach {
            format.print(&accepted, |_| id.to_string())?;
            return Ok(ExitCode::SUCCESS);
        }
        let code = match format {
            Format::Table => interrupts.or_cancel(client, id, followed(client, id)).await,
            Format::Json => interrupts.or_cancel(client, id, awaited(client, id)).await,
        };
        code.unwrap_or_else(|| {
            note(&format!("gantry: left the job to itself; `gantry job logs -f {id}` follows it"));
            Ok(ExitCode::from(exit::INTERRUPTED))
        })
    }

    fn submission(self) -> Submission {
        let command = Some(self.command).filter(|words| !words.is_empty());
        let environment = map(self.env);
        // A template has the container; what is given here is laid over it.
        let (spec, override_command, override_environment) = match self.image {
            None => (None, command, environment),
            Some(image) => {
                let spec = ContainerSpec {
                    image,
                    command,
                    entrypoint: None,
                    working_dir: None,
                    environment,
                    cpu_limit: self.cpus,
                    memory_limit_mb: self.memory,
                    timeout_seconds: self.timeout,
                    mounts: self.mount,
                    network: None,
                    retry: Default::default(),
                    on_lost: self.on_lost.unwrap_or_default(),
                };
                (Some(spec), None, Default::default())
            }
        };
        Submission {
            version: SubmissionVersion::V1,
            name: self.name,
            // So that the submission can be sent again when its answer is lost.
            idempotency_key: Some(format!("cli-{}", Uuid::now_v7())),
            project: None,
            template: self.template,
            spec,
            preferred_executor: self.executor,
            override_command,
            override_environment,
            priority: self.priority,
            labels: map(self.label),
            not_before: None,
            queue_timeout_seconds: None,
        }
    }
}

/// Follows the log to its end.
async fn followed(client: &Client, id: JobId) -> Result<ExitCode> {
    let mut sink = Sink::streams();
    let end = async { follow::to_end(client, id, &mut sink).await };
    // Only where nobody but a person reads along: elsewhere stderr is the container's alone.
    let end = if std::io::stderr().is_terminal() {
        note(&format!("gantry: job {id}"));
        tokio::select! {
            end = end => end,
            never = tell_why_it_waits(client, id) => never,
        }
    } else {
        end.await
    };
    end.map(|end| ended(End::from(&end), Format::Table))
}

async fn awaited(client: &Client, id: JobId) -> Result<ExitCode> {
    let job = wait::to_end(client, id, None).await?;
    Format::Json.print(&job, |_| String::new())?;
    Ok(ended(End::from(&job.job), Format::Json))
}

/// Tells each reason for which the job waits, while it waits for long. Never ends.
async fn tell_why_it_waits<T>(client: &Client, id: JobId) -> T {
    let mut told = None;
    loop {
        sleep(WORTH_TELLING).await;
        match client.job(id, None).await.map(|job| job.job) {
            Ok(job) if job.status == Status::Pending => {
                if let Some(reason) = job.waiting_reason.filter(|reason| told != Some(*reason)) {
                    note(&format!("gantry: waiting: {reason}"));
                    told = Some(reason);
                }
            }
            Ok(_) => return std::future::pending().await,
            // The follower tries the same API, and tells what is wrong with it.
            Err(_) => {}
        }
    }
}

/// Whole seconds, rounded up: a limit is never shorter than what was asked for.
fn seconds(text: &str) -> Result<u32, String> {
    let time = duration(text)?;
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).map_err(|_| "it is too long".to_owned())
}

fn on_lost(text: &str) -> Result<lost::Policy, String> {
    let (action, after) = text.split_once(':').map_or((text, None), |(action, after)| (action, Some(after)));
    let action = match action {
        "wait" => lost::Action::Wait,
        "retry" => lost::Action::Retry,
        "fail" => lost::Action::Fail,
        _ => return Err("it is wait, retry or fail, and the seconds after which, such as retry:600".to_owned()),
    };
    let mut policy = lost::Policy { action, ..lost::Policy::default() };
    if let Some(after) = after {
        policy.after_seconds = after.parse().map_err(|_| format!("{after:?} is not a number of seconds"))?;
    }
    Ok(policy)
}

fn mount(text: &str) -> Result<Mount, String> {
    match text.split_once(':') {
        Some((source, target)) if source.starts_with('/') && target.starts_with('/') => {
            Ok(Mount { source: source.to_owned(), target: target.to_owned(), writable: false })
        }
        _ => Err("it is written SOURCE:TARGET, two absolute paths".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn submission(line: &[&str]) -> Result<Submission, String> {
        let line = Line::try_parse_from(["run"].iter().chain(line)).map_err(|error| error.to_string())?;
        Ok(line.run.submission())
    }

    #[test]
    fn every_option_arrives_in_the_submission() {
        let job = submission(&[
            "--image",
            "i:1",
            "--executor",
            "docker",
            "--env",
            "A=1",
            "-e",
            "B=x=y",
            "--env",
            "C=",
            "--timeout",
            "1500ms",
            "--memory",
            "64",
            "--cpus",
            "0.5",
            "--mount",
            "/usr/share:/data",
            "--name",
            "n",
            "--label",
            "k=v",
            "--priority",
            "-5",
            "--",
            "sh",
            "-c",
            "exit 3",
            "--",
        ])
        .expect("parsed");
        assert_eq!(job.validate(), Ok(()));
        let spec = job.spec.expect("inline");
        assert_eq!(spec.image, "i:1");
        assert_eq!(spec.command.expect("given"), ["sh", "-c", "exit 3", "--"]);
        assert_eq!(
            spec.environment,
            map(vec![("A".into(), "1".into()), ("B".into(), "x=y".into()), ("C".into(), String::new())])
        );
        assert_eq!((spec.timeout_seconds, spec.memory_limit_mb, spec.cpu_limit), (Some(2), Some(64), Some(0.5)));
        assert_eq!(spec.mounts, [Mount { source: "/usr/share".into(), target: "/data".into(), writable: false }]);
        assert_eq!(
            (job.name.as_deref(), job.priority, job.preferred_executor),
            (Some("n"), -5, Some(ExecutorType::Docker))
        );
        assert_eq!(job.labels["k"], "v");
    }

    #[test]
    fn every_submission_has_a_key_of_its_own() {
        let key = || submission(&["--image", "i"]).expect("parsed").idempotency_key.expect("a key");
        assert_ne!(key(), key());
    }

    #[test]
    fn a_template_takes_a_command_and_variables_over_its_own() {
        let job = submission(&["--template", "t", "--env", "A=1", "--", "date"]).expect("parsed");
        assert_eq!(job.validate(), Ok(()));
        assert_eq!((job.template.as_deref(), job.spec), (Some("t"), None));
        assert_eq!(job.override_command.expect("given"), ["date"]);
        assert_eq!(job.override_environment["A"], "1");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_option() {
        for (line, says) in [
            (&[][..], "--image"),
            (&["--image", "i", "--template", "t"], "--template"),
            (&["--template", "t", "--memory", "6"], "--memory"),
            (&["--image", "i", "--env", "A"], "KEY=value"),
            (&["--image", "i", "--timeout", "soon"], "30s"),
            (&["--image", "i", "--mount", "here:/data"], "SOURCE:TARGET"),
            (&["--image", "i", "--executor", "podman"], "docker"),
            (&["--image", "i", "sh"], "sh"),
        ] {
            let error = submission(line).expect_err("refused");
            assert!(error.contains(says), "{line:?}: {error}");
        }
    }
}
