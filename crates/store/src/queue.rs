//! The backlog: what enters the window, what leaves it, what waits and until when. The dispatcher's statements.

use gantry_core::message::{EventKind, JobEvent, WorkItem};
use gantry_core::state::{self, Event, Next};
use gantry_core::{ExecutorType, Failure, JobId, Status, TenantId};
use uuid::Uuid;

use crate::error::{Result, parse};
use crate::events::{self, NewEvent};
use crate::tx::Store;

/// Slots of one executor type and owner that wait for jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The executor type.
    pub executor: ExecutorType,
    /// Whose jobs may take them; none for hosts that everybody shares.
    pub tenant: Option<TenantId>,
    /// Free slots of active hosts that live workers serve.
    pub free_slots: i64,
    /// Dispatched jobs that will take such slots.
    pub dispatched: i64,
}

/// The windows of every executor type that has a host which a live worker serves. A dispatched job counts against
/// its tenant's own hosts first, and against the shared ones beyond that.
pub async fn windows(store: &Store) -> Result<Vec<Window>> {
    let rows = store
        .read(
            "queue::windows",
            sqlx::query!(
                r#"/* queue::windows */
                with slots as (
                    select h.executor_type, h.tenant_id, sum(greatest(h.max_concurrent_jobs - h.current_job_count, 0)) as free
                    from executor_hosts h
                    where h.is_active and h.state = 'active' and exists (
                        select 1 from worker_hosts wh join workers w on w.id = wh.worker_id
                        where wh.executor_host_id = h.id and wh.healthy and w.state = 'alive'
                          and w.last_beat_at > now() - make_interval(secs => w.lease_seconds))
                    group by h.executor_type, h.tenant_id
                ), dispatched as (
                    select executor_type, tenant_id, count(*) as jobs from container_jobs
                    where status = 'pending' and dispatched_at is not null group by executor_type, tenant_id
                ), own as (
                    select d.executor_type, d.tenant_id, least(d.jobs, coalesce(s.free, 0)) as taken,
                        greatest(d.jobs - coalesce(s.free, 0), 0) as beyond
                    from dispatched d left join slots s on s.executor_type = d.executor_type and s.tenant_id = d.tenant_id
                )
                select s.executor_type::text as "executor_type!", s.tenant_id, s.free as "free!",
                    coalesce(case when s.tenant_id is null
                        then (select sum(o.beyond) from own o where o.executor_type = s.executor_type)
                        else (select o.taken from own o where o.executor_type = s.executor_type and o.tenant_id = s.tenant_id)
                    end, 0)::int8 as "dispatched!"
                from slots s order by s.tenant_id nulls last"#
            )
            .fetch_all(store.pool()),
        )
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Window {
                executor: parse("executor_type", &row.executor_type)?,
                tenant: row.tenant_id.map(Into::into),
                free_slots: row.free,
                dispatched: row.dispatched,
            })
        })
        .collect()
}

/// Moves up to `room` jobs that may use a window's slots into it, best first, and returns them in that order. Rows
/// that waited for a full host stand in line again with the others: a slot is free now. The caller publishes
/// them afterwards; if it dies before, [`republishable`] finds them.
pub async fn dispatch(store: &Store, window: Window, room: i64) -> Result<Vec<WorkItem>> {
    match window.tenant {
        Some(tenant) => dispatch_own(store, window.executor, tenant, room).await,
        None => dispatch_shared(store, window.executor, room).await,
    }
}

