//! `gantry job bulk`.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gantry_api::wire::{BulkCount, BulkOperation, BulkReply, BulkRequest};
use gantry_core::bulk::{Action, Filter, State};
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::{BulkId, ExecutorType, Status, WaitingReason};

use super::interrupt::Interrupts;
use crate::client::Client;
use crate::commands::values::{map, one_of, pair};
use crate::error::{Error, Result};
use crate::exit;
use crate::output::{Format, ago, fields, note};
use crate::patience::Patience;

/// Between two looks at how far it has come.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask for the end of many jobs: those that wait are cancelled, those that run are stopped
    Cancel(Choice),
    /// Submit many ended jobs anew, each as a new job with the same spec: an end is final
    Retry(Choice),
    /// Give many pending jobs another priority
    Prioritise {
        /// The new priority, -100 to 100; higher goes first
        #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = clap::value_parser!(i16).range(-100..=100))]
        priority: i16,
        #[command(flatten)]
        choice: Choice,
    },
    /// Send many pending jobs to another executor type, where their templates and the hosts allow it
    Move {
        /// The new executor type
        #[arg(long, value_parser = one_of::<ExecutorType>(), value_name = "TYPE")]
        to: ExecutorType,
        #[command(flatten)]
        choice: Choice,
    },
    /// Show how far an operation has come
    Show {
        /// The operation's id
        id: BulkId,
    },
    /// Follow an operation until it is done; Ctrl-C leaves it running
    Follow {
        /// The operation's id
        id: BulkId,
    },
    /// Stop an operation; what it has changed stays changed
    Stop {
        /// The operation's id
        id: BulkId,
    },
}

