//! `gantry tenant`: how an installation gets its first key.

use std::process::ExitCode;

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use gantry_core::TenantId;
use gantry_store::{Store, tenants};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Serialize;

use super::db::Database;
use crate::error::Result;
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
        let Self::Add { name, operator, database } = self;
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
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (secret(), secret());
        assert_ne!(one, other);
        assert!(one.strip_prefix("gantry_").is_some_and(|hex| hex.len() == 64), "{one}");
    }
}
