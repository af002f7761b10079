//! `gantry template` and `gantry environment`: what jobs are made of by name.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use gantry_api::wire::{EnvironmentList, NewEnvironment, Template, TemplateList};
use gantry_core::env;

use super::values::{document, text};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::output::{Format, fields, short, table};

const NAME: usize = 40;
const IMAGE: usize = 60;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a container template, or replace the one of this name; jobs keep what they were made with
    Put(Put),
    /// List container templates, by name
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a container template
    Show {
        /// Its name
        name: String,
    },
}

#[derive(Subcommand)]
pub(crate) enum Environment {
    /// Make an environment template, or replace the one of this name, from lines of KEY=value
    Put(Put),
    /// List environment templates, by name
    #[command(visible_alias = "ls")]
    List(List),
}

#[derive(Args)]
pub(crate) struct Put {
    /// Its name
    name: String,
    /// What it is: a file, or `-` for stdin. A container template is YAML or JSON
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args)]
pub(crate) struct List {
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
    /// Only those behind this name
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
}

impl List {
    fn query(self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.after.map(|after| ("after", after)));
        query
    }
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::Put(Put { name, file }) => {
                let template = client.put_template(&name, &document(&file)?).await?;
                format.print(&template, |template| format!("template {} ({})", template.name, template.id))?;
            }
            Self::List(list) => format.print(&client.templates(&list.query()).await?, listing)?,
            Self::Show { name } => format.print(&client.template(&name).await?, detail)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Environment {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::Put(Put { name, file }) => {
                let environment =
                    env::parse(&text(&file)?).map_err(|error| Error::Usage(format!("{}, {error}", file.display())))?;
                let stored = client.put_environment(&name, &NewEnvironment { environment }).await?;
                format.print(&stored, |stored| {
                    format!("environment {}: {} variables", stored.name, stored.environment.len())
                })?;
            }
            Self::List(list) => format.print(&client.environments(&list.query()).await?, environments)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where it may run, in its order.
fn executors(template: &Template) -> String {
    let names: Vec<&str> = template.container.supported_executors.iter().map(|executor| executor.as_str()).collect();
    if names.is_empty() { "any".to_owned() } else { names.join(", ") }
}

fn listing(list: &TemplateList) -> String {
    let rows = list.templates.iter().map(|template| {
        let timeout = template.container.timeout_seconds.map_or("-".to_owned(), |seconds| format!("{seconds}s"));
        [short(&template.name, NAME), short(&template.container.image, IMAGE), executors(template), timeout]
    });
    table(["NAME", "IMAGE", "EXECUTORS", "TIMEOUT"], &[3], rows.collect())
}

fn detail(template: &Template) -> String {
    let container = &template.container;
    let lines = |environment: &env::Environment| {
        let pairs: Vec<_> = environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join(" "))
    };
    fields(&[
        ("template", Some(template.name.clone())),
        ("id", Some(template.id.to_string())),
        ("description", (!container.description.is_empty()).then(|| container.description.clone())),
        ("image", Some(container.image.clone())),
        ("command", container.command.as_ref().map(|words| words.join(" "))),
        ("working dir", container.working_dir.clone()),
        ("environment of", container.environment_template.clone()),
        ("environment", lines(&container.environment)),
        ("executors", Some(executors(template))),
        ("timeout", container.timeout_seconds.map(|seconds| format!("{seconds}s"))),
        ("memory", container.memory_limit_mb.map(|mb| format!("{mb} MiB"))),
        ("cpus", container.cpu_limit.map(|cpus| cpus.to_string())),
        ("attempts", Some(container.retry.max_attempts.to_string())),
        ("made by", Some(template.created_by.clone())),
        ("made at", Some(template.created_at.to_rfc3339())),
    ])
}

fn environments(list: &EnvironmentList) -> String {
    let rows = list.environments.iter().map(|template| {
        let names: Vec<&str> = template.environment.keys().map(String::as_str).collect();
        [short(&template.name, NAME), short(&names.join(", "), IMAGE)]
    });
    table(["NAME", "VARIABLES"], &[], rows.collect())
}
