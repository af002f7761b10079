//! What the explanation of a job is made of. However long the lines are, a bounded number of rows is read; of other
//! tenants nothing but how many jobs of theirs go before this one.

use gantry_core::limits::Kind;
use gantry_core::retry;
use gantry_core::routing::failover::Routing;
use gantry_core::why::{Ahead, AttemptFacts, Backlog, COUNTED, Facts, Hosts, Job, Limit, Standing};
use gantry_core::{ExecutorType, JobId, LimitId, Status, TemplateId, TenantId, WaitingReason};
use serde::Deserialize;

use crate::bulk;
use crate::error::{Result, from_json, parse};
use crate::history::{Owner, standing};
use crate::tx::{Scope, Store};

/// Names of hosts of one kind at most.
const NAMES: i32 = 3;
/// What is counted at most, as Postgres has it.
#[expect(clippy::cast_possible_truncation, reason = "it is far from the limits of an i32")]
const MOST: i32 = COUNTED as i32;

/// What there is to say of a job; none if it does not exist or belongs to another tenant.
pub async fn facts(store: &Store, scope: Scope, id: JobId) -> Result<Option<Facts>> {
    store
        .bounded("why::facts", async {
            let mut tx = store.begin_scoped("why::facts", scope).await?;
            let Some((row, mut facts)) = job(&mut tx, id).await? else { return Ok(None) };
            facts.attempts = attempts(&mut tx, id).await?;
            facts.changes = bulk::changes_within(&mut tx, id).await?;
            if facts.job.status == Status::Pending {
                facts.backlog = Some(backlog(&mut tx, &facts.job, &row).await?);
            }
            tx.commit().await?;
            Ok(Some(facts))
        })
        .await
}

/// What of a job only the search for its backlog needs.
pub(crate) struct Place {
    pub(crate) tenant: TenantId,
    pub(crate) priority: i16,
    /// The limit for which it is parked.
    pub(crate) limit: Option<LimitId>,
    pub(crate) template: Option<TemplateId>,
    pub(crate) key: Option<String>,
}

