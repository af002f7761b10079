//! The command line.

mod audit;
mod cost;
mod db;
mod dlq;
mod host;
mod job;
mod limit;
mod route;
mod schedule;
mod slots;
mod template;
pub(crate) mod tenant;
mod top;
mod values;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use reqwest::Url;

use crate::client::Client;
use crate::dev::Dev;
use crate::error::Result;
use crate::output::Format;

/// Gantry: one queue in front of every place a team can run a container.
#[derive(Parser)]
#[command(name = "gantry", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args)]
pub(crate) struct Global {
    /// The address of Gantry's API
    #[arg(long, env = "GANTRY_URL", default_value = "http://127.0.0.1:8080", global = true, value_name = "URL")]
    url: Url,
    /// The API key to identify with
    #[arg(long, env = "GANTRY_API_KEY", hide_env_values = true, global = true, value_name = "KEY")]
    api_key: Option<String>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t, global = true, value_name = "FORM")]
    pub(crate) output: Format,
}

impl Global {
    fn client(&self) -> Result<Client> {
        Client::new(&self.url, self.api_key.as_deref())
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: private servers, every part, no setup
    Dev(Dev),
    /// Run jobs and look at them
    #[command(subcommand)]
    Job(job::Command),
    /// Make and look at what jobs are made of by name
    #[command(subcommand)]
    Template(template::Command),
    /// Make and look at environment variables that container templates build on
    #[command(subcommand)]
    Environment(template::Environment),
    /// Submit jobs by a calendar
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Look at the hosts that run containers, add some, drain some, give some up
    #[command(subcommand)]
    Host(host::Command),
    /// Look at who holds the slots of the hosts
    Slots(slots::Slots),
    /// Look at everything at once, live: the backlog and why it waits, the hosts, the rates, the last ends
    Top(top::Top),
    /// Look at how many jobs of one kind may run at once, and change it
    #[command(subcommand)]
    Limit(limit::Command),
    /// Look at what jobs cost, by tenant, template, host, executor type or job
    Cost(cost::Cost),
    /// Ask where a job would go, without submitting it
    #[command(subcommand)]
    Route(route::Command),
    /// Look at what could not be processed, replay it or drop it
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Look at what operators did (with an operator's key)
    Audit(audit::Audit),
    /// Make, check and fill the database (directly, without the API)
    #[command(subcommand)]
    Db(db::Command),
    /// Make tenants and their API keys (directly in the database)
    #[command(subcommand)]
    Tenant(tenant::Command),
}

impl Cli {
    /// Does what the command line says; `dev` is a process of its own kind and not done here.
    pub(crate) async fn run(self) -> Result<ExitCode> {
        let global = &self.global;
        match self.command {
            Command::Job(command) => command.run(&global.client()?, global.output).await,
            Command::Host(command) => command.run(&global.client()?, global.output).await,
            Command::Template(command) => command.run(&global.client()?, global.output).await,
            Command::Environment(command) => command.run(&global.client()?, global.output).await,
            Command::Limit(command) => command.run(&global.client()?, global.output).await,
            Command::Route(command) => command.run(&global.client()?, global.output).await,
            Command::Schedule(command) => command.run(global).await,
            Command::Slots(slots) => slots.run(&global.client()?, global.output).await,
            Command::Top(top) => top.run(&global.client()?, global.output).await,
            Command::Cost(cost) => cost.run(&global.client()?, global.output).await,
            Command::Dlq(command) => command.run(&global.client()?, global.output).await,
            Command::Audit(audit) => audit.run(&global.client()?, global.output).await,
            Command::Db(command) => command.run(global.output).await,
            Command::Tenant(command) => command.run(global.output).await,
            Command::Dev(dev) => Ok(dev.main()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn secrets_of_the_environment_are_not_shown_in_help() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let secret = argument
                    .get_env()
                    .is_some_and(|name| ["GANTRY_API_KEY", "GANTRY_DATABASE_URL"].iter().any(|s| name == *s));
                assert!(!secret || argument.is_hide_env_values_set(), "{} {argument}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn global_options_stand_anywhere_before_the_containers_command() {
        let cli = |line: &str| Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string());
        for line in [
            "gantry -o json job run --image i -- sh -o x",
            "gantry job -o json run --image i -- sh",
            "gantry job run --image i -o json -- sh",
            "gantry job list -o json",
            "gantry db migrate -o json --database-url postgres://h",
        ] {
            assert_eq!(cli(line).expect(line).global.output, Format::Json, "{line}");
        }
        assert_eq!(cli("gantry job run --image i -- sh -o json").expect("parsed").global.output, Format::Table);
        assert!(cli("gantry job list --url nowhere").is_err());
    }
}
