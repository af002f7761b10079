//! The schema as a whole: made, dropped.

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use crate::error::Result;

static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// Makes the schema, or does nothing if it is there. `url` is the owner's.
pub async fn migrate(url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    MIGRATOR.run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// Drops everything in the schema `public`, and makes it anew. For development.
pub async fn reset(url: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql("drop schema public cascade; create schema public").execute(&mut connection).await?;
    connection.close().await?;
    migrate(url).await
}