async fn job(tx: &mut sqlx::PgConnection, id: JobId) -> Result<Option<(Place, Facts)>> {
    let row = sqlx::query!(
        r#"/* why::job */
        select now() as "now!", j.tenant_id, j.priority, j.limit_id, j.template, j.concurrency_key, j.status::text as "status!", j.executor_type::text as "executor_type!",
            j.created_at, j.completed_at, j.cancel_requested_at, j.waiting_reason::text, j.parked_until, j.dispatched_at,
            j.failure_class::text, j.error_message, j.exit_code, j.user_retries, j.infrastructure_retries,
            s.spec->'retry' as retry, s.routing
        from container_jobs j join container_job_specs s on s.tenant_id = j.tenant_id and s.job_id = j.id where j.id = $1"#,
        id.uuid()
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let job = Job {
        id,
        status: parse("status", &row.status)?,
        executor: parse("executor_type", &row.executor_type)?,
        created_at: row.created_at,
        completed_at: row.completed_at,
        cancel_requested_at: row.cancel_requested_at,
        waiting_reason: row.waiting_reason.as_deref().map(|reason| parse("waiting_reason", reason)).transpose()?,
        parked_until: row.parked_until,
        dispatched_at: row.dispatched_at,
        failure_class: row.failure_class.as_deref().map(|class| parse("failure_class", class)).transpose()?,
        error_message: row.error_message,
        exit_code: row.exit_code,
        retry: row.retry.map(|policy| from_json("retry", policy)).transpose()?.unwrap_or_default(),
        used: retry::Used {
            user: u32::try_from(row.user_retries).unwrap_or(0),
            infrastructure: u32::try_from(row.infrastructure_retries).unwrap_or(0),
        },
    };
    let place = Place {
        tenant: row.tenant_id.into(),
        priority: row.priority,
        limit: row.limit_id.map(Into::into),
        template: row.template.map(Into::into),
        key: row.concurrency_key,
    };
    // A way that this version cannot read is not told.
    let routing = Routing::deserialize(row.routing).unwrap_or_default().trace;
    let facts = Facts { now: row.now, job, attempts: Vec::new(), backlog: None, changes: Vec::new(), routing };
    Ok(Some((place, facts)))
}

async fn attempts(tx: &mut sqlx::PgConnection, id: JobId) -> Result<Vec<AttemptFacts>> {
    let rows = sqlx::query!(
        r#"/* why::attempts */
        select e.attempt, h.name, e.claimed_at, e.prepare_began_at, e.prepare_ended_at, e.launch_sent_at, e.started_at,
            e.ended_at, e.stop_reason::text, e.exit_code, e.failure_class::text, e.error_message, e.retried_by::text,
            e.abandoned_by, w.state = 'alive' as "alive!", w.ended_at as worker_ended_at,
            wh.unhealthy_since as "unhealthy_since?", wh.failures as "failures?",
            case when e.ended_at is null then gantry_host_detail(e.worker_id, h.id) end as detail,
            case when e.ended_at is null then (select count(*) from workers o
                where o.state = 'alive' and o.executor_type = h.executor_type) end as of_type,
            case when e.ended_at is null then (select count(*) from worker_hosts oh join workers o on o.id = oh.worker_id
                where oh.executor_host_id = h.id and oh.healthy and o.state = 'alive') end as serving
        from container_executions e join executor_hosts h on h.id = e.executor_host_id join workers w on w.id = e.worker_id
        left join worker_hosts wh on wh.worker_id = e.worker_id and wh.executor_host_id = h.id
        where e.job_id = $1 order by e.attempt"#,
        id.uuid()
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let owner = Owner {
                alive: row.alive,
                ended_at: row.worker_ended_at,
                unhealthy_since: row.unhealthy_since,
                failures: row.failures.unwrap_or(0),
                detail: row.detail.unwrap_or_default(),
                of_type: row.of_type.unwrap_or(0),
                serving: row.serving.unwrap_or(0),
            };
            let standing = row.ended_at.is_none().then(|| standing(owner));
            Ok(AttemptFacts {
                attempt: row.attempt,
                host: row.name,
                claimed_at: row.claimed_at,
                prepare_began_at: row.prepare_began_at,
                prepare_ended_at: row.prepare_ended_at,
                launch_sent_at: row.launch_sent_at,
                started_at: row.started_at,
                ended_at: row.ended_at,
                stop_reason: row.stop_reason.as_deref().map(|reason| parse("stop_reason", reason)).transpose()?,
                exit_code: row.exit_code,
                failure_class: row.failure_class.as_deref().map(|class| parse("failure_class", class)).transpose()?,
                message: row.error_message,
                retried_by: row.retried_by.as_deref().map(|budget| parse("retried_by", budget)).transpose()?,
                abandoned_by: row.abandoned_by,
                standing: standing.map(|s| Standing { condition: s.condition, since: s.since, cause: s.cause }),
            })
        })
        .collect()
}

/// What a job of this place waits among.
pub(crate) async fn backlog(tx: &mut sqlx::PgConnection, job: &Job, place: &Place) -> Result<Backlog> {
    let limit = limit(tx, place).await?;
    let backlog = hosts(tx, job.executor, place.tenant).await?;
    // Who is in the window, or waits for a time of its own, does not stand in line.
    let stands = job.dispatched_at.is_none()
        && !matches!(job.waiting_reason, Some(WaitingReason::RetryBackoff | WaitingReason::NotBefore));
    let ahead = if stands { ahead(tx, job, place).await? } else { Ahead::default() };
    Ok(Backlog { ahead, limit, ..backlog })
}

