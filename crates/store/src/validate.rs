//! Compares a live database with what the migration makes.
//!
//! Both sides are asked the same catalog queries (`snapshot`): the live one, and a reference that the
//! migration makes in a scratch database on the same server. What Postgres itself prints is compared, so that
//! this module knows nothing of the schema's content and cannot lag behind it.

mod snapshot;

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use strum::{Display, IntoStaticStr};
use uuid::Uuid;

use crate::schema;
use snapshot::{Object, Snapshot};

/// Why a database could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The role may not make the scratch database.
    #[error(
        "the role `{role}` may not create the scratch database that the schema is compared with; \
         run `ALTER ROLE \"{role}\" CREATEDB`, or validate as a role that may create databases and roles"
    )]
    MayNotCreateDatabase {
        /// The role that asked.
        role: String,
    },
    /// The reference could not be made.
    #[error("the migration does not run in the scratch database: {0}")]
    Reference(#[source] crate::Error),
    /// Postgres refused a statement, or could not be reached.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// What kind of object drifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Display, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "lowercase")]
pub enum Kind {
    /// A table, view or sequence, with its storage parameters.
    Table,
    /// A column: type, compression, nullability, default.
    Column,
    /// A constraint.
    Constraint,
    /// An index that no constraint owns.
    Index,
    /// An enum with its labels in their order, or another type.
    Type,
    /// A function.
    Function,
    /// A trigger.
    Trigger,
    /// A policy of row-level security.
    Policy,
    /// Whether row-level security is enabled and forced on a table.
    #[strum(serialize = "row security")]
    RowSecurity,
    /// A privilege of a role.
    Grant,
}

/// One difference between the live database and the migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// What kind of object it is.
    pub kind: Kind,
    /// Its name; with the table's before it where names are unique only per table.
    pub name: String,
    /// What the migration makes; none if it makes no such object.
    pub expected: Option<String>,
    /// What the live database has; none if it has no such object.
    pub found: Option<String>,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, expected, found } = self;
        let verdict = match (expected, found) {
            (Some(_), None) => "is missing",
            (None, _) => "is unexpected",
            (Some(_), Some(_)) => "is different",
        };
        write!(f, "{kind} {name} {verdict}")?;
        for (label, definition) in [("expected", expected), ("found", found)] {
            if let Some(definition) = definition {
                // Function bodies have lines of their own.
                write!(f, "\n  {label:<9} {}", definition.trim().replace('\n', "\n            "))?;
            }
        }
        Ok(())
    }
}

/// The differences between the database at `url` and what the migration makes, by kind and name.
///
/// Makes the database `gantry_validate_<uuid>` on the same server and drops it again, so the role needs
/// CREATEDB, and CREATEROLE as for the migration itself. Nothing in the live database is written.
pub async fn validate(url: &str) -> Result<Vec<Drift>, Error> {
    let mut live = PgConnectOptions::from_str(url)?.connect().await?;
    let found = snapshot::take(&mut live).await?;
    let expected = reference(url, &mut live).await;
    live.close().await?;
    Ok(diff(&expected?, &found))
}

/// What the migration makes on this server. `live` is only where the scratch database is asked for.
async fn reference(url: &str, live: &mut PgConnection) -> Result<Snapshot, Error> {
    let name = format!("gantry_validate_{}", Uuid::now_v7().simple());
    // template0 has nothing in it but what Postgres ships.
    let create = format!("create database {name} template template0");
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *live).await {
        return Err(match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some("42501") => {
                let role = sqlx::query_scalar("select current_user::text").fetch_one(live).await?;
                Error::MayNotCreateDatabase { role }
            }
            _ => error.into(),
        });
    }
    let snapshot = migrated(&beside(url, &name)).await;
    // Whatever became of the snapshot; its own failure says more than the drop's.
    let drop = format!("drop database if exists {name} with (force)");
    let dropped = sqlx::raw_sql(AssertSqlSafe(drop)).execute(live).await;
    let snapshot = snapshot?;
    dropped?;
    Ok(snapshot)
}

async fn migrated(url: &str) -> Result<Snapshot, Error> {
    schema::migrate(url).await.map_err(Error::Reference)?;
    let mut scratch = PgConnectOptions::from_str(url)?.connect().await?;
    let snapshot = snapshot::take(&mut scratch).await?;
    scratch.close().await?;
    Ok(snapshot)
}

/// The address of another database with everything else as in `url`: the last `dbname` wins.
fn beside(url: &str, database: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}dbname={database}")
}

fn diff(expected: &Snapshot, found: &Snapshot) -> Vec<Drift> {
    let mut keys: Vec<_> = expected.keys().chain(found.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let drifts = keys.into_iter().filter_map(|key| {
        let (expected_one, found_one) = (expected.get(key), found.get(key));
        if expected_one.map(|o| &o.definition) == found_one.map(|o| &o.definition) {
            return None;
        }
        // Everything of a table that is missing is missing with it: the table alone says so.
        let parent = expected_one.or(found_one).and_then(|object| object.parent.as_ref());
        if parent.is_some_and(|parent| expected.contains_key(parent) != found.contains_key(parent)) {
            return None;
        }
        let definition = |object: Option<&Object>| object.map(|object| object.definition.clone());
        Some(Drift {
            kind: key.0,
            name: key.1.clone(),
            expected: definition(expected_one),
            found: definition(found_one),
        })
    });
    drifts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scratch_database_is_reached_like_the_live_one() {
        assert_eq!(beside("postgres://o:p@h:1/live", "x"), "postgres://o:p@h:1/live?dbname=x");
        let url = beside("postgres:///live?host=/run/pg&dbname=live", "x");
        let options = PgConnectOptions::from_str(&url).expect("an address");
        assert_eq!(options.get_database(), Some("x"));
    }

    #[test]
    fn a_drift_reads_as_a_sentence_with_both_sides() {
        let mut drift = Drift {
            kind: Kind::RowSecurity,
            name: "tenants".into(),
            expected: Some("enabled, forced".into()),
            found: Some("disabled".into()),
        };
        let text = "row security tenants is different\n  expected  enabled, forced\n  found     disabled";
        assert_eq!(drift.to_string(), text);
        drift.found = None;
        assert_eq!(drift.to_string(), "row security tenants is missing\n  expected  enabled, forced");
    }
}
