//! `gantry schedule`.

mod put;
mod view;

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gantry_api::wire::ScheduleList;
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::schedule::Calendar;

use super::Global;
use crate::error::{Error, Result};
use crate::watch::Watch;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a schedule, or replace the one of this name
    ///
    /// At each due time it submits the job that the other options describe, as `gantry job run` would.
    Put(Box<put::Put>),
    /// List schedules, by name
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a schedule
    Show {
        /// Its name
        name: String,
    },
    /// List what became of a schedule's due times, newest first
    Runs(Runs),
    /// Submit nothing until it is resumed
    Pause {
        /// Its name
        name: String,
    },
    /// Go on with the first due time from now on
    Resume {
        /// Its name
        name: String,
    },
    /// Make a job of it now, outside its calendar
    Trigger {
        /// Its name
        name: String,
    },
    /// Delete a schedule; its jobs stay
    #[command(visible_alias = "rm")]
    Delete {
        /// Its name
        name: String,
    },
    /// Print when a calendar is due next, without asking Gantry
    Next(Next),
}

#[derive(Args)]
pub(crate) struct List {
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only those behind this name
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
    #[command(flatten)]
    watch: Watch,
}

#[derive(Args)]
pub(crate) struct Runs {
    /// Its name
    name: String,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only due times before this one
    #[arg(long, value_name = "TIME")]
    before: Option<DateTime<Utc>>,
}

#[derive(Args)]
pub(crate) struct Next {
    #[command(flatten)]
    when: put::When,
    /// How many due times
    #[arg(short = 'n', long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
    /// Begin after this time instead of now
    #[arg(long, value_name = "TIME")]
    after: Option<DateTime<Utc>>,
}

impl Command {
    pub(crate) async fn run(self, global: &Global) -> Result<ExitCode> {
        let format = global.output;
        let now = SystemClock.now();
        match self {
            Self::Put(put) => {
                let (name, new) = put.schedule()?;
                let schedule = global.client()?.put_schedule(&name, &new).await?;
                format.print(&schedule, |schedule| view::stored(schedule, now))?;
            }
            Self::List(List { limit, after, watch }) => {
                let mut query = vec![("limit", limit.to_string())];
                query.extend(after.map(|after| ("after", after)));
                let client = global.client()?;
                let human = |list: &ScheduleList| view::listing(list, SystemClock.now());
                watch.print(format, async || client.schedules(&query).await, human).await?;
            }
            Self::Show { name } => {
                let schedule = global.client()?.schedule(&name).await?;
                format.print(&schedule, |schedule| view::detail(schedule, now))?;
            }
            Self::Runs(Runs { name, limit, before }) => {
                let mut query = vec![("limit", limit.to_string())];
                query.extend(before.map(|before| ("before", before.to_rfc3339())));
                let runs = global.client()?.schedule_runs(&name, &query).await?;
                format.print(&runs, |runs| view::runs(runs, now))?;
            }
            Self::Pause { name } => {
                let schedule = global.client()?.pause_schedule(&name).await?;
                format.print(&schedule, |schedule| format!("schedule {} is paused", schedule.name))?;
            }
            Self::Resume { name } => {
                let schedule = global.client()?.resume_schedule(&name).await?;
                format.print(&schedule, |schedule| view::stored(schedule, now))?;
            }
            Self::Trigger { name } => {
                let accepted = global.client()?.trigger_schedule(&name).await?;
                format.print(&accepted, |accepted| accepted.id.to_string())?;
            }
            Self::Delete { name } => {
                global.client()?.delete_schedule(&name).await?;
                format.print(&serde_json::json!({ "deleted": name }), |_| format!("schedule {name} is deleted"))?;
            }
            Self::Next(next) => {
                let times = next.times(now)?;
                format.print(&times, |times| times.join("\n"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Next {
    /// The due times, in the calendar's own zone.
    fn times(&self, now: DateTime<Utc>) -> Result<Vec<String>> {
        let put::When { cron, time_zone } = &self.when;
        let calendar = Calendar::parse(cron, time_zone).map_err(|problem| Error::Usage(problem.to_string()))?;
        let mut times = Vec::new();
        let mut time = self.after.unwrap_or(now);
        for _ in 0..self.count {
            let Some(next) = calendar.next_after(time) else { break };
            times.push(calendar.local(next));
            time = next;
        }
        match times.is_empty() {
            true => Err(Error::Usage(format!("`{cron}` never comes due: there is no such date"))),
            false => Ok(times),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        next: Next,
    }

    fn times(line: &[&str]) -> Result<Vec<String>, String> {
        let line = Line::try_parse_from(["next"].iter().chain(line)).map_err(|error| error.to_string())?;
        line.next.times(DateTime::UNIX_EPOCH).map_err(|error| error.to_string())
    }

    #[test]
    fn due_times_are_told_in_their_zone() {
        let after = ["--after", "2026-03-28T12:00:00Z", "-n", "2"];
        let line = [&["--cron", "30 2 * * *", "--time-zone", "Europe/Paris"], &after[..]].concat();
        assert_eq!(times(&line).expect("due"), ["2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]);
        assert_eq!(times(&["--cron", "@daily"]).expect("due").len(), 5);
    }

    #[test]
    fn what_is_never_due_or_makes_no_sense_is_told() {
        for (cron, zone, says) in
            [("0 0 30 2 *", "UTC", "never"), ("0 24 * * *", "UTC", "the hour"), ("@daily", "Paris", "Europe/Paris")]
        {
            let error = times(&["--cron", cron, "--time-zone", zone]).expect_err("refused");
            assert!(error.contains(says), "{error}");
        }
    }
}
