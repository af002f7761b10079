//! `gantry job`.

mod bulk;
mod follow;
mod interrupt;
mod logs;
pub(super) mod options;
mod run;
mod view;
mod wait;
mod why;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use gantry_api::wire::{AbandonRequest, CancelResult, JobList};
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::{ExecutorType, JobId, Status};

use super::values::{duration, one_of};
use crate::client::Client;
use crate::error::Result;
use crate::exit::End;
use crate::output::{Format, note};
use crate::watch::Watch;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a container: follow its output and exit with its exit code
    ///
    /// Exits with the container's own code, or: 124 if the job ran or waited too long, 125 if it failed without an
    /// exit code (the reason is told on stderr), 130 if it was cancelled, 1 if Gantry refused it or was lost. Ctrl-C
    /// asks to cancel the job; a second one leaves at once. With `-o json` the output is not followed: the job is
    /// printed when it has ended.
    Run(Box<run::Run>),
    /// List jobs, newest first
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a job and its attempts
    Show {
        /// The job's id
        id: JobId,
    },
    /// Do something to many jobs at once: count first, then change them batch by batch
    #[command(subcommand)]
    Bulk(bulk::Command),
    /// Say why a job is where it is: what it waits for and what would let it run, or how it went
    Why {
        /// The job's id
        id: JobId,
        /// Go on and tell whenever that changes, until the job has ended; with `-o json` an explanation a line
        #[arg(short, long)]
        watch: bool,
    },
    /// Print a job's output: its stdout to stdout, its stderr to stderr
    Logs {
        /// The job's id
        id: JobId,
        /// Go on until the job has ended; with `-o json` a chunk a line
        #[arg(short, long)]
        follow: bool,
    },
    /// Ask for a job's end
    Cancel {
        /// The job's id
        id: JobId,
    },
    /// Give up a running job whose host does not come back (with an operator's key)
    ///
    /// Nobody makes sure that its container is gone: it may run beside whatever comes next. The job ends as `failed`,
    /// unless it may be tried again. A job whose host answers can be cancelled instead.
    Abandon {
        /// The job's id
        id: JobId,
        /// That you know what it means
        #[arg(long)]
        force: bool,
        /// Try the job again, if its infrastructure budget allows
        #[arg(long)]
        retry: bool,
    },
    /// Wait for a job's end and exit as `job run` does
    Wait {
        /// The job's id
        id: JobId,
        /// How long to wait, such as 30s or 5m; exits with 125 if the job has not ended by then
        #[arg(long, value_parser = duration, value_name = "TIME")]
        timeout: Option<Duration>,
    },
}

#[derive(Args)]
pub(crate) struct List {
    /// Only with this status; may be given more than once
    #[arg(long, value_parser = one_of::<Status>(), value_name = "STATUS", value_delimiter = ',')]
    status: Vec<Status>,
    /// Only routed to this executor
    #[arg(long, value_parser = one_of::<ExecutorType>(), value_name = "TYPE")]
    executor: Option<ExecutorType>,
    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    watch: Watch,
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::Run(run) => return run.run(client, format).await,
            Self::Bulk(command) => return command.run(client, format).await,
            Self::List(list) => {
                let human = |list: &JobList| view::list(list, SystemClock.now());
                list.watch.print(format, async || list.get(client).await, human).await?;
            }
            Self::Show { id } => {
                let now = SystemClock.now();
                format.print(&client.job(id, None).await?, |job| view::detail(job, now))?;
            }
            Self::Why { id, watch } => why::print(client, id, watch, format).await?,
            Self::Logs { id, follow } => logs::print(client, id, follow, format).await?,
            Self::Cancel { id } => {
                format.print(&client.cancel(id).await?, |reply| match reply.result {
                    CancelResult::Cancelled => format!("job {id} is cancelled"),
                    CancelResult::Requested => format!("job {id} runs: its container is being stopped"),
                })?;
            }
            Self::Abandon { id, force, retry } => {
                let reply = client.abandon(id, &AbandonRequest { force, retry }).await?;
                format.print(&reply, |reply| match reply.already {
                    false => format!("attempt {} of job {id} is given up", reply.attempt),
                    true => format!("attempt {} of job {id} was given up before", reply.attempt),
                })?;
            }
            Self::Wait { id, timeout } => {
                let job = wait::to_end(client, id, timeout).await?;
                let now = SystemClock.now();
                format.print(&job, |job| view::list(&JobList { jobs: vec![job.job.clone()], next: None }, now))?;
                return Ok(ended(End::from(&job.job), format));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    /// As many pages as it takes.
    async fn get(&self, client: &Client) -> Result<JobList> {
        let mut all = JobList { jobs: Vec::new(), next: None };
        loop {
            let missing = self.limit as usize - all.jobs.len();
            let mut query: Vec<(&str, String)> = vec![("limit", missing.min(PAGE).to_string())];
            if !self.status.is_empty() {
                let names: Vec<&str> = self.status.iter().map(|status| status.as_str()).collect();
                query.push(("status", names.join(",")));
            }
            query.extend(self.executor.map(|executor| ("executor", executor.to_string())));
            query.extend(all.next.map(|before| ("before", before.to_string())));
            let page = client.jobs(&query).await?;
            all.jobs.extend(page.jobs);
            all.next = page.next;
            if all.next.is_none() || all.jobs.len() >= self.limit as usize {
                return Ok(all);
            }
        }
    }
}

/// The most that is asked for at once.
const PAGE: usize = 100;

/// Says why a job did not complete, and what to exit with. With JSON the job itself says it.
fn ended(end: End<'_>, format: Format) -> ExitCode {
    if let (Format::Table, Some(reason)) = (format, end.reason()) {
        note(&format!("gantry: {reason}"));
    }
    ExitCode::from(end.code())
}
