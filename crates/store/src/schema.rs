//! The schema as a whole: made, dropped.

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

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

/// Makes a database, or does nothing if it is there. `url` names another database of the same server.
pub async fn create_database(url: &str, name: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    let exists = sqlx::query_scalar::<_, bool>("select exists (select 1 from pg_database where datname = $1)")
        .bind(name)
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        // A name cannot be a parameter of this statement; quoted, it is only a name.
        let statement = format!("create database \"{}\"", name.replace('"', "\"\""));
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}