/// The hosts that may run a tenant's jobs, counted.
pub(crate) async fn hosts(tx: &mut sqlx::PgConnection, executor: ExecutorType, tenant: TenantId) -> Result<Backlog> {
    let row = sqlx::query!(
        r#"/* why::hosts */
        with h as (
            select h.name, h.is_active, h.state, h.is_active and h.state = 'active' as takes, s.served, s.gone_since,
                h.max_concurrent_jobs as slots, greatest(h.max_concurrent_jobs - h.current_job_count, 0) as free,
                h.average_slot_time
            from executor_hosts h cross join lateral (
                select coalesce(bool_or(wh.healthy and w.state = 'alive'
                        and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)), false) as served,
                    max(coalesce(w.ended_at, wh.unhealthy_since)) as gone_since
                from worker_hosts wh join workers w on w.id = wh.worker_id where wh.executor_host_id = h.id) s
            where h.executor_type = $1::text::executor_type and (h.tenant_id is null or h.tenant_id = $2)
        )
        select count(*) as "total!", count(*) filter (where takes) as "active!",
            count(*) filter (where is_active and state = 'cordoned') as "cordoned!",
            count(*) filter (where is_active and state = 'draining') as "draining!",
            count(*) filter (where is_active and state = 'lost') as "lost!", count(*) filter (where not is_active) as "inactive!",
            count(*) filter (where takes and served) as "served!",
            coalesce(sum(slots) filter (where takes and served), 0) as "slots!",
            coalesce(sum(free) filter (where takes and served), 0) as "free!",
            coalesce((array_agg(name order by name) filter (where not takes and state <> 'lost'))[1:$3], '{}') as "blocked!",
            coalesce((array_agg(name order by name) filter (where takes and not served))[1:$3], '{}') as "unserved!",
            coalesce((array_agg(name order by name) filter (where takes and served and free = 0))[1:$3], '{}') as "full!",
            max(gone_since) filter (where takes and not served) as gone_since,
            sum(average_slot_time * slots) filter (where takes and served)
                / nullif(sum(slots) filter (where takes and served and average_slot_time is not null), 0) as slot_seconds,
            (select count(*) from workers w where w.state = 'alive' and w.executor_type = $1::text::executor_type
               and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as "workers!"
        from h"#,
        executor.as_str(),
        tenant.uuid(),
        NAMES
    )
    .fetch_one(&mut *tx)
    .await?;
    let hosts = Hosts {
        total: row.total,
        active: row.active,
        cordoned: row.cordoned,
        draining: row.draining,
        lost: row.lost,
        inactive: row.inactive,
        served: row.served,
        slots: row.slots,
        free: row.free,
        workers: row.workers,
    };
    Ok(Backlog {
        hosts,
        blocked: row.blocked,
        unserved: row.unserved,
        unserved_since: row.gone_since,
        full: row.full,
        slot_seconds: row.slot_seconds,
        ..Backlog::default()
    })
}

/// Who goes before a job: its own tenant's jobs, and other tenants' as far as their shares go.
async fn ahead(tx: &mut sqlx::PgConnection, job: &Job, place: &Place) -> Result<Ahead> {
    if let Some(limit) = place.limit {
        return ahead_under(tx, job, place, limit).await;
    }
    let row = sqlx::query!(
        r#"/* why::ahead */
        select own_ahead as "own!", others_ahead as "others!" from gantry_line($1, $2::text::executor_type, $3, $4, $5)"#,
        place.tenant.uuid(),
        job.executor.as_str(),
        place.priority,
        job.id.uuid(),
        MOST
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(counted(row.own, row.others))
}

/// Who goes before a job that is parked for a limit: only jobs of its tenant can be.
async fn ahead_under(tx: &mut sqlx::PgConnection, job: &Job, place: &Place, limit: LimitId) -> Result<Ahead> {
    let row = sqlx::query!(
        r#"/* why::ahead_under */
        select
            (select count(*) from (select 1 from container_jobs
                where limit_id = $1 and status = 'pending' and priority > $2 limit $4::int + 1) higher)
            + (select count(*) from (select 1 from container_jobs
                where limit_id = $1 and status = 'pending' and priority = $2 and id < $3 limit $4::int + 1) equal) as "own!""#,
        limit.uuid(),
        place.priority,
        job.id.uuid(),
        MOST
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(counted(row.own, 0))
}

fn counted(own: i64, others: i64) -> Ahead {
    let jobs = own + others;
    Ahead { jobs: jobs.min(COUNTED), own: own.min(COUNTED), more: jobs > COUNTED }
}

/// The limit for which a job is parked, or else the first of its limits that has no room.
async fn limit(tx: &mut sqlx::PgConnection, place: &Place) -> Result<Option<(WaitingReason, Limit)>> {
    let row = sqlx::query!(
        r#"/* why::limit */
        select l.id, l.kind::text as "kind!", coalesce(t.name, nullif(l.name, '')) as name, l.max_running, l.running
        from limits l left join container_templates t on l.kind = 'template' and t.id = $3::uuid
        where l.tenant_id = $1 and (l.id = $2 or ($2::uuid is null and l.running >= l.max_running and (
            (l.kind = 'tenant' and l.name = '') or (l.kind = 'template' and l.name = $3::uuid::text)
            or (l.kind = 'key' and l.name = $4::text))))
        order by l.kind limit 1"#,
        place.tenant.uuid(),
        place.limit.map(LimitId::uuid),
        place.template.map(TemplateId::uuid),
        place.key
    )
    .fetch_optional(&mut *tx)
    .await?;
    row.map(|row| {
        let kind: Kind = parse("kind", &row.kind)?;
        let limit = Limit { id: row.id.into(), name: row.name, max_running: row.max_running, running: row.running };
        Ok((kind.waiting_reason(), limit))
    })
    .transpose()
}