async fn dispatch_shared(store: &Store, executor: ExecutorType, room: i64) -> Result<Vec<WorkItem>> {
    store
        .run("queue::dispatch_shared", || async {
            let mut tx = store.begin("queue::dispatch_shared").await?;
            sqlx::query!(
                "/* queue::dispatch_shared */
                update container_jobs set parked_until = null, waiting_reason = null, waiting_detail = null
                where id in (
                    select id from container_jobs
                    where executor_type = $1::text::executor_type and waiting_reason = 'host_full'
                      and status = 'pending' and parked_until is not null
                    order by priority desc, id limit $2 for no key update skip locked)",
                executor.as_str(),
                room
            )
            .execute(&mut *tx)
            .await?;
            let rows = sqlx::query_as!(
                Dispatched,
                "/* queue::dispatch_shared */
                with picked as (
                    select id from container_jobs
                    where executor_type = $1::text::executor_type and status = 'pending'
                      and dispatched_at is null and parked_until is null
                    order by priority desc, id limit $2 for no key update skip locked)
                update container_jobs j
                set dispatched_at = now(), published_at = now(), publishes = 1, dispatch_sequence = dispatch_sequence + 1
                from picked where j.id = picked.id
                returning j.id, j.attempt, j.dispatch_sequence, j.priority",
                executor.as_str(),
                room
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(in_order(rows))
        })
        .await
}

/// The same for slots of a tenant's own hosts: an index of its own, because another tenant's backlog may be long.
async fn dispatch_own(store: &Store, executor: ExecutorType, tenant: TenantId, room: i64) -> Result<Vec<WorkItem>> {
    store
        .run("queue::dispatch_own", || async {
            let mut tx = store.begin("queue::dispatch_own").await?;
            sqlx::query!(
                "/* queue::dispatch_own */
                update container_jobs set parked_until = null, waiting_reason = null, waiting_detail = null
                where id in (
                    select id from container_jobs
                    where tenant_id = $3 and executor_type = $1::text::executor_type and waiting_reason = 'host_full'
                      and status = 'pending' and parked_until is not null
                    order by priority desc, id limit $2 for no key update skip locked)",
                executor.as_str(),
                room,
                tenant.uuid()
            )
            .execute(&mut *tx)
            .await?;
            let rows = sqlx::query_as!(
                Dispatched,
                "/* queue::dispatch_own */
                with picked as (
                    select id from container_jobs
                    where tenant_id = $3 and executor_type = $1::text::executor_type and status = 'pending'
                      and dispatched_at is null and parked_until is null
                    order by priority desc, id limit $2 for no key update skip locked)
                update container_jobs j
                set dispatched_at = now(), published_at = now(), publishes = 1, dispatch_sequence = dispatch_sequence + 1
                from picked where j.id = picked.id
                returning j.id, j.attempt, j.dispatch_sequence, j.priority",
                executor.as_str(),
                room,
                tenant.uuid()
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(in_order(rows))
        })
        .await
}

struct Dispatched {
    id: Uuid,
    attempt: i32,
    dispatch_sequence: i32,
    priority: i16,
}

fn in_order(mut rows: Vec<Dispatched>) -> Vec<WorkItem> {
    rows.sort_by_key(|row| (std::cmp::Reverse(row.priority), row.id));
    rows.into_iter()
        .map(|row| WorkItem { job: row.id.into(), attempt: row.attempt + 1, sequence: row.dispatch_sequence })
        .collect()
}

/// Dispatched rows whose message may be lost, marked as published again *with the same sequence*: after
/// `quick_seconds` if the queue is empty, after a minute in any case, each further time after twice as long.
pub async fn republishable(
    store: &Store,
    executor: ExecutorType,
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
              and published_at < now() - make_interval(secs => $2 * power(2, least(publishes - 1, 5)))
            order by published_at limit $3 for no key update skip locked)
        update container_jobs j set published_at = now(), publishes = least(publishes + 1, 1000)
        from late where j.id = late.id
        returning j.id, j.attempt, j.dispatch_sequence",
                executor.as_str(),
                pause,
                limit
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
pub async fn unpark_due(store: &Store, limit: i64) -> Result<u64> {
    let statement = sqlx::query!(
        "/* queue::unpark_due */
        with due as (
            select id from container_jobs where status = 'pending' and parked_until <= now()
            order by parked_until limit $1 for no key update skip locked)
        update container_jobs j set parked_until = null, waiting_reason = null, waiting_detail = null
        from due where j.id = due.id",
        limit
    );
    let done = store.single("queue::unpark_due", statement.execute(store.pool())).await?;
    Ok(done.rows_affected())
}

/// Ends pending jobs that waited past their queue deadline; returns how many.
pub async fn end_overdue(store: &Store, limit: i64) -> Result<usize> {
    store
        .run("queue::end_overdue", || async {
            let mut tx = store.begin("queue::end_overdue").await?;
            let rows = sqlx::query!(
                r#"/* queue::end_overdue */
                select id, tenant_id, name, status::text as "status!", executor_type::text as "executor_type!", attempt
                from container_jobs where status = 'pending' and queue_deadline_at <= now()
                order by id limit $1 for no key update skip locked"#,
                limit
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
            error_message = e.message, waiting_reason = null, waiting_detail = null, parked_until = null, dispatched_at = null
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
pub async fn stranded(store: &Store, executor: ExecutorType, limit: i64) -> Result<Vec<WorkItem>> {
    let rows = store
        .read(
            "queue::stranded",
            sqlx::query!(
                "/* queue::stranded */
        select id, attempt, dispatch_sequence from container_jobs
        where executor_type = $1::text::executor_type and status = 'pending' and dispatched_at is not null
          and published_at < now() - interval '1 second'
        order by priority desc, id limit $2",
                executor.as_str(),
                limit
            )
            .fetch_all(store.pool()),
        )
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| WorkItem { job: row.id.into(), attempt: row.attempt + 1, sequence: row.dispatch_sequence })
        .collect())
}
