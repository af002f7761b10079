//! `gantry tenant`: how an installation gets its first key, and what each tenant may use.

use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use gantry_core::TenantId;
use gantry_core::limits::{Kind, Subject};
use gantry_store::audit::Actor;
use gantry_store::{Scope, Store, limits, retention, tenants};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Serialize;
use serde_json::json;

use super::db::Database;
use super::limit::{Most, most};
use super::values::duration;
use crate::error::{Error, Result};
use crate::output::{Format, fields};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a tenant, if there is none of this name, and give it a new API key
    Add {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Let the key also manage hosts
        #[arg(long)]
        operator: bool,
        #[command(flatten)]
        database: Database,
    },
    /// Change a tenant's share, its limit and its cap, and for how long its things are kept
    Set(Set),
}

/// What to change; what is not given stays as it is.
#[derive(Args)]
pub(crate) struct Set {
    /// Its name
    name: String,
    /// Its share of starts beside the other tenants that wait, 0.001 to 1000: 2 starts twice as many jobs as 1
    #[arg(long, value_name = "N", value_parser = weight)]
    weight: Option<f64>,
    /// The most jobs of it that may run at once, or `none` for any number
    #[arg(long, value_parser = most, value_name = "N")]
    max_running: Option<Most>,
    /// The most jobs of it that may wait, or `none` for any number: further ones are refused with `backlog_full`
    #[arg(long, value_parser = most, value_name = "N")]
    max_pending: Option<Most>,
    /// For how long its jobs are kept after their end, such as 30d; `forever`, or `default` as the fleet has it
    #[arg(long, value_parser = kept, value_name = "TIME")]
    retain_jobs: Option<Kept>,
    /// For how long logs are kept after their job's end, and never longer than the job; `forever` as long as the job, or
    /// `default`
    #[arg(long, value_parser = kept, value_name = "TIME")]
    retain_logs: Option<Kept>,
    #[command(flatten)]
    database: Database,
}

/// Seconds for which something is kept: 0 for ever, none as the fleet has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept(Option<i64>);

fn kept(text: &str) -> std::result::Result<Kept, String> {
    match text {
        "default" => Ok(Kept(None)),
        "forever" => Ok(Kept(Some(0))),
        _ => match duration(text).map(|time| i64::try_from(time.as_secs())) {
            Ok(Ok(seconds @ 1..=MAX_KEPT_SECONDS)) => Ok(Kept(Some(seconds))),
            Ok(_) => Err("it is at least a second and at most 100 years, or `forever`".to_owned()),
            Err(error) => Err(format!("{error}; or `forever`, or `default`")),
        },
    }
}

/// A hundred years: what is more is for ever.
const MAX_KEPT_SECONDS: i64 = 100 * 366 * 86_400;

fn weight(text: &str) -> std::result::Result<f64, String> {
    let weight = text.parse().ok().filter(|weight| (0.001..=1000.0).contains(weight));
    weight.ok_or_else(|| "it is a number from 0.001 to 1000".to_owned())
}

impl Set {
    async fn run(self, format: Format) -> Result<ExitCode> {
        let store = self.database.open().await?;
        let changed = self.apply(&store).await.map_err(|error| self.database.failed(error))?;
        store.close().await;
        let Some(tenant) = changed else {
            return Err(Error::Usage(format!("there is no tenant `{}`; `gantry tenant add` makes one", self.name)));
        };
        format.print(&json!({ "tenant": self.name, "tenant_id": tenant }), |_| format!("{} is changed", self.name))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn apply(&self, store: &Store) -> Result<Option<TenantId>, gantry_store::Error> {
        let settings = tenants::Settings { weight: self.weight, max_pending: self.max_pending.map(|Most(most)| most) };
        let Some(tenant) = tenants::set(store, &self.name, &settings).await? else { return Ok(None) };
        if let Some(Most(most)) = self.max_running {
            let subject = Subject { tenant, kind: Kind::Tenant, name: String::new() };
            let actor = Actor { tenant, name: "database".to_owned() };
            limits::set(store, Scope::Fleet, &actor, &subject, most).await?;
        }
        let [jobs, logs] = [self.retain_jobs, self.retain_logs].map(|kept| kept.map(|Kept(seconds)| seconds));
        if jobs.is_some() || logs.is_some() {
            retention::put_policy(store, tenant, jobs, logs).await?;
        }
        Ok(Some(tenant))
    }
}

/// A tenant and a key that is shown this once.
#[derive(Debug, Serialize)]
pub(super) struct NewKey {
    pub(super) tenant: String,
    pub(super) tenant_id: TenantId,
    pub(super) api_key: String,
    operator: bool,
}

impl Command {
    pub(crate) async fn run(self, format: Format) -> Result<ExitCode> {
        let (name, operator, database) = match self {
            Self::Add { name, operator, database } => (name, operator, database),
            Self::Set(set) => return set.run(format).await,
        };
        let store = database.open().await?;
        let key = put(&store, &name, "cli", operator).await.map_err(|error| database.failed(error))?;
        store.close().await;
        format.print(&key, |key| {
            let rows = [
                ("tenant", Some(format!("{} ({})", key.tenant, key.tenant_id))),
                ("key", Some(key.api_key.clone())),
                ("may", Some(if operator { "run jobs, manage hosts" } else { "run jobs" }.to_owned())),
            ];
            format!("{}\nThe key is stored nowhere: keep it, for instance as GANTRY_API_KEY.", fields(&rows))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the tenant, or finds it, with a new key.
pub(super) async fn put(
    store: &Store,
    tenant: &str,
    purpose: &str,
    operator: bool,
) -> Result<NewKey, gantry_store::Error> {
    let tenant_id = tenants::put_tenant(store, tenant).await?;
    let api_key = secret();
    tenants::put_key(store, tenant_id, purpose, &api_key, operator).await?;
    Ok(NewKey { tenant: tenant.to_owned(), tenant_id, api_key, operator })
}

/// 256 random bits; the prefix tells people and secret scanners what it is.
pub(crate) fn secret() -> String {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes).expect("the operating system has random bytes");
    bytes.iter().fold("gantry_".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_ever_says_so() {
        for (text, seconds) in [("30d", Some(30 * 86_400)), ("90s", Some(90)), ("forever", Some(0)), ("default", None)]
        {
            assert_eq!(kept(text), Ok(Kept(seconds)), "{text}");
        }
        for text in ["0s", "30", "never", "200years"] {
            assert!(kept(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (secret(), secret());
        assert_ne!(one, other);
        assert!(one.strip_prefix("gantry_").is_some_and(|hex| hex.len() == 64), "{one}");
    }
}
