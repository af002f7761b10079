//! What a job is, on the command line.

use clap::Args;
use gantry_core::gpus::Gpus;
use gantry_core::spec::{ContainerSpec, Mount, Submission, SubmissionVersion};
use gantry_core::{ExecutorType, lost};

use super::super::values::{duration, map, one_of, pair};
use crate::error::{Error, Result};

/// The options of a job that is submitted now or later.
#[derive(Args)]
pub(in crate::commands) struct Options {
    /// The image
    #[arg(long, value_name = "IMAGE")]
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
    /// Whom it runs as: a name or number, with :GROUP if wanted
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Let it change nothing but /tmp, which is memory then
    #[arg(long)]
    read_only_root: bool,
    /// GPUs, where the host allows them: a number, or all
    #[arg(long, value_parser = gpus, value_name = "N")]
    gpus: Option<Gpus>,
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
    /// Share a limit with the tenant's other jobs of this key: one at a time, unless `gantry limit set` says otherwise
    #[arg(long, value_name = "KEY")]
    concurrency_key: Option<String>,
    /// -100 to 100; higher goes first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_name = "N")]
    priority: i16,
    /// The command's words; if not given, the image's own command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Options {
    /// The submission, without an idempotency key and due at once.
    ///
    /// # Errors
    /// Where neither an image nor a template is given.
    pub(in crate::commands) fn submission(self) -> Result<Submission> {
        let command = Some(self.command).filter(|words| !words.is_empty());
        let environment = map(self.env);
        // A template has the container; what is given here is laid over it.
        let (spec, override_command, override_environment) = match self.image {
            None if self.template.is_none() => {
                return Err(Error::Usage("give an --image, or a --template that has one".into()));
            }
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
                    user: self.user,
                    read_only_root: self.read_only_root,
                    gpus: self.gpus,
                    retry: Default::default(),
                    on_lost: self.on_lost.unwrap_or_default(),
                };
                (Some(spec), None, Default::default())
            }
        };
        Ok(Submission {
            version: SubmissionVersion::V1,
            name: self.name,
            idempotency_key: None,
            project: None,
            template: self.template,
            spec,
            preferred_executor: self.executor,
            override_command,
            override_environment,
            concurrency_key: self.concurrency_key,
            priority: self.priority,
            labels: map(self.label),
            not_before: None,
            queue_timeout_seconds: None,
        })
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

fn gpus(text: &str) -> Result<Gpus, String> {
    match text {
        "all" => Ok(Gpus::ALL),
        number => number.parse().map(Gpus::Count).map_err(|_| "it is a number, or all".to_owned()),
    }
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
        options: Options,
    }

    fn submission(line: &[&str]) -> Result<Submission, String> {
        let line = Line::try_parse_from(["run"].iter().chain(line)).map_err(|error| error.to_string())?;
        line.options.submission().map_err(|error| error.to_string())
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
            "--user",
            "1000:1000",
            "--read-only-root",
            "--gpus",
            "2",
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
            (spec.user.as_deref(), spec.read_only_root, spec.gpus),
            (Some("1000:1000"), true, Some(Gpus::Count(2)))
        );
        assert_eq!(
            (job.name.as_deref(), job.priority, job.preferred_executor),
            (Some("n"), -5, Some(ExecutorType::Docker))
        );
        assert_eq!(job.labels["k"], "v");
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
