//! Attempts whose end can never be confirmed: who decides marks them, the dispatcher's upkeep reports their end, and
//! the recorder writes it.

use std::time::Duration;

use gantry_core::lost::Abandon;
use gantry_core::message::{Ended, Report, ReportKind, Token};
use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass, HostId, JobId, Status};
use serde_json::json;

use crate::audit::{self, Actor};
use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// What giving a job's attempt up did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// The attempt is marked; its end is recorded soon.
    Marked(i32),
    /// It was marked before.
    Already(i32),
    /// The job has no open attempt.
    NotRunning(Status),
}

/// What declaring a host lost did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// The host is lost; so many slots are held by attempts that are given up now.
    Lost {
        /// The host.
        host: HostId,
        /// Slots in use.
        slots: i32,
    },
    /// So many live workers serve it: it answers.
    Reachable(i64),
}

/// Gives the open attempt of a job up; none if the job does not exist or belongs to another tenant.
pub async fn abandon(
    store: &Store,
    scope: Scope,
    job: JobId,
    how: Abandon,
    actor: &Actor,
) -> Result<Option<Abandoned>> {
    store
        .run("lost::abandon", || async {
            let mut tx = store.begin_scoped("lost::abandon", scope).await?;
            let row = sqlx::query!(
                r#"/* lost::abandon */
                select status::text as "status!", attempt from container_jobs where id = $1 for no key update"#,
                job.uuid()
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let status: Status = parse("status", &row.status)?;
            if status != Status::Running {
                return Ok(Some(Abandoned::NotRunning(status)));
            }
            let marked = sqlx::query!(
                "/* lost::abandon */
                update container_executions
                set epoch = epoch + 1, abandoned_at = now(), abandoned_by = $3, abandoned_as = $4::text::abandon
                where job_id = $1 and attempt = $2 and ended_at is null and abandoned_at is null",
                job.uuid(),
                row.attempt,
                actor.name,
                how.to_string()
            )
            .execute(&mut *tx)
            .await?;
            if marked.rows_affected() == 0 {
                return Ok(Some(Abandoned::Already(row.attempt)));
            }
            let detail = json!({ "attempt": row.attempt, "as": how });
            audit::insert(&mut tx, actor, "job_abandoned", job.uuid(), &detail).await?;
            tx.commit().await?;
            Ok(Some(Abandoned::Marked(row.attempt)))
        })
        .await
}

/// Declares a host lost: nothing is placed there any more, and [`mark_on_lost_hosts`] gives up what runs there. Not
/// one that a live worker serves, unless `force`. None if the host does not exist.
pub async fn declare(
    store: &Store,
    scope: Scope,
    host: HostId,
    force: bool,
    actor: &Actor,
) -> Result<Option<Declared>> {
    store
        .run("lost::declare", || async {
            let mut tx = store.begin_scoped("lost::declare", scope).await?;
            let row = sqlx::query!(
                r#"/* lost::declare */
                select h.current_job_count, (
                    select count(*) from worker_hosts wh join workers w on w.id = wh.worker_id
                    where wh.executor_host_id = h.id and wh.healthy and w.state = 'alive'
                      and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as "serving!"
                from executor_hosts h where h.id = $1 for no key update of h"#,
                host.uuid()
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(None) };
            if row.serving > 0 && !force {
                return Ok(Some(Declared::Reachable(row.serving)));
            }
            sqlx::query!(
                "/* lost::declare */ update executor_hosts set state = 'lost', moves = false where id = $1",
                host.uuid()
            )
            .execute(&mut *tx)
            .await?;
            let detail = json!({ "slots": row.current_job_count, "forced": row.serving > 0 });
            audit::insert(&mut tx, actor, "host_lost", host.uuid(), &detail).await?;
            tx.commit().await?;
            Ok(Some(Declared::Lost { host, slots: row.current_job_count }))
        })
        .await
}

/// Marks open attempts on hosts that were declared lost; returns how many.
pub async fn mark_on_lost_hosts(store: &Store, limit: i64) -> Result<u64> {
    // Host by host: nearly always none is lost, and a join may be planned as a read of all that runs. What is locked is looked up by
    // its key, up to the limit.
    let statement = sqlx::query!(
        "/* lost::mark_on_lost_hosts */
        with there as materialized (
            select e.job_id, e.attempt, s.spec->'on_lost'->>'action' = 'fail' as fails
            from executor_hosts h cross join lateral (
                select job_id, attempt, tenant_id from container_executions
                where executor_host_id = h.id and slot_held and ended_at is null and abandoned_at is null
                limit $1) e
            join container_job_specs s on s.tenant_id = e.tenant_id and s.job_id = e.job_id
            where h.state = 'lost'
            order by e.job_id limit $1
        ), gone as (
            select t.job_id, t.attempt, t.fails
            from there t cross join lateral (
                select job_id from container_executions
                where job_id = t.job_id and attempt = t.attempt and num_nulls(ended_at) = 1 and abandoned_at is null
                for no key update skip locked) e)
        update container_executions e
        set epoch = e.epoch + 1, abandoned_at = now(), abandoned_by = 'host lost',
            abandoned_as = (case when g.fails then 'fail' else 'retry' end)::abandon
        from gone g where e.job_id = g.job_id and e.attempt = g.attempt",
        limit
    );
    let done = store.single("lost::mark_on_lost_hosts", statement.execute(store.pool())).await?;
    Ok(done.rows_affected())
}

/// Marks attempts that have been out of reach for as long as their job's own policy waits; returns how many. Only those
/// of jobs that wait for less than `reached_for`, the time for which the caller itself has reached Postgres without a
/// gap: else a fleet that comes back from a night's rest would give up what its workers are about to adopt.
pub async fn mark_by_policy(store: &Store, reached_for: Duration, limit: i64) -> Result<u64> {
    // Step by step (`offset 0`): a join may be planned as a read of every attempt or spec, because nearly always nothing is
    // away, and no statistics say so. What is locked is looked up by its key, up to the limit.
    let statement = sqlx::query!(
        "/* lost::mark_by_policy */
        with away as materialized (
            select e.job_id, e.attempt, e.tenant_id, w.id as worker_id, wh.unhealthy_since as since
            from worker_hosts wh join workers w on w.id = wh.worker_id cross join lateral (
                select job_id, attempt, tenant_id from container_executions
                where executor_host_id = wh.executor_host_id and slot_held and worker_id = w.id
                  and ended_at is null and abandoned_at is null offset 0) e
            where not wh.healthy and wh.failures > 0 and w.state = 'alive'
            union all
            select e.job_id, e.attempt, e.tenant_id, w.id, w.ended_at
            from workers w cross join lateral (
                select job_id, attempt, tenant_id from container_executions
                where worker_id = w.id and ended_at is null and abandoned_at is null offset 0) e
            where w.state <> 'alive'
        ), due as materialized (
            select a.job_id, a.attempt, a.worker_id, s.action
            from away a cross join lateral (
                select spec->'on_lost'->>'action' as action, (spec->'on_lost'->>'after_seconds')::float8 as after_seconds
                from container_job_specs where tenant_id = a.tenant_id and job_id = a.job_id offset 0) s
            where s.action in ('retry', 'fail') and s.after_seconds < $2
              and a.since < now() - make_interval(secs => s.after_seconds)
            order by a.job_id
        ), taken as (
            select d.job_id, d.attempt, d.action
            from due d cross join lateral (
                select job_id from container_executions
                where job_id = d.job_id and attempt = d.attempt and worker_id = d.worker_id
                  and num_nulls(ended_at) = 1 and abandoned_at is null
                for no key update skip locked) e
            limit $1)
        update container_executions e
        set epoch = e.epoch + 1, abandoned_at = now(), abandoned_by = 'on_lost', abandoned_as = t.action::abandon
        from taken t where e.job_id = t.job_id and e.attempt = t.attempt",
        limit,
        reached_for.as_secs_f64()
    );
    let done = store.single("lost::mark_by_policy", statement.execute(store.pool())).await?;
    Ok(done.rows_affected())
}

/// The ends of marked attempts that are not recorded yet, as ordinary reports.
pub async fn reports(store: &Store, limit: i64) -> Result<Vec<Report>> {
    let rows = store
        .read(
            "lost::reports",
            sqlx::query!(
                r#"/* lost::reports */
                select e.job_id, e.attempt, e.epoch, e.execution_id, e.abandoned_by as "by!", s.spec->>'traceparent' as traceparent
                from container_executions e join container_job_specs s on s.tenant_id = e.tenant_id and s.job_id = e.job_id
                where e.abandoned_at is not null and e.ended_at is null order by e.abandoned_at limit $1"#,
                limit
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let reports = rows.into_iter().map(|row| {
        let cause = match row.by.as_str() {
            "host lost" => "its host was declared lost".to_owned(),
            "on_lost" => "it was out of reach for as long as its on_lost policy waits".to_owned(),
            by => format!("it was given up by {by}"),
        };
        let failure = Failure::new(FailureClass::Lost, format!("{cause}; its container may still run there"));
        let ended = Ended { execution_id: row.execution_id, ..Ended::bare(Outcome::Failed(failure).into()) };
        Report {
            token: Token { job: row.job_id.into(), attempt: row.attempt, epoch: row.epoch },
            traceparent: row.traceparent,
            kind: ReportKind::Ended(ended),
        }
    });
    Ok(reports.collect())
}
