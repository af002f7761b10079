//! `gantry db`: the database itself, without the API.

mod seed;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use gantry_store::validate::Drift;
use gantry_store::{Config, Store, schema, validate};
use reqwest::Url;
use serde::Serialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::exit;
use crate::output::Format;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make the schema, if it is not there yet (as its owner)
    Migrate {
        #[command(flatten)]
        database: Database,
    },
    /// Compare the schema with what this version makes; exits with 1 if there is any difference
    ///
    /// Makes a scratch database on the same server for the comparison, and drops it again. Needs a role that may
    /// create databases and roles.
    Validate {
        #[command(flatten)]
        database: Database,
    },
    /// Delete everything and make the schema anew (as its owner; for development)
    Reset {
        /// Really delete everything
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        database: Database,
    },
    /// Fill the database with two tenants, hosts, templates and jobs (for development)
    ///
    /// What is there already stays; each time the tenants get new API keys, which are printed.
    Seed {
        #[command(flatten)]
        seed: seed::Options,
        #[command(flatten)]
        database: Database,
    },
}

/// Where the database is.
#[derive(Args)]
pub(crate) struct Database {
    /// The address of the database: postgres://user:password@host:port/database
    #[arg(long, env = "GANTRY_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Url,
}

#[derive(Serialize)]
struct Validated {
    drifts: Vec<Drift>,
}

impl Command {
    pub(crate) async fn run(self, format: Format) -> Result<ExitCode> {
        match self {
            Self::Migrate { database } => {
                schema::migrate(database.url()).await.map_err(|error| database.failed(error))?;
                format.print(&json!({ "migrated": database.place() }), |_| {
                    format!("{} has the schema", database.place())
                })?;
            }
            Self::Validate { database } => {
                let drifts = validate::validate(database.url())
                    .await
                    .map_err(|source| Error::Validate { place: database.place(), source })?;
                let found = !drifts.is_empty();
                format.print(&Validated { drifts }, |validated| told(&validated.drifts, &database))?;
                return Ok(ExitCode::from(if found { exit::ERROR } else { 0 }));
            }
            Self::Reset { yes, database } => {
                let place = database.place();
                if !yes {
                    let message = format!(
                        "this deletes every table, type and function in the schema `public` of {place}, with all jobs, logs and keys; say --yes to do it"
                    );
                    return Err(Error::Usage(message));
                }
                schema::reset(database.url()).await.map_err(|error| database.failed(error))?;
                format.print(&json!({ "reset": place }), |_| format!("{place} is empty and has the schema"))?;
            }
            Self::Seed { seed, database } => {
                let store = database.open().await?;
                let seeded = seed.plant(&store).await.map_err(|error| database.failed(error))?;
                store.close().await;
                format.print(&seeded, |seeded| seeded.to_string())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn told(drifts: &[Drift], database: &Database) -> String {
    if drifts.is_empty() {
        return format!("{} has the schema of this version", database.place());
    }
    let count = if drifts.len() == 1 { "1 difference".to_owned() } else { format!("{} differences", drifts.len()) };
    let drifts: Vec<String> = drifts.iter().map(Drift::to_string).collect();
    format!("{}\n\n{}: {count} to the schema of this version", drifts.join("\n"), database.place())
}

impl Database {
    fn url(&self) -> &str {
        self.database_url.as_str()
    }

    /// The address without its secrets.
    fn place(&self) -> String {
        let database = self.database_url.path().trim_start_matches('/');
        let host = self.database_url.host_str().unwrap_or("the local socket");
        match self.database_url.port() {
            Some(port) => format!("database {database} at {host}:{port}"),
            None => format!("database {database} at {host}"),
        }
    }

    /// The store, once Postgres has answered.
    pub(super) async fn open(&self) -> Result<Store> {
        let store = Store::new(&Config::new(self.url()), "gantry-cli").map_err(|error| self.failed(error))?;
        store.ping().await.map_err(|error| self.failed(error))?;
        Ok(store)
    }

    pub(super) fn failed(&self, source: gantry_store::Error) -> Error {
        let place = self.place();
        if source.is_transient() { Error::NoDatabase { place, source } } else { Error::Database { place, source } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_without_its_secrets() {
        let place = |url: &str| Database { database_url: url.parse().expect("an address") }.place();
        assert_eq!(place("postgres://me:secret@db:5433/gantry?password=x"), "database gantry at db:5433");
        assert_eq!(place("postgres:///gantry?host=/run/pg"), "database gantry at the local socket");
    }
}
