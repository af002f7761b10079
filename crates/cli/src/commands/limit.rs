//! `gantry limit`: how many jobs of one kind run at once.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use gantry_api::wire::{LimitList, LimitRequest};
use gantry_core::limits::Kind;

use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, short, table};
use crate::watch::Watch;

const NAME: usize = 48;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the tenant's limits, with what runs and what they hold back
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Set how many jobs of a template, or of a concurrency key, run at once
    Set {
        /// What it counts
        kind: Countable,
        /// The name of the template, or the concurrency key
        name: String,
        /// The most that may run at once, or `none` for any number
        #[arg(long, value_parser = most, value_name = "N")]
        max: Most,
    },
}

/// What a tenant may limit by itself.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Countable {
    Template,
    Key,
}

/// A number, or none at all.
#[derive(Clone, Copy)]
pub(crate) struct Most(pub(super) Option<i32>);

/// `none`, or a number from 0.
pub(super) fn most(text: &str) -> std::result::Result<Most, String> {
    if text == "none" {
        return Ok(Most(None));
    }
    let number = text.parse().ok().filter(|number: &i32| *number >= 0);
    number.map(|number| Most(Some(number))).ok_or_else(|| "it is a number from 0, or `none`".to_owned())
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::List { watch } => watch.print(format, async || client.limits().await, listing).await?,
            Self::Set { kind, name, max } => {
                let kind = match kind {
                    Countable::Template => Kind::Template,
                    Countable::Key => Kind::Key,
                };
                let request = LimitRequest { kind, name, max_running: max.0 };
                client.set_limit(&request).await?;
                format.print(&request, |set| match set.max_running {
                    Some(most) => format!("{} `{}`: at most {most} at once", set.kind, set.name),
                    None => format!("{} `{}`: any number at once", set.kind, set.name),
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn listing(list: &LimitList) -> String {
    let rows = list.limits.iter().map(|limit| {
        [
            limit.kind.to_string(),
            if limit.name.is_empty() { "-".to_owned() } else { short(&limit.name, NAME) },
            limit.running.to_string(),
            limit.max_running.map_or("any".to_owned(), |most| most.to_string()),
            limit.waiting.to_string(),
        ]
    });
    table(["KIND", "NAME", "RUNNING", "MAX", "HELD BACK"], &[2, 3, 4], rows.collect())
}
