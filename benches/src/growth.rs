//! Whether it stays as fast when something grows: finished rows, hosts, tenants, replicas. One at a time, each against the
//! plain fleet in the same run.

use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor as _};

use crate::control::SLOTS;
use crate::fleet::{Executor, Fleet, Layout, Servers};
use crate::measure::{self, median, round};
use crate::producer;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Factor {
    /// Jobs that ended, with their specs, attempts and events
    Finished,
    /// Hosts of one worker
    Hosts,
    /// Tenants that submit in turn
    Tenants,
    /// Processes of each part
    Replicas,
}

impl Factor {
    fn steps(self) -> &'static [u32] {
        match self {
            Self::Finished => &[1_000_000, 10_000_000],
            Self::Hosts => &[10, 100, 1_000],
            Self::Tenants => &[10, 1_000],
            Self::Replicas => &[2, 4],
        }
    }

    /// The fleet at the last step.
    pub(crate) fn grown(self) -> Layout {
        self.layout(self.steps().last().copied().unwrap_or(1))
    }

    fn layout(self, step: u32) -> Layout {
        let mut layout = Layout::plain(Executor::Mock, SLOTS);
        match self {
            Self::Finished => {}
            Self::Hosts => layout.hosts = step,
            Self::Tenants => layout.tenants = step,
            Self::Replicas => layout.replicas = step,
        }
        layout
    }
}

/// `tries` runs of `jobs` of the plain fleet and of each step in turn; the ratio is that of the medians.
pub(crate) async fn run(
    servers: &Servers,
    binaries: &Path,
    jobs: usize,
    tries: usize,
    factors: &[Factor],
) -> anyhow::Result<Value> {
    let factors = if factors.is_empty() { Factor::value_variants() } else { factors };
    let mut told = serde_json::Map::new();
    for factor in factors {
        let mut steps = Vec::new();
        for step in factor.steps() {
            let (mut plain, mut grown) = (Vec::new(), Vec::new());
            // A fleet of its own for each: a fresh database, then one that has what has grown.
            if *factor == Factor::Finished {
                plain = rates(servers, binaries, Layout::plain(Executor::Mock, SLOTS), 0, jobs, tries).await?;
                grown = rates(servers, binaries, factor.layout(*step), *step, jobs, tries).await?;
            } else {
                for _ in 0..tries {
                    plain.extend(rates(servers, binaries, Layout::plain(Executor::Mock, SLOTS), 0, jobs, 1).await?);
                    grown.extend(rates(servers, binaries, factor.layout(*step), 0, jobs, 1).await?);
                }
            }
            let (without, with) = (median(plain.clone()), median(grown.clone()));
            let ratio = without.zip(with).map(|(without, with)| round(with / without));
            let row = json!({ "step": step, "plain": plain, "grown": grown, "ratio": ratio });
            eprintln!("growth, {factor:?}: {row}");
            steps.push(row);
        }
        told.insert(format!("{factor:?}").to_lowercase(), steps.into());
    }
    Ok(json!({ "case": "growth", "jobs": jobs, "factors": told }))
}

/// Jobs per second, `tries` times.
async fn rates(
    servers: &Servers,
    binaries: &Path,
    layout: Layout,
    finished: u32,
    jobs: usize,
    tries: usize,
) -> anyhow::Result<Vec<f64>> {
    let fleet = Fleet::start(servers, binaries, layout).await?;
    producer::warm_up(&fleet).await?;
    if finished > 0 {
        finish(&fleet, finished).await?;
    }
    let mut rates = Vec::new();
    for _ in 0..tries {
        servers.settle().await?;
        let run = producer::all_at_once(&fleet, jobs).await?;
        measure::verify(&fleet, &run).await?;
        rates.push(round(run.per_second()));
    }
    fleet.stop().await?;
    Ok(rates)
}

/// Copies of a job that ended, with all that belongs to it, over the last weeks.
async fn finish(fleet: &Fleet, rows: u32) -> anyhow::Result<()> {
    let mut connection = fleet.sql.acquire().await?;
    // What refers to what is right by how it is made, and checking it row by row would take an hour.
    connection.execute("set session_replication_role = replica; set work_mem = '512MB'").await?;
    connection.execute("set maintenance_work_mem = '1GB'; set max_parallel_maintenance_workers = 2").await?;
    connection
        .execute(AssertSqlSafe(format!(
            // UUIDv7, as all ids: each index grows at its end.
            "create temporary table copies as
             select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(noise, 1, 3)
                 || 'b' || substr(noise, 4, 15))::uuid as id, at
             from (select now() - interval '20 days' + g * interval '100 milliseconds' as at, md5(g::text) as noise
                 from generate_series(1, {rows}) g) n"
        )))
        .await?;
    // Before there are copies, which have nothing but themselves until the last table is done.
    connection
        .execute(
            "create temporary table model as
             select id, tenant_id from container_jobs where completed_at is not null limit 1",
        )
        .await?;
    for (table, id) in [
        ("container_jobs", "id"),
        ("container_job_specs", "job_id"),
        ("container_executions", "job_id"),
        ("job_events", "job_id"),
    ] {
        // Every column of the model row but the id and the times, by the table's own list of them.
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select column_name::text, case
                 when column_name = $2 then 'c.id'
                 when column_name = 'idempotency_key' then 'c.id::text'
                 when column_name = 'execution_id' then 'c.id::text'
                 when column_name = 'external_name' then '''g-'' || replace(c.id::text, ''-'', '''')'
                 when data_type = 'timestamp with time zone' then 'case when m.' || column_name || ' is not null then c.at end'
                 else 'm.' || column_name end
             from information_schema.columns where table_schema = 'public' and table_name = $1 order by ordinal_position",
        )
        .bind(table)
        .bind(id)
        .fetch_all(&mut *connection)
        .await?;
        let (names, values): (Vec<String>, Vec<String>) = columns.into_iter().unzip();
        let statement = format!(
            "insert into {table} ({}) select {} from copies c cross join (
                 select * from {table} where ({id}, tenant_id) = (select id, tenant_id from model) limit 1) m",
            names.join(", "),
            values.join(", ")
        );
        let made = connection.execute(AssertSqlSafe(statement)).await?.rows_affected();
        anyhow::ensure!(made == u64::from(rows), "{made} of {rows} rows were made in {table}");
        eprintln!("growth: {rows} rows in {table}");
    }
    connection.execute("drop table copies, model; set session_replication_role = origin").await?;
    connection.execute("vacuum analyze").await?;
    Ok(())
}
