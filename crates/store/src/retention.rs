//! What is over leaves when its time has passed: first logs, then jobs with all that belongs to them, dead letters and
//! the history of schedules.
//!
//! Each call is one short transaction over a bounded number of rows, none of which anybody else is about to change: jobs
//! that have ended, and attempts that are over. Nothing that a claim locks is touched. A transaction-level advisory lock
//! keeps it to one dispatcher at a time; whoever does not get it removes nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use gantry_core::{JobId, TenantId};
use uuid::Uuid;

use crate::error::Result;
use crate::tx::{Scope, Store, Tx};

/// Of the jobs whose time is over, so many of a tenant are looked at when one batch is chosen: those whose events are
/// not published yet, or whose logs are still there, stay, and must not be read all over again.
const LOOKED_AT: i64 = 2_000;
/// Chunks looked at when one batch of a log is chosen.
const CHUNKS: i64 = 512;
/// The advisory lock: `gantry.r` in ASCII.
const LOCK: i64 = 0x6761_6e74_7279_2e72;

/// For how long things are kept where their tenant does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Seconds for which jobs are kept after their end; 0 for ever.
    pub jobs_seconds: i64,
    /// Seconds for which logs are kept after their job's end, and never longer than the job; 0 as long as the job.
    pub logs_seconds: i64,
}

/// What a batch removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Jobs, with their specs.
    pub jobs: u64,
    /// Attempts of those.
    pub attempts: u64,
    /// Events of those.
    pub events: u64,
    /// Attempts whose log left.
    pub logs: u64,
    /// Chunks of logs.
    pub chunks: u64,
    /// Dead letters.
    pub letters: u64,
    /// Runs of schedules.
    pub runs: u64,
}

