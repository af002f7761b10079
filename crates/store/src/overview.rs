//! A tenant's work at a glance: what waits, what runs, what ended lately, and the hosts. Looked at every second by whoever
//! watches, so every part of it reads a bounded number of rows, however long the backlog and the history are.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use gantry_core::{ExecutorType, FailureClass, JobId, Status, TenantId, WaitingReason};
use sqlx::PgConnection;

use crate::error::{Result, parse};
use crate::hosts::{self, HostView};
use crate::jobs;
use crate::tx::{Scope, Store};

/// Jobs of one executor type and reason that are counted at most.
pub const COUNTED: i64 = 10_000;
/// Ends from which rates are counted at most: with more of them, over a shorter time.
pub const SAMPLED: i64 = 5_000;
/// Jobs whose end is shown.
const RECENT: i64 = 10;

/// What there is to see.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The time of the database.
    pub at: DateTime<Utc>,
    /// Pending jobs, by executor type and reason.
    pub backlog: Vec<Waiting>,
    /// Running jobs, by executor type.
    pub running: Vec<Running>,
    /// The hosts that the tenant's jobs may run on.
    pub hosts: Vec<HostView>,
    /// How fast it goes over the last minute.
    pub minute: Rates,
    /// The same over the last five minutes.
    pub five_minutes: Rates,
    /// The last jobs that ended, latest first.
    pub recent: Vec<End>,
}

/// Pending jobs with one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Where they were routed.
    pub executor: ExecutorType,
    /// What they wait for.
    pub reason: WaitingReason,
    /// How many, up to [`COUNTED`].
    pub jobs: i64,
    /// Whether there are more.
    pub more: bool,
}

/// Running jobs of one executor type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Where they run.
    pub executor: ExecutorType,
    /// How many hold a slot.
    pub jobs: i64,
    /// Those of them whose container has not been seen running yet.
    pub starting: i64,
}

/// What happened per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Containers that started.
    pub started: f64,
    /// Jobs that completed.
    pub completed: f64,
    /// Jobs that failed, or ran or waited too long.
    pub failed: f64,
    /// Jobs that were cancelled.
    pub cancelled: f64,
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub struct End {
    /// The job.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// Where it was routed.
    pub executor: ExecutorType,
    /// The host of its last attempt.
    pub host: Option<String>,
    /// The exit code of that.
    pub exit_code: Option<i32>,
    /// Why it did not complete.
    pub failure_class: Option<FailureClass>,
    /// When it first started.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    pub completed_at: DateTime<Utc>,
}

