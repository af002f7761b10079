//! Where Postgres spends its time at full speed: by statement, those of foreign keys included, and by table.

use std::path::Path;

use serde_json::{Value, json};
use sqlx::{Executor as _, PgConnection, Row as _};

use crate::control::SLOTS;
use crate::fleet::{Executor, Fleet, Layout, Servers};
use crate::growth::Factor;
use crate::measure::{self, round};
use crate::producer;

/// What Postgres must be started with. All statements, also those that triggers run; planning is not told apart by
/// itself.
pub(crate) const SETTINGS: &[&str] = &[
    "shared_preload_libraries=pg_stat_statements",
    "pg_stat_statements.track=all",
    "pg_stat_statements.track_planning=on",
];
/// How many statements are listed.
const MOST: i64 = 25;

/// Of the plain fleet, or of one in which the first of `factors` has grown as far as it is measured.
pub(crate) async fn run(servers: &Servers, binaries: &Path, jobs: usize, factors: &[Factor]) -> anyhow::Result<Value> {
    let layout = factors.first().map_or_else(|| Layout::plain(Executor::Mock, SLOTS), |factor| factor.grown());
    let fleet = Fleet::start(servers, binaries, layout).await?;
    producer::warm_up(&fleet).await?;
    let mut connection = fleet.sql.acquire().await?;
    connection.execute("create extension if not exists pg_stat_statements").await?;
    connection.execute("select pg_stat_statements_reset(), pg_stat_reset()").await?;
    let began = fleet.cpu();
    let run = producer::all_at_once(&fleet, jobs).await?;
    let cpu = fleet.cpu().since(&began);
    let verified = measure::verify(&fleet, &run).await?;
    let (statements, tables) = (statements(&mut connection, jobs).await?, tables(&mut connection, jobs).await?);
    drop(connection);
    fleet.stop().await?;
    Ok(json!({
        "case": "profile", "jobs": jobs, "jobs_per_second": round(run.per_second()), "cpu_seconds": cpu,
        "statements": statements, "tables": tables, "verified": verified,
    }))
}

/// The statements that cost most. A statement that runs others has their time in its own.
async fn statements(connection: &mut PgConnection, jobs: usize) -> anyhow::Result<Vec<Value>> {
    let rows = sqlx::query(
        r#"select coalesce(substring(query from '/\* (\S+) \*/'), left(regexp_replace(query, '\s+', ' ', 'g'), 60)) as name,
            not toplevel as nested, sum(calls)::float8 as calls, sum(rows)::float8 as rows,
            sum(total_exec_time)::float8 as execute, sum(total_plan_time)::float8 as plan, sum(wal_bytes)::float8 as wal
        from pg_stat_statements where dbid = (select oid from pg_database where datname = current_database())
        group by 1, 2 order by sum(total_exec_time + total_plan_time) desc limit $1"#,
    )
    .bind(MOST)
    .fetch_all(connection)
    .await?;
    let share = |value: f64| value / jobs as f64;
    rows.iter()
        .map(|row| {
            let (calls, rows): (f64, f64) = (row.try_get("calls")?, row.try_get("rows")?);
            Ok(json!({
                "statement": row.try_get::<String, _>("name")?,
                "nested": row.try_get::<bool, _>("nested")?,
                "calls": calls,
                "rows_per_call": round(rows / calls),
                "execute_us_per_job": round(1_000.0 * share(row.try_get("execute")?)),
                "plan_us_per_job": round(1_000.0 * share(row.try_get("plan")?)),
                "wal_bytes_per_job": round(share(row.try_get("wal")?)),
            }))
        })
        .collect()
}

/// How often a job's rows are written, and how many of the updates write no index.
async fn tables(connection: &mut PgConnection, jobs: usize) -> anyhow::Result<Vec<Value>> {
    // The processes tell their counts once they are idle for a moment.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let rows = sqlx::query(
        "select relname::text as name, n_tup_ins::float8 as inserts, n_tup_upd::float8 as updates,
            n_tup_hot_upd::float8 as hot, n_tup_del::float8 as deletes
        from pg_stat_user_tables where n_tup_ins + n_tup_upd + n_tup_del >= $1 order by n_tup_ins + n_tup_upd desc",
    )
    .bind(i64::try_from(jobs)? / 10)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let share = |column: &str| Ok::<_, sqlx::Error>(round(row.try_get::<f64, _>(column)? / jobs as f64));
            Ok(json!({
                "table": row.try_get::<String, _>("name")?,
                "inserts_per_job": share("inserts")?,
                "updates_per_job": share("updates")?,
                "hot_updates_per_job": share("hot")?,
                "deletes_per_job": share("deletes")?,
            }))
        })
        .collect()
}