impl Removed {
    /// Whether it removed anything.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// A transaction that alone removes anything; none while another one does.
async fn begin(store: &Store, operation: &'static str) -> Result<Option<Tx>> {
    let mut tx = store.begin(operation).await?;
    let got = sqlx::query_scalar!(r#"/* retention::begin */ select pg_try_advisory_xact_lock($1) as "got!""#, LOCK)
        .fetch_one(&mut *tx)
        .await?;
    Ok(got.then_some(tx))
}

/// Removes the logs of up to `attempts` attempts whose job ended long enough ago, about `bytes` bytes at most. From its
/// first batch on a log counts as gone, and nothing of it is shown any more.
pub async fn remove_logs(store: &Store, defaults: Defaults, attempts: i64, bytes: i64) -> Result<Removed> {
    store
        .run("retention::remove_logs", || async {
            let Some(mut tx) = begin(store, "retention::remove_logs").await? else { return Ok(Removed::default()) };
            let picked = sqlx::query!(
                r#"/* retention::remove_logs */
                select e.job_id as "job_id!", e.attempt as "attempt!"
                from (select id, make_interval(secs => least(nullif(coalesce(retain_logs_seconds, $2), 0),
                        nullif(coalesce(retain_jobs_seconds, $1), 0))) as kept from tenants) t
                cross join lateral (
                    select e.job_id, e.attempt from container_executions e join container_jobs j on j.id = e.job_id
                    where e.tenant_id = t.id and e.ended_at < now() - t.kept and e.logs_removed_at is null
                      and j.completed_at < now() - t.kept
                    order by e.ended_at limit $3 for no key update of e skip locked) e
                limit $3"#,
                defaults.jobs_seconds,
                defaults.logs_seconds,
                attempts
            )
            .fetch_all(&mut *tx)
            .await?;
            if picked.is_empty() {
                return Ok(Removed::default());
            }
            let (jobs, numbers): (Vec<Uuid>, Vec<i32>) = picked.into_iter().map(|row| (row.job_id, row.attempt)).unzip();
            let chunks = sqlx::query!(
                "/* retention::remove_logs */
                with chosen as (
                    select c.*, sum(c.bytes) over (order by c.job_id, c.attempt, c.sequence) - c.bytes as before
                    from (
                        select c.job_id, c.attempt, c.stream, c.byte_offset, c.sequence, octet_length(c.data) as bytes
                        from unnest($1::uuid[], $2::int[]) as p(job_id, attempt)
                        join container_log_chunks c on c.job_id = p.job_id and c.attempt = p.attempt limit $3) c)
                delete from container_log_chunks c using chosen o
                where c.job_id = o.job_id and c.attempt = o.attempt and c.stream = o.stream and c.byte_offset = o.byte_offset
                  and o.before < $4",
                &jobs,
                &numbers,
                CHUNKS,
                bytes
            )
            .execute(&mut *tx)
            .await?
            .rows_affected();
            // A statement of its own: it sees what the one before has left.
            let logs = sqlx::query!(
                "/* retention::remove_logs */
                update container_executions e
                set logs_expired_at = coalesce(e.logs_expired_at, now()), stdout_log = null, stderr_log = null, clean_output = null,
                    logs_removed_at = case when not p.has_more then now() end
                from (
                    select p.job_id, p.attempt, exists (
                        select from container_log_chunks c where c.job_id = p.job_id and c.attempt = p.attempt) as has_more
                    from unnest($1::uuid[], $2::int[]) as p(job_id, attempt)) p
                where e.job_id = p.job_id and e.attempt = p.attempt and (e.logs_expired_at is null or not p.has_more)",
                &jobs,
                &numbers
            )
            .execute(&mut *tx)
            .await?
            .rows_affected();
            tx.commit().await?;
            Ok(Removed { logs, chunks, ..Removed::default() })
        })
        .await
}

/// Removes up to `jobs` jobs that ended long enough ago, with their attempts, specs and events. One whose events are not
/// all published stays until they are, and one whose log is still there until [`remove_logs`] has removed it.
pub async fn remove_jobs(store: &Store, defaults: Defaults, jobs: i64) -> Result<Removed> {
    store
        .run("retention::remove_jobs", || async {
            let Some(mut tx) = begin(store, "retention::remove_jobs").await? else { return Ok(Removed::default()) };
            let picked = sqlx::query!(
                r#"/* retention::remove_jobs */
                select j.id, j.tenant_id
                from (select id, make_interval(secs => nullif(coalesce(retain_jobs_seconds, $1), 0)) as kept from tenants) t
                cross join lateral (
                    select id from container_jobs where tenant_id = t.id and completed_at < now() - t.kept
                    order by completed_at limit $3) o
                join container_jobs j on j.id = o.id
                where not exists (select from outbox u cross join unnest(u.jobs) as n(job_id) where n.job_id = j.id)
                  and not exists (select from container_log_chunks c where c.job_id = j.id)
                limit $2 for update of j skip locked"#,
                defaults.jobs_seconds,
                jobs,
                LOOKED_AT
            )
            .fetch_all(&mut *tx)
            .await?;
            if picked.is_empty() {
                return Ok(Removed::default());
            }
            let (ids, tenants): (Vec<Uuid>, Vec<Uuid>) = picked.into_iter().map(|row| (row.id, row.tenant_id)).unzip();
            // Table by table, so that they are counted; what is left the trigger of the jobs would take along.
            let events = sqlx::query!("/* retention::remove_jobs */ delete from job_events where job_id = any($1)", &ids)
                .execute(&mut *tx)
                .await?;
            let attempts =
                sqlx::query!("/* retention::remove_jobs */ delete from container_executions where job_id = any($1)", &ids)
                    .execute(&mut *tx)
                    .await?;
            sqlx::query!(
                "/* retention::remove_jobs */
                delete from container_job_specs s using unnest($1::uuid[], $2::uuid[]) as g(tenant_id, job_id)
                where s.tenant_id = g.tenant_id and s.job_id = g.job_id",
                &tenants,
                &ids
            )
            .execute(&mut *tx)
            .await?;
            let gone = sqlx::query!("/* retention::remove_jobs */ delete from container_jobs where id = any($1)", &ids)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Removed {
                jobs: gone.rows_affected(),
                attempts: attempts.rows_affected(),
                events: events.rows_affected(),
                ..Removed::default()
            })
        })
        .await
}

/// Removes up to `letters` dead letters that nothing has happened to for as long as jobs are kept. One that is being
/// replayed stays.
pub async fn remove_letters(store: &Store, defaults: Defaults, letters: i64) -> Result<Removed> {
    store
        .run("retention::remove_letters", || async {
            let Some(mut tx) = begin(store, "retention::remove_letters").await? else { return Ok(Removed::default()) };
            let gone = sqlx::query!(
                "/* retention::remove_letters */
                with old as (
                    select l.id
                    from (
                        select id, make_interval(secs => nullif(coalesce(retain_jobs_seconds, $1), 0)) as kept from tenants
                        union all select null, make_interval(secs => nullif($1::int8, 0))) t
                    cross join lateral (
                        select id from dead_letters
                        where (tenant_id = t.id or (tenant_id is null and t.id is null)) and last_received_at < now() - t.kept
                          and state <> 'replaying' and coalesce(replayed_at, last_received_at) < now() - t.kept
                          and coalesce(dropped_at, last_received_at) < now() - t.kept
                        order by last_received_at limit $2 for update skip locked) l
                    limit $2)
                delete from dead_letters l using old o where l.id = o.id",
                defaults.jobs_seconds,
                letters
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Removed { letters: gone.rows_affected(), ..Removed::default() })
        })
        .await
}

/// Removes up to `runs` decisions about due times of schedules that were made as long ago as jobs are kept. One that
/// waits for a job to end stays.
pub async fn remove_runs(store: &Store, defaults: Defaults, runs: i64) -> Result<Removed> {
    store
        .run("retention::remove_runs", || async {
            let Some(mut tx) = begin(store, "retention::remove_runs").await? else { return Ok(Removed::default()) };
            let gone = sqlx::query!(
                "/* retention::remove_runs */
                with old as (
                    select r.schedule_id, r.due_at from schedule_runs r join tenants t on t.id = r.tenant_id
                    where r.outcome <> 'queued_overlap'
                      and r.created_at < now() - make_interval(secs => nullif(coalesce(t.retain_jobs_seconds, $1), 0))
                    order by r.created_at limit $2 for update of r skip locked)
                delete from schedule_runs r using old o where r.schedule_id = o.schedule_id and r.due_at = o.due_at",
                defaults.jobs_seconds,
                runs
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Removed { runs: gone.rows_affected(), ..Removed::default() })
        })
        .await
}

/// For how long what should have left first is overdue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lag {
    /// The oldest job; zero if none is.
    pub jobs: Duration,
    /// The oldest log.
    pub logs: Duration,
}