/// Which jobs, and how surely.
#[derive(Args)]
pub(crate) struct Choice {
    /// Only with this status; may be given more than once
    #[arg(long, value_parser = one_of::<Status>(), value_name = "STATUS", value_delimiter = ',')]
    status: Vec<Status>,
    /// Only made from the template of this name
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// Only in the project of this name
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only with this label; may be given more than once
    #[arg(long, value_parser = pair, value_name = "KEY=value")]
    label: Vec<(String, String)>,
    /// Only routed to this executor type
    #[arg(long, value_parser = one_of::<ExecutorType>(), value_name = "TYPE")]
    executor: Option<ExecutorType>,
    /// Only accepted at this time or later, such as 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    created_after: Option<DateTime<Utc>>,
    /// Only accepted before this time
    #[arg(long, value_name = "TIME")]
    created_before: Option<DateTime<Utc>>,
    /// Only waiting for this
    #[arg(long, value_parser = one_of::<WaitingReason>(), value_name = "REASON")]
    waiting: Option<WaitingReason>,
    /// Only with a name that begins so
    #[arg(long, value_name = "PREFIX")]
    name: Option<String>,
    /// Every job that can be changed, if nothing else is given
    #[arg(long)]
    all: bool,
    /// Only count what would be changed
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::Cancel(choice) => choice.run(client, format, Action::Cancel, None, None).await,
            Self::Retry(choice) => choice.run(client, format, Action::Retry, None, None).await,
            Self::Prioritise { priority, choice } => {
                choice.run(client, format, Action::Prioritise, Some(priority), None).await
            }
            Self::Move { to, choice } => choice.run(client, format, Action::Move, None, Some(to)).await,
            Self::Show { id } => {
                print(format, &client.bulk(id).await?)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Follow { id } => follow(client, client.bulk(id).await?, format).await,
            Self::Stop { id } => {
                print(format, &client.stop_bulk(id).await?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Choice {
    async fn run(
        self,
        client: &Client,
        format: Format,
        action: Action,
        priority: Option<i16>,
        executor_type: Option<ExecutorType>,
    ) -> Result<ExitCode> {
        let (dry_run, yes, all) = (self.dry_run, self.yes, self.all);
        let request = BulkRequest { action, filter: self.filter(), priority, executor_type, dry_run: true, all };
        if request.filter.is_empty() && !all && !dry_run {
            return Err(Error::Usage("say which jobs, such as --status or --name, or --all for every one".into()));
        }
        let asks = !yes && !dry_run;
        if dry_run || asks {
            let BulkReply::Counted(count) = client.start_bulk(&request).await? else {
                return Err(Error::Usage("the API started what it was asked to count".into()));
            };
            if dry_run {
                format.print(&count, |count| counted(action, count))?;
                return Ok(ExitCode::SUCCESS);
            }
            if !confirmed(action, &count)? {
                note("gantry: nothing was changed");
                return Ok(ExitCode::from(exit::ERROR));
            }
        }
        let BulkReply::Started(operation) = client.start_bulk(&BulkRequest { dry_run: false, ..request }).await? else {
            return Err(Error::Usage("the API counted what it was asked to start".into()));
        };
        follow(client, *operation, format).await
    }

    fn filter(self) -> Filter {
        let labels: BTreeMap<String, String> = map(self.label);
        Filter {
            statuses: self.status,
            template: self.template,
            project: self.project,
            labels,
            executor_type: self.executor,
            created_after: self.created_after,
            created_before: self.created_before,
            waiting_reason: self.waiting,
            name_prefix: self.name,
        }
    }
}

/// Shows the count and asks; without a terminal there is nobody to ask.
fn confirmed(action: Action, count: &BulkCount) -> Result<bool> {
    note(&format!("gantry: {}", counted(action, count)));
    if !io::stdin().is_terminal() {
        return Err(Error::Usage("nobody can be asked here: add --yes, or --dry-run to only count".into()));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "Go on? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Follows an operation to its end.
async fn follow(client: &Client, mut operation: BulkOperation, format: Format) -> Result<ExitCode> {
    let id = operation.id;
    let mut interrupts = Interrupts::new()?;
    let followed = interrupts
        .or_leave(async {
            let mut patience = Patience::new();
            let mut told = 0;
            while operation.state == State::Running {
                tokio::time::sleep(PAUSE).await;
                match client.bulk(id).await {
                    Ok(seen) => {
                        patience.renew();
                        operation = seen;
                    }
                    Err(error) => patience.after(error).await?,
                }
                if format == Format::Table && operation.matched > told {
                    told = operation.matched;
                    note(&format!("gantry: {}", progress(&operation)));
                }
            }
            Ok::<_, Error>(operation)
        })
        .await;
    match followed {
        Some(operation) => {
            print(format, &operation?)?;
            Ok(ExitCode::SUCCESS)
        }
        None => {
            note(&format!(
                "gantry: it goes on; `gantry job bulk follow {id}` follows it again, `gantry job bulk stop {id}` stops it"
            ));
            Ok(ExitCode::from(exit::INTERRUPTED))
        }
    }
}

fn print(format: Format, operation: &BulkOperation) -> Result<()> {
    let now = SystemClock.now();
    format.print(operation, |operation| shown(operation, now))
}

fn shown(operation: &BulkOperation, now: DateTime<Utc>) -> String {
    let filter = serde_json::to_string(&operation.filter).ok().filter(|filter| filter != "{}");
    fields(&[
        ("id", Some(operation.id.to_string())),
        ("action", Some(operation.action.to_string())),
        ("priority", operation.priority.map(|priority| priority.to_string())),
        ("executor", operation.executor_type.map(|executor| executor.to_string())),
        ("jobs", filter.or_else(|| Some("all".to_owned()))),
        ("state", Some(operation.state.to_string())),
        ("so far", Some(progress(operation))),
        ("asked for", Some(format!("{} by {}", ago(now, operation.created_at), operation.actor))),
        ("finished", operation.finished_at.map(|at| ago(now, at))),
    ])
}

fn progress(operation: &BulkOperation) -> String {
    format!("{} of {} jobs changed{}", operation.changed, operation.matched, left_out(&operation.skipped))
}

fn counted(action: Action, count: &BulkCount) -> String {
    let most = if count.complete { "" } else { " at least" };
    let deed = match action {
        Action::Cancel => "would be cancelled",
        Action::Retry => "would be submitted anew",
        Action::Prioritise => "would get the new priority",
        Action::Move => "would be moved",
    };
    format!("{}{most} of {} jobs {deed}{}", count.changed, count.matched, left_out(&count.skipped))
}

/// `; left as they are: 3 has_ended, 1 no_host`.
fn left_out(skipped: &BTreeMap<String, i64>) -> String {
    let told: Vec<String> = skipped.iter().map(|(why, jobs)| format!("{jobs} {why}")).collect();
    if told.is_empty() { String::new() } else { format!("; left as they are: {}", told.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn a_filter_is_what_the_options_say() {
        let line = "bulk cancel --status pending,running --label team=a --label x=1 --executor docker --waiting host_full \
                    --name nightly- --created-before 2026-01-31T00:00:00Z";
        let Command::Cancel(choice) = Line::parse_from(line.split_whitespace()).command else { panic!("a cancel") };
        let filter = choice.filter();
        assert_eq!(filter.statuses, [Status::Pending, Status::Running]);
        assert_eq!(filter.labels.len(), 2);
        assert_eq!(filter.waiting_reason, Some(WaitingReason::HostFull));
        assert_eq!(filter.created_before.map(|at| at.timestamp()), Some(1_769_817_600));
        let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(drop).map_err(|error| error.to_string());
        assert!(parse("bulk prioritise --priority -5 --all").is_ok());
        assert!(parse("bulk prioritise --priority 101 --all").is_err());
        assert!(parse("bulk move --all").is_err_and(|error| error.contains("--to")));
    }

    #[test]
    fn counts_say_what_is_left_out_and_why() {
        let skipped = BTreeMap::from([("has_ended".to_owned(), 3), ("no_host".to_owned(), 1)]);
        let count = BulkCount { matched: 10, changed: 6, skipped, complete: false };
        assert_eq!(
            counted(Action::Move, &count),
            "6 at least of 10 jobs would be moved; left as they are: 3 has_ended, 1 no_host"
        );
    }
}
