//! Costs for whoever pays: sums of whole days, in pages whose order nothing that happens meanwhile changes.
//!
//! Places, tenants and templates are told from the sums of days, which outlive the jobs; jobs from their own rows, for as
//! long as those are kept.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use gantry_core::cost::By;
use gantry_core::{JobId, TenantId};
use rust_decimal::Decimal;

use crate::error::Result;
use crate::tx::{Scope, Store};

/// The key of jobs without a template: before all others.
pub const NO_TEMPLATE: &str = "-";

/// Days in UTC, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    /// The first.
    pub since: NaiveDate,
    /// The last.
    pub until: NaiveDate,
}

/// What attempts came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The id of the tenant, template, host or job, the name of the executor type, or [`NO_TEMPLATE`].
    pub key: String,
    /// Its name; empty for jobs without a template, and where it was deleted.
    pub name: String,
    /// Attempts that ended.
    pub runs: i64,
    /// Those of them that completed.
    pub completed: i64,
    /// Those that were launched and whose backend told no times: their costs are in no sum.
    pub untimed: i64,
    /// How long the attempts ran, in milliseconds.
    pub run_millis: i64,
    /// What they cost; none for a job of which nothing is known.
    pub cost: Option<Decimal>,
    /// The part of it that those cost which did not complete.
    pub failed_cost: Decimal,
    /// What the jobs that ended with one of them had been expected to cost; none for a job without an estimate.
    pub estimated_cost: Option<Decimal>,
    /// When a job ended.
    pub ended_at: Option<DateTime<Utc>>,
}

impl Line {
    /// The place of this line in its list, behind which the next page begins.
    pub fn place(&self) -> String {
        match (self.ended_at, self.key.parse()) {
            (Some(ended_at), Ok(job)) => After { ended_at, job }.to_string(),
            _ => self.key.clone(),
        }
    }
}

/// Where the next page of jobs begins: behind this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// When it ended.
    pub ended_at: DateTime<Utc>,
    /// Its id.
    pub job: JobId,
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ended_at.timestamp_micros(), self.job)
    }
}

/// No place in a list of jobs.
#[derive(Debug, thiserror::Error)]
#[error("not `next` of a page before")]
pub struct NotAPlace;

impl FromStr for After {
    type Err = NotAPlace;

    fn from_str(text: &str) -> std::result::Result<Self, NotAPlace> {
        let (micros, job) = text.split_once('.').ok_or(NotAPlace)?;
        let micros = micros.parse().map_err(|_| NotAPlace)?;
        // What Postgres can hold, and more than any job will ever need.
        let ended_at = DateTime::from_timestamp_micros(micros).filter(|at| (1970..10_000).contains(&at.year()));
        Ok(Self { ended_at: ended_at.ok_or(NotAPlace)?, job: job.parse().map_err(|_| NotAPlace)? })
    }
}

