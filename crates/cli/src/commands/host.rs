//! `gantry host`.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use gantry_api::wire::{DrainRequest, Host, HostList, HostLostRequest, HostPatch, NewHost};
use gantry_core::ExecutorType;
use gantry_core::capacity::Condition;
use gantry_core::clock::{Clock, SystemClock};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use super::values::{object, one_of};
use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, ago, plain, rough, table};
use crate::watch::Watch;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the hosts that your jobs may run on
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        watch: Watch,
    },
    /// Add a host (with an operator's key)
    Add(Add),
    /// Declare that a host does not come back, and give up what ran there (with an operator's key)
    ///
    /// Nothing is placed there any more. Its attempts end as `lost`, and their jobs are tried again elsewhere, unless
    /// their `on_lost` says `fail`. Nobody makes sure that their containers are gone.
    Lost {
        /// Its name or id
        name: String,
        /// Also if a live worker reaches it
        #[arg(long)]
        force: bool,
    },
    /// Let a host take no new jobs; what runs there runs to its end (with an operator's key)
    Cordon {
        /// Its name or id
        name: String,
    },
    /// Empty a host: no new jobs, and what runs there runs to its end or is moved (with an operator's key)
    Drain {
        /// Its name or id
        name: String,
        /// Stop what runs there, see that it has ended, and try it again elsewhere
        #[arg(long = "move")]
        moves: bool,
    },
    /// Change how many jobs a host runs at once (with an operator's key)
    Set {
        /// Its name or id
        name: String,
        /// The most jobs that it runs at once; fewer than run now is allowed
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
        slots: i32,
    },
    /// Let a host take jobs again (with an operator's key)
    Activate {
        /// Its name or id
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct Add {
    /// Its name
    name: String,
    /// The kind of backend
    #[arg(long, value_parser = one_of::<ExecutorType>(), value_name = "TYPE")]
    executor: ExecutorType,
    /// How to reach it; the shape is the executor's, such as '{"dir": "/var/lib/mock"}' for mock. docs/HOSTS.md has all
    #[arg(long, value_parser = object, value_name = "JSON", required_unless_present = "endpoint")]
    connection: Option<Map<String, Value>>,
    /// The `endpoint` of the connection, such as unix:///var/run/docker.sock
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// How to run things there; the shape is the executor's
    #[arg(long, value_parser = object, value_name = "JSON")]
    executor_config: Option<Map<String, Value>>,
    /// The most jobs that it runs at once
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    slots: i32,
    /// What a started container costs there, in a currency of your choice
    #[arg(long, default_value = "0", value_name = "PRICE")]
    cost_per_job: Decimal,
    /// What an hour of one container costs there, in the same currency
    #[arg(long, default_value = "0", value_name = "PRICE")]
    cost_per_hour: Decimal,
    /// Serve every tenant, not only yours
    #[arg(long)]
    shared: bool,
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        match self {
            Self::List { watch } => {
                let human = |list: &HostList| listing(&list.hosts, SystemClock.now());
                watch.print(format, async || client.hosts().await, human).await?;
            }
            Self::Add(add) => {
                let created = client.add_host(&add.host()).await?;
                format.print(&created, |created| format!("host {} added ({})", created.name, created.id))?;
            }
            Self::Lost { name, force } => {
                let reply = client.host_lost(&name, &HostLostRequest { force }).await?;
                format.print(&reply, |host| {
                    format!("host {} is lost, {} attempts there are given up", host.name, host.slots)
                })?;
            }
            Self::Cordon { name } => {
                let reply = client.cordon_host(&name).await?;
                format
                    .print(&reply, |host| format!("host {} takes no new jobs; {} run there", host.name, host.slots))?;
            }
            Self::Drain { name, moves } => {
                let reply = client.drain_host(&name, &DrainRequest { moves }).await?;
                let fate = if moves { "are moved" } else { "run to their end" };
                format.print(&reply, |host| {
                    format!("host {} takes no new jobs; {} that run there {fate}", host.name, host.slots)
                })?;
            }
            Self::Set { name, slots } => {
                let reply = client.change_host(&name, &HostPatch { max_concurrent_jobs: slots }).await?;
                format.print(&reply, |host| {
                    format!("host {} runs {slots} jobs at once, {} now", host.name, host.slots)
                })?;
            }
            Self::Activate { name } => {
                let reply = client.activate_host(&name).await?;
                format.print(&reply, |host| format!("host {} takes jobs", host.name))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Add {
    fn host(self) -> NewHost {
        let mut connection_config = self.connection.unwrap_or_default();
        connection_config.extend(self.endpoint.map(|endpoint| ("endpoint".to_owned(), json!(endpoint))));
        NewHost {
            name: self.name,
            executor_type: self.executor,
            connection_config,
            executor_config: self.executor_config.unwrap_or_default(),
            max_concurrent_jobs: self.slots,
            cost_per_job: self.cost_per_job,
            cost_per_hour: self.cost_per_hour,
            shared: self.shared,
        }
    }
}

/// Why a host takes no jobs, unless its slots show it.
pub(super) fn trouble(host: &Host) -> Option<&str> {
    host.reason.as_deref().filter(|_| host.condition != Condition::Full || host.max_concurrent_jobs == 0)
}

fn listing(hosts: &[Host], now: DateTime<Utc>) -> String {
    let percent = |host: &Host| host.utilization_percent.map_or("-".to_owned(), |percent| format!("{percent:.1}%"));
    let startup = |host: &Host| {
        let seconds = host.average_startup_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        seconds.map_or("-".to_owned(), rough)
    };
    let rows = hosts.iter().map(|host| {
        [
            host.name.clone(),
            host.executor_type.to_string(),
            host.condition.to_string(),
            format!("{}/{}", host.current_job_count, host.max_concurrent_jobs),
            host.available_slots.to_string(),
            percent(host),
            startup(host),
            host.workers.to_string(),
            match host.last_health_check {
                Some(time) if host.health_check_failures > 0 => {
                    format!("{} failed, last {}", host.health_check_failures, ago(now, time))
                }
                Some(time) => format!("ok {}", ago(now, time)),
                None => "never".to_owned(),
            },
            if host.shared { "all tenants" } else { "this tenant" }.to_owned(),
        ]
    });
    let header = ["NAME", "EXECUTOR", "CONDITION", "SLOTS", "FREE", "USED", "STARTS IN", "WORKERS", "HEALTH", "FOR"];
    let list = table(header, &[3, 4, 5, 6, 7], rows.collect());
    let why = hosts.iter().filter_map(|host| Some(format!("{}: {}", plain(&host.name), plain(trouble(host)?))));
    let why = why.collect::<Vec<_>>().join("\n");
    if why.is_empty() { list } else { format!("{list}\n\n{why}") }
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

    fn add(line: &[&str]) -> Result<NewHost, String> {
        let line = Line::try_parse_from(["host", "add", "h"].iter().chain(line)).map_err(|error| error.to_string())?;
        match line.command {
            Command::Add(add) => Ok(add.host()),
            _ => unreachable!("the line says add"),
        }
    }

    #[test]
    fn an_endpoint_is_part_of_the_connection() {
        let host =
            add(&["--executor", "docker", "--endpoint", "unix:///d.sock", "--slots", "2", "--shared"]).expect("a host");
        assert_eq!(Value::Object(host.connection_config), json!({"endpoint": "unix:///d.sock"}));
        assert_eq!((host.max_concurrent_jobs, host.shared, host.name.as_str()), (2, true, "h"));
        let host = add(&["--executor", "mock", "--connection", r#"{"dir":"/m"}"#]).expect("a host");
        assert_eq!(Value::Object(host.connection_config), json!({"dir": "/m"}));
        let both = ["--executor", "docker", "--endpoint", "tcp://h:2376", "--connection", r#"{"tls":{}}"#];
        let host = add(&both).expect("a host");
        assert_eq!(Value::Object(host.connection_config), json!({"endpoint": "tcp://h:2376", "tls": {}}));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (line, says) in [
            (&["--executor", "docker"][..], "--connection"),
            (&["--executor", "podman"], "docker"),
            (&["--executor", "mock", "--connection", "[]"], "JSON object"),
            (&["--executor", "mock", "--slots=-1"], "--slots"),
        ] {
            let error = add(line).expect_err("refused");
            assert!(error.contains(says), "{line:?}: {error}");
        }
    }
}
