//! The backlog beside its lines: what is sent again, what waits and until when. Statements of upkeep.

use gantry_core::message::{EventKind, JobEvent, WorkItem};
use gantry_core::state::{self, Event, Next};
use gantry_core::{ExecutorType, Failure, JobId, Status, TenantId};
use uuid::Uuid;

use crate::error::{Result, parse};
use crate::events::{self, NewEvent};
use crate::reach::Reach;
use crate::tx::Store;

/// Dispatched rows whose message may be lost, marked as published again *with the same sequence*: after
/// `quick_seconds` if the queue is empty, after a minute in any case, each further time after twice as long.
pub async fn republishable(
    store: &Store,
    executor: ExecutorType,
    reach: Reach,
    queue_is_empty: bool,
    limit: i64,
) -> Result<Vec<WorkItem>> {
    let pause = if queue_is_empty { 2.0 } else { 60.0 };
    let rows = store
        .single(
            "queue::republishable",
            sqlx::query!(
                "/* queue::republishable */
        with late as (
            select id from container_jobs
            where executor_type = $1::text::executor_type and status = 'pending' and dispatched_at is not null
              and published_at > coalesce(now() - make_interval(secs => $4), '-infinity')
              and published_at < now() - make_interval(secs => $2)
              and published_at < now() - make_interval(secs => $2 * power(2, least(publishes - 1, 5)))
            order by published_at limit $3 for no key update skip locked)
        update container_jobs j set published_at = now(), publishes = least(publishes + 1, 1000)
        from late where j.id = late.id
        returning j.id, j.attempt, j.dispatch_sequence",
                executor.as_str(),
                pause,
                limit,
                reach.seconds()
            )
            .fetch_all(store.pool()),
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| WorkItem { job: row.id.into(), attempt: row.attempt + 1, sequence: row.dispatch_sequence })
        .collect())
}

/// Puts parked rows whose time has come back in line; returns how many.
pub async fn unpark_due(store: &Store, reach: Reach, limit: i64) -> Result<u64> {
    store
        .run("queue::unpark_due", || async {
            let mut tx = store.begin_in_order("queue::unpark_due").await?;
            let done = sqlx::query!(
                "/* queue::unpark_due */
                with due as (
                    select id from container_jobs where status = 'pending' and parked_until is not null and parked_until <= now()
                      and parked_until > coalesce(now() - make_interval(secs => $2), '-infinity')
                    order by parked_until limit $1 for no key update skip locked)
                update container_jobs j set parked_until = null, waiting_reason = null, waiting_detail = null, limit_id = null
                from due where j.id = due.id",
                limit,
                reach.seconds()
            )
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if done > 0 {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
}

/// Ends pending jobs that waited past their queue deadline; returns how many.
pub async fn end_overdue(store: &Store, reach: Reach, limit: i64) -> Result<usize> {
    store
        .run("queue::end_overdue", || async {
            let mut tx = store.begin("queue::end_overdue").await?;
            let rows = sqlx::query!(
                r#"/* queue::end_overdue */
                select id, tenant_id, name, status::text as "status!", executor_type::text as "executor_type!", attempt
                from container_jobs where status = 'pending' and queue_deadline_at <= now()
                  and queue_deadline_at > coalesce(now() - make_interval(secs => $2), '-infinity')
                order by queue_deadline_at, id limit $1 for no key update skip locked"#,
                limit,
                reach.seconds()
            )
            .fetch_all(&mut *tx)
            .await?;
            let mut ended = Vec::new();
            for row in rows {
                let waiting = Waiting {
                    job: row.id.into(),
                    tenant: row.tenant_id.into(),
                    name: row.name,
                    executor: parse("executor_type", &row.executor_type)?,
                    attempt: row.attempt,
                };
                if let Ok(Next::End { status, failure }) =
                    state::next(parse("status", &row.status)?, &Event::QueueDeadline)
                {
                    ended.push(waiting.ended(status, failure));
                }
            }
            if ended.is_empty() {
                return Ok(0);
            }
            end_pending(&mut tx, &ended).await?;
            tx.commit().await?;
            Ok(ended.len())
        })
        .await
}

/// A pending job that is about to end without running.
pub(crate) struct Waiting {
    pub(crate) job: JobId,
    pub(crate) tenant: TenantId,
    pub(crate) name: String,
    pub(crate) executor: ExecutorType,
    pub(crate) attempt: i32,
}

impl Waiting {
    pub(crate) fn ended(self, status: Status, failure: Option<Failure>) -> NewEvent {
        let kind = EventKind::Ended(status);
        NewEvent {
            kind,
            data: JobEvent {
                job_id: self.job,
                tenant_id: self.tenant,
                name: self.name,
                status,
                executor_type: self.executor,
                attempt: self.attempt,
                sequence: kind.sequence(self.attempt),
                exit_code: None,
                failure,
            },
        }
    }
}

/// Ends jobs that the caller has locked as pending, with their events.
pub(crate) async fn end_pending(tx: &mut sqlx::PgConnection, ended: &[NewEvent]) -> Result<()> {
    let failures = || ended.iter().map(|event| event.data.failure.as_ref());
    let ids: Vec<Uuid> = ended.iter().map(|event| event.data.job_id.uuid()).collect();
    let statuses: Vec<String> = ended.iter().map(|event| event.data.status.to_string()).collect();
    let classes: Vec<Option<String>> = failures().map(|f| f.map(|f| f.class.to_string())).collect();
    let messages: Vec<Option<String>> = failures().map(|f| f.map(|f| f.message.clone())).collect();
    sqlx::query!(
        "/* queue::end_pending */
        update container_jobs j set status = e.status::job_status, completed_at = now(), failure_class = e.class::failure_class,
            error_message = e.message, waiting_reason = null, waiting_detail = null, parked_until = null, limit_id = null, dispatched_at = null
        from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as e(id, status, class, message) where j.id = e.id",
        &ids,
        &statuses,
        &classes as &[Option<String>],
        &messages as &[Option<String>]
    )
    .execute(&mut *tx)
    .await?;
    events::insert(tx, ended).await?;
    Ok(())
}

/// Deletes idempotency keys whose time is over; returns how many.
pub async fn expire_keys(store: &Store, limit: i64) -> Result<u64> {
    let done = store
        .single(
            "queue::expire_keys",
            sqlx::query!(
                "/* queue::expire_keys */
        delete from idempotency_keys where (tenant_id, source, key) in (
            select tenant_id, source, key from idempotency_keys where expires_at <= now()
            order by expires_at limit $1 for update skip locked)",
                limit
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(done.rows_affected())
}

/// Dispatched rows of an executor type that have waited for a second: their message was lost, or its worker
/// had no room for it. For a worker with free slots.
pub async fn stranded(store: &Store, executor: ExecutorType, reach: Reach, limit: i64) -> Result<Vec<WorkItem>> {
    let rows = store
        .read(
            "queue::stranded",
            sqlx::query!(
                "/* queue::stranded */
        select id, attempt, dispatch_sequence from container_jobs
        where executor_type = $1::text::executor_type and status = 'pending' and dispatched_at is not null
          and published_at < now() - interval '1 second'
          and published_at > coalesce(now() - make_interval(secs => $3), '-infinity')
        order by priority desc, id limit $2",
                executor.as_str(),
                limit,
                reach.seconds()
            )
            .fetch_all(store.pool()),
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| WorkItem { job: row.id.into(), attempt: row.attempt + 1, sequence: row.dispatch_sequence })
        .collect())
}