/// Costs by tenant, host or executor type, ordered by key: of the tenant that asks, or, for an operator, of everyone.
/// `after` is the last key of the page before.
pub async fn by_place(
    store: &Store,
    scope: Scope,
    by: By,
    everyone: bool,
    days: Days,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Line>> {
    store
        .bounded("costs::by_place", async {
            let mut tx = store.begin_scoped("costs::by_place", scope).await?;
            let rows = sqlx::query_as!(
                Line,
                r#"/* costs::by_place */
                select key as "key!", max(name) as "name!", sum(runs)::int8 as "runs!", sum(completed)::int8 as "completed!",
                    sum(untimed)::int8 as "untimed!", sum(run_millis)::int8 as "run_millis!", sum(cost) as cost,
                    sum(failed_cost) as "failed_cost!", sum(estimated_cost) as estimated_cost,
                    null::timestamptz as ended_at
                from (
                    select case $1::text when 'tenant' then tenant::text when 'host' then host::text else executor::text end collate "C" as key,
                        case $1::text when 'tenant' then tenant_name when 'host' then host_name else executor::text end as name, c.*
                    from gantry_costs($2, $3, $4) c) c
                where $5::text is null or key > $5
                group by key order by key limit $6"#,
                <&str>::from(by),
                everyone,
                days.since,
                days.until,
                after,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(rows)
        })
        .await
}

/// Costs of a tenant by template, those without one first, then by key. `after` is the last key of the page before.
pub async fn by_template(
    store: &Store,
    scope: Scope,
    tenant: TenantId,
    days: Days,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Line>> {
    store
        .bounded("costs::by_template", async {
            let mut tx = store.begin_scoped("costs::by_template", scope).await?;
            let rows = sqlx::query_as!(
                Line,
                r#"/* costs::by_template */
                select c.key as "key!", coalesce(t.name, '') as "name!", c.runs as "runs!", c.completed as "completed!",
                    c.untimed as "untimed!", c.run_millis as "run_millis!", c.cost, c.failed_cost as "failed_cost!",
                    c.estimated_cost, null::timestamptz as ended_at
                from (
                    select coalesce(template::text, '-') collate "C" as key, template, sum(runs)::int8 as runs,
                        sum(completed)::int8 as completed, sum(untimed)::int8 as untimed, sum(run_millis)::int8 as run_millis,
                        sum(cost) as cost, sum(failed_cost) as failed_cost, sum(estimated_cost) as estimated_cost
                    from cost_days
                    where tenant_id = $1 and day between $2 and $3
                      and ($4::text is null or coalesce(template::text, '-') collate "C" > $4)
                    group by template order by 1 limit $5) c
                left join container_templates t on t.id = c.template
                order by c.key"#,
                tenant.uuid(),
                days.since,
                days.until,
                after,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(rows)
        })
        .await
}

/// Costs of a tenant's jobs that ended within these days, latest first. A job is told of as a whole, with all of its
/// attempts.
pub async fn by_job(
    store: &Store,
    scope: Scope,
    tenant: TenantId,
    days: Days,
    after: Option<After>,
    limit: i64,
) -> Result<Vec<Line>> {
    store
        .bounded("costs::by_job", async {
            let mut tx = store.begin_scoped("costs::by_job", scope).await?;
            // By every column of the index, so that it is followed; the id only orders what ended in one transaction.
            let rows = sqlx::query_as!(
                Line,
                r#"/* costs::by_job */
                with page as materialized (
                    select id, name, completed_at, actual_cost, estimated_cost from container_jobs
                    where tenant_id = $1 and completed_at >= $2::date::timestamp at time zone 'UTC'
                      and completed_at < least(($3::date + 1)::timestamp at time zone 'UTC', $4::timestamptz + interval '1 microsecond')
                      and ($4 is null or (completed_at, id) < ($4, $5))
                    order by tenant_id desc, completed_at desc, id desc limit $6)
                select p.id::text as "key!", p.name as "name!", e.runs as "runs!", e.completed as "completed!",
                    e.untimed as "untimed!", e.run_millis as "run_millis!", p.actual_cost as cost, e.failed_cost as "failed_cost!",
                    p.estimated_cost, p.completed_at as ended_at
                from page p cross join lateral (
                    select count(*) as runs, count(*) filter (where failure_class is null) as completed,
                        count(*) filter (where cost is null) as untimed, coalesce(sum(run_millis), 0)::int8 as run_millis,
                        coalesce(sum(cost) filter (where failure_class is not null), 0) as failed_cost
                    from container_executions where job_id = p.id and ended_at is not null) e
                order by p.completed_at desc, p.id desc"#,
                tenant.uuid(),
                days.since,
                days.until,
                after.map(|after| after.ended_at),
                after.map(|after| after.job.uuid()),
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(rows)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_list_is_told_and_read_again() {
        let job = JobId::new();
        let ended_at = DateTime::from_timestamp_micros(1_767_226_000_000_001).expect("a time");
        let after = After { ended_at, job };
        assert_eq!(after.to_string().parse::<After>().expect("a place"), after);
        for text in ["", ".", "1", "x.y", &format!("9223372036854775807.{job}"), &format!("-1.{job}")] {
            assert!(text.parse::<After>().is_err(), "{text}");
        }
    }
}