/// What `tenant` has to see, in one short transaction.
pub async fn read(store: &Store, scope: Scope, tenant: TenantId) -> Result<Overview> {
    store
        .bounded("overview::read", async {
            let mut tx = store.begin_scoped("overview::read", scope).await?;
            let backlog = backlog(&mut tx, tenant).await?;
            let (running, open) = running(&mut tx, tenant).await?;
            let hosts = hosts::list_within(&mut tx).await?;
            let ended = started(&mut tx, tenant).await?;
            let (at, ends) = ends(&mut tx, tenant).await?;
            let recent = recent(&mut tx, tenant).await?;
            tx.commit().await?;
            let rates = |window: usize| Rates {
                started: per_second(open[window] + ended.starts[window], ended.seconds[window]),
                completed: per_second(ends.completed[window], ends.seconds[window]),
                failed: per_second(ends.failed[window], ends.seconds[window]),
                cancelled: per_second(ends.cancelled[window], ends.seconds[window]),
            };
            Ok(Overview { at, backlog, running, hosts, minute: rates(0), five_minutes: rates(1), recent })
        })
        .await
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn per_second(count: i64, seconds: f64) -> f64 {
    (count as f64 / seconds * 1_000.0).round() / 1_000.0
}

/// Probes of indexes, one for each executor type and reason, each of which stops when it has counted enough.
async fn backlog(tx: &mut PgConnection, tenant: TenantId) -> Result<Vec<Waiting>> {
    #[expect(clippy::cast_possible_truncation, reason = "it is far from the limits of an i32")]
    let most = COUNTED as i32;
    let rows = sqlx::query!(
        r#"/* overview::backlog */
        select executor::text as "executor!", reason::text, jobs as "jobs!" from gantry_backlog($1, $2)"#,
        tenant.uuid(),
        most
    )
    .fetch_all(&mut *tx)
    .await?;
    let places = jobs::places(tx).await?;
    // Jobs in line may have a reason that others have stored.
    let mut counts: BTreeMap<(&'static str, &'static str), Waiting> = BTreeMap::new();
    for row in rows {
        let executor: ExecutorType = parse("executor_type", &row.executor)?;
        let reason = match row.reason {
            Some(reason) => parse("waiting_reason", &reason)?,
            None => jobs::explain(&places, tenant, executor),
        };
        let waiting = counts.entry((executor.into(), reason.into())).or_insert(Waiting {
            executor,
            reason,
            jobs: 0,
            more: false,
        });
        let jobs = waiting.jobs + row.jobs;
        (waiting.jobs, waiting.more) = (jobs.min(COUNTED), waiting.more || jobs > COUNTED);
    }
    Ok(counts.into_values().collect())
}

/// What holds a slot: as many rows as there are slots. With it the starts of the last minute and the last five.
async fn running(tx: &mut PgConnection, tenant: TenantId) -> Result<(Vec<Running>, [i64; 2])> {
    let rows = sqlx::query!(
        r#"/* overview::running */
        select h.executor_type::text as "executor_type!", count(*) as "jobs!",
            count(*) filter (where e.started_at is null) as "starting!",
            count(*) filter (where e.started_at > now() - interval '1 minute') as "minute!",
            count(*) filter (where e.started_at > now() - interval '5 minutes') as "five_minutes!"
        from container_executions e join executor_hosts h on h.id = e.executor_host_id
        where e.slot_held and e.tenant_id = $1 group by h.executor_type order by h.executor_type"#,
        tenant.uuid()
    )
    .fetch_all(&mut *tx)
    .await?;
    let starts = rows.iter().fold([0, 0], |[minute, five], row| [minute + row.minute, five + row.five_minutes]);
    let running = rows.into_iter().map(|row| {
        Ok(Running { executor: parse("executor_type", &row.executor_type)?, jobs: row.jobs, starting: row.starting })
    });
    Ok((running.collect::<Result<_>>()?, starts))
}

/// Starts of attempts that are over, within each window, and how many seconds of it were looked at.
struct Starts {
    starts: [i64; 2],
    seconds: [f64; 2],
}

/// A start of the last minutes is an attempt that holds a slot, or one that has ended in these minutes.
async fn started(tx: &mut PgConnection, tenant: TenantId) -> Result<Starts> {
    let row = sqlx::query!(
        r#"/* overview::started */
        with ended as materialized (
            select started_at, ended_at from container_executions
            where tenant_id = $1 and ended_at > now() - interval '5 minutes' and logs_removed_at is null
            order by ended_at desc limit $2
        ), seen as (
            select case when count(*) = $2 then greatest(extract(epoch from now() - min(ended_at)), 0.001) else 300 end::float8 as seconds
            from ended
        )
        select least(s.seconds, 60) as "minute_seconds!", s.seconds as "seconds!",
            (select count(*) from ended where started_at > now() - make_interval(secs => least(s.seconds, 60))) as "minute!",
            (select count(*) from ended where started_at > now() - make_interval(secs => s.seconds)) as "five_minutes!"
        from seen s"#,
        tenant.uuid(),
        SAMPLED
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(Starts { starts: [row.minute, row.five_minutes], seconds: [row.minute_seconds, row.seconds] })
}

/// Ends of jobs within each window, and how many seconds of it were looked at.
struct Ends {
    completed: [i64; 2],
    failed: [i64; 2],
    cancelled: [i64; 2],
    seconds: [f64; 2],
}

async fn ends(tx: &mut PgConnection, tenant: TenantId) -> Result<(DateTime<Utc>, Ends)> {
    let row = sqlx::query!(
        r#"/* overview::ends */
        with ended as materialized (
            select status, completed_at from container_jobs
            where tenant_id = $1 and completed_at > now() - interval '5 minutes'
            order by completed_at desc limit $2
        ), seen as (
            select case when count(*) = $2 then greatest(extract(epoch from now() - min(completed_at)), 0.001) else 300 end::float8 as seconds
            from ended
        )
        select now() as "now!", least(s.seconds, 60) as "minute_seconds!", s.seconds as "seconds!",
            count(*) filter (where e.status = 'completed' and e.completed_at > now() - interval '1 minute') as "completed_minute!",
            count(*) filter (where e.status = 'completed') as "completed!",
            count(*) filter (where e.status in ('failed', 'timeout') and e.completed_at > now() - interval '1 minute') as "failed_minute!",
            count(*) filter (where e.status in ('failed', 'timeout')) as "failed!",
            count(*) filter (where e.status = 'cancelled' and e.completed_at > now() - interval '1 minute') as "cancelled_minute!",
            count(*) filter (where e.status = 'cancelled') as "cancelled!"
        from seen s left join ended e on true group by s.seconds"#,
        tenant.uuid(),
        SAMPLED
    )
    .fetch_one(&mut *tx)
    .await?;
    let ends = Ends {
        completed: [row.completed_minute, row.completed],
        failed: [row.failed_minute, row.failed],
        cancelled: [row.cancelled_minute, row.cancelled],
        seconds: [row.minute_seconds, row.seconds],
    };
    Ok((row.now, ends))
}

async fn recent(tx: &mut PgConnection, tenant: TenantId) -> Result<Vec<End>> {
    let rows = sqlx::query!(
        r#"/* overview::recent */
        select j.id, j.name, j.status::text as "status!", j.executor_type::text as "executor_type!", h.name as "host?",
            j.exit_code, j.failure_class::text, j.started_at, j.completed_at as "completed_at!"
        from container_jobs j left join executor_hosts h on h.id = j.executor_host_id
        where j.tenant_id = $1 and j.completed_at is not null order by j.completed_at desc limit $2"#,
        tenant.uuid(),
        RECENT
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(End {
                id: row.id.into(),
                name: row.name,
                status: parse("status", &row.status)?,
                executor: parse("executor_type", &row.executor_type)?,
                host: row.host,
                exit_code: row.exit_code,
                failure_class: row.failure_class.as_deref().map(|class| parse("failure_class", class)).transpose()?,
                started_at: row.started_at,
                completed_at: row.completed_at,
            })
        })
        .collect()
}
