//! `gantry db seed`: something to look at.

use std::collections::BTreeMap;
use std::fmt;

use clap::Args;
use gantry_admission::{Admitted, Incoming, admit};
use gantry_core::problem::Problem;
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::hosts::{self, NewHost};
use gantry_store::templates::{self, NewTemplate};
use gantry_store::tenants::{self, Principal};
use gantry_store::{Scope, Store};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::tenant::{self, NewKey};
use super::Database;
use crate::error::{Error, Result};
use crate::output::{fields, table};

const BY: &str = "seed";
const TENANTS: [&str; 2] = ["acme", "globex"];

/// What the seed is made of.
#[derive(Args)]
pub(crate) struct Seed {
    /// The Docker Engine of the shared docker host
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock", value_name = "ENDPOINT")]
    docker: String,
    /// The image of the jobs on it; it needs a shell
    #[arg(long, default_value = "busybox:1", value_name = "IMAGE")]
    image: String,
    /// Where the shared mock host keeps its containers
    #[arg(long, default_value = "/tmp/gantry-mock", value_name = "FOLDER")]
    mock: String,
}

/// What is there now.
#[derive(Debug, Serialize)]
pub(super) struct Seeded {
    tenants: Vec<NewKey>,
    hosts: Vec<&'static str>,
    templates: Vec<&'static str>,
    jobs: Vec<SeededJob>,
}

#[derive(Debug, Serialize)]
struct SeededJob {
    tenant: &'static str,
    name: String,
    id: JobId,
    existing: bool,
    executor: ExecutorType,
}

impl Seed {
    /// Puts everything there that is not there yet, in the order in which one needs the other.
    pub(super) async fn plant(&self, store: &Store, database: &Database) -> Result<Seeded> {
        let failed = |error| database.failed(error);
        let mut tenants = Vec::new();
        let mut principals = Vec::new();
        for name in TENANTS {
            // Each may manage hosts, so that every command can be tried with its key.
            let key = tenant::put(store, name, BY, true).await.map_err(failed)?;
            let principal = tenants::authenticate(store, &key.api_key).await.map_err(failed)?;
            principals.push(principal.ok_or_else(|| Error::Usage(format!("{}: the key of {name} was revoked just now", database.place())))?);
            tenants.push(key);
        }
        let [acme, globex] = principals[..] else { unreachable!("one principal was pushed for each tenant") };
        Ok(Seeded {
            tenants,
            hosts: self.hosts(store, globex.tenant).await.map_err(failed)?,
            templates: self.templates(store, acme.tenant).await.map_err(failed)?,
            jobs: self.jobs(store, acme, globex).await?.map_err(failed)?,
        })
    }
}