/// How far removing is behind.
pub async fn lag(store: &Store, defaults: Defaults) -> Result<Lag> {
    let statement = sqlx::query!(
        r#"/* retention::lag */
        select
            (select extract(epoch from max(now() - t.kept - o.completed_at))::float8
             from (select id, make_interval(secs => nullif(coalesce(retain_jobs_seconds, $1), 0)) as kept from tenants) t
             cross join lateral (select completed_at from container_jobs where tenant_id = t.id and completed_at is not null
                order by completed_at limit 1) o) as jobs,
            (select extract(epoch from max(now() - t.kept - o.ended_at))::float8
             from (select id, make_interval(secs => least(nullif(coalesce(retain_logs_seconds, $2), 0),
                    nullif(coalesce(retain_jobs_seconds, $1), 0))) as kept from tenants) t
             cross join lateral (select e.ended_at from container_executions e join container_jobs j on j.id = e.job_id
                where e.tenant_id = t.id and e.ended_at < now() - t.kept and e.logs_removed_at is null
                  and j.completed_at < now() - t.kept
                order by e.ended_at limit 1) o) as logs"#,
        defaults.jobs_seconds,
        defaults.logs_seconds
    );
    let row = store.read("retention::lag", statement.fetch_one(store.pool())).await?;
    let overdue = |seconds: Option<f64>| Duration::try_from_secs_f64(seconds.unwrap_or(0.0)).unwrap_or_default();
    Ok(Lag { jobs: overdue(row.jobs), logs: overdue(row.logs) })
}

/// Says for how long one tenant's things are kept, in seconds; 0 for ever. The outer option of each is whether to change
/// it, the inner one its value: none for the fleet's default.
pub async fn put_policy(
    store: &Store,
    tenant: TenantId,
    jobs_seconds: Option<Option<i64>>,
    logs_seconds: Option<Option<i64>>,
) -> Result<()> {
    let statement = sqlx::query!(
        "/* retention::put_policy */
        update tenants set retain_jobs_seconds = case when $2 then $3 else retain_jobs_seconds end,
            retain_logs_seconds = case when $4 then $5 else retain_logs_seconds end
        where id = $1",
        tenant.uuid(),
        jobs_seconds.is_some(),
        jobs_seconds.flatten(),
        logs_seconds.is_some(),
        logs_seconds.flatten()
    );
    store.single("retention::put_policy", statement.execute(store.pool())).await?;
    Ok(())
}

/// A log that has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Whose.
    pub attempt: i32,
    /// Since when.
    pub at: DateTime<Utc>,
}

/// The first attempt of a job that has had chunks behind (attempt, sequence) which have left, or are about to.
pub async fn logs_gone(store: &Store, scope: Scope, job: JobId, after: (i32, i32)) -> Result<Option<Gone>> {
    store
        .bounded("retention::logs_gone", async {
            let mut tx = store.begin_scoped("retention::logs_gone", scope).await?;
            let row = sqlx::query!(
                r#"/* retention::logs_gone */
                select attempt, logs_expired_at as "at!" from container_executions
                where job_id = $1 and log_sequence > 0 and (attempt, log_sequence) > ($2, $3) and logs_expired_at is not null
                order by attempt limit 1"#,
                job.uuid(),
                after.0,
                after.1
            )
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(row.map(|row| Gone { attempt: row.attempt, at: row.at }))
        })
        .await
}
