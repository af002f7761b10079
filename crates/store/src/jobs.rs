//! Jobs as people see them, and the one thing they may do to a job: ask for its end.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use gantry_core::routing::failover::{Decision, Routing};
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::{self, Event, Next};
use gantry_core::{ExecutorType, FailureClass, HostId, JobId, ProjectId, Status, TemplateId, TenantId, WaitingReason};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::error::{Result, from_json, parse};
use crate::queue::{self, Waiting};
use crate::tx::{Scope, Store};

/// A job and where it stands.
#[derive(Clone, Debug)]
pub struct JobView {
    /// The id.
    pub id: JobId,
    /// The owner.
    pub tenant: TenantId,
    /// The project.
    pub project: ProjectId,
    /// For people.
    pub name: String,
    /// Where it stands.
    pub status: Status,
    /// Where it was routed.
    pub executor_type: ExecutorType,
    /// What the producer asked for.
    pub preferred_executor: Option<ExecutorType>,
    /// The host of the last attempt.
    pub host: Option<HostId>,
    /// The host's name.
    pub host_name: Option<String>,
    /// Why it went to its executor type.
    pub routing_reason: String,
    /// The template it was made from.
    pub template: Option<TemplateId>,
    /// Higher goes first.
    pub priority: i16,
    /// The last attempt.
    pub attempt: i32,
    /// What it waits for, if it is pending.
    pub waiting_reason: Option<WaitingReason>,
    /// Until when it is parked at most.
    pub waiting_until: Option<DateTime<Utc>>,
    /// The backend's identifier of its container.
    pub execution_id: Option<String>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Why it did not complete.
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    pub error_message: Option<String>,
    /// The producer's key.
    pub idempotency_key: Option<String>,
    /// Estimate.
    pub estimated_cost: Option<Decimal>,
    /// Sum over its attempts.
    pub actual_cost: Option<Decimal>,
    /// What the executor wants kept.
    pub executor_metadata: Option<Value>,
    /// When its end was asked for.
    pub cancel_requested_at: Option<DateTime<Utc>>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its container started.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    pub completed_at: Option<DateTime<Utc>>,
    /// Who submitted it.
    pub created_by: String,
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only with one of these statuses; empty for any.
    pub statuses: Vec<Status>,
    /// Only routed here.
    pub executor: Option<ExecutorType>,
    /// Only older than this job: the last one of the page before.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: i64,
}

/// What asking for a job's end did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It was pending, and is cancelled now.
    Ended,
    /// It runs: its worker stops it.
    Requested,
    /// It had ended before.
    TooLate(Status),
}

/// One job; none if it does not exist or belongs to another tenant.
pub async fn get(store: &Store, scope: Scope, id: JobId) -> Result<Option<JobView>> {
    Ok(select(store, scope, Some(id), &Filter { limit: 1, ..Filter::default() }).await?.pop())
}

/// Jobs, newest first.
pub async fn list(store: &Store, scope: Scope, filter: &Filter) -> Result<Vec<JobView>> {
    select(store, scope, None, filter).await
}

async fn select(store: &Store, scope: Scope, id: Option<JobId>, filter: &Filter) -> Result<Vec<JobView>> {
    store.bounded("jobs::select", async {
    let statuses: Vec<String> = filter.statuses.iter().map(|status| status.to_string()).collect();
    let mut tx = store.begin_scoped_in_order("jobs::select", scope).await?;
    // By the specs, whose key begins with the tenant and is written once per job: the tenant is named by the policy of the
    // api, which alone asks. Each job is looked up by itself: joined freely, the planner would read all jobs of all tenants
    // beside them.
    let rows = sqlx::query!(
        r#"/* jobs::select */
        select j.id, j.tenant_id, j.project_id, j.name, j.status::text as "status!", j.executor_type::text as "executor_type!",
            j.preferred_executor::text, j.executor_host_id, h.name as "host_name?", j.routing_reason, j.template, j.priority,
            j.attempt, j.waiting_reason::text, j.parked_until, j.dispatched_at is not null as "dispatched!", j.execution_id,
            j.exit_code, j.failure_class::text, j.error_message, j.idempotency_key, j.estimated_cost, j.actual_cost,
            j.executor_metadata, j.cancel_requested_at, j.created_at, j.started_at, j.completed_at, j.created_by
        from container_job_specs s
        cross join lateral (
            select * from container_jobs
            where id = s.job_id and (cardinality($2::text[]) = 0 or status = any($2::text[]::job_status[]))
              and ($3::text is null or executor_type = $3::text::executor_type) offset 0) j
        left join executor_hosts h on h.id = j.executor_host_id
        where ($1::uuid is null or s.job_id = $1) and s.job_id < $4
        order by s.job_id desc limit $5"#,
        id.map(JobId::uuid),
        &statuses,
        filter.executor.map(|executor| executor.as_str()),
        filter.before.map_or(Uuid::max(), JobId::uuid),
        filter.limit
    )
    .fetch_all(&mut *tx)
    .await?;
    // Only a job that is neither parked nor dispatched has a reason that must be found out.
    let in_line = |row: &Status, reason: &Option<String>, dispatched: bool| {
        *row == Status::Pending && reason.is_none() && !dispatched
    };
    let mut views = Vec::with_capacity(rows.len());
    let mut unexplained = Vec::new();
    for row in rows {
        let status: Status = parse("status", &row.status)?;
        if in_line(&status, &row.waiting_reason, row.dispatched) {
            unexplained.push(views.len());
        }
        let stored = row.waiting_reason.as_deref().map(|reason| parse("waiting_reason", reason)).transpose()?;
        views.push(JobView {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            project: row.project_id.into(),
            name: row.name,
            status,
            executor_type: parse("executor_type", &row.executor_type)?,
            preferred_executor: row
                .preferred_executor
                .as_deref()
                .map(|e| parse("preferred_executor", e))
                .transpose()?,
            host: row.executor_host_id.map(Into::into),
            host_name: row.host_name,
            routing_reason: row.routing_reason,
            template: row.template.map(Into::into),
            priority: row.priority,
            attempt: row.attempt,
            waiting_reason: stored.or((row.dispatched).then_some(WaitingReason::Dispatching)),
            waiting_until: row.parked_until,
            execution_id: row.execution_id,
            exit_code: row.exit_code,
            failure_class: row.failure_class.as_deref().map(|class| parse("failure_class", class)).transpose()?,
            error_message: row.error_message,
            idempotency_key: row.idempotency_key,
            estimated_cost: row.estimated_cost,
            actual_cost: row.actual_cost,
            executor_metadata: row.executor_metadata,
            cancel_requested_at: row.cancel_requested_at,
            created_at: row.created_at,
            started_at: row.started_at,
            completed_at: row.completed_at,
            created_by: row.created_by,
        });
    }
    if !unexplained.is_empty() {
        let places = places(&mut tx).await?;
        for index in unexplained {
            let view = &mut views[index];
            view.waiting_reason = Some(explain(&places, view.tenant, view.executor_type));
        }
    }
    tx.commit().await?;
    Ok(views)
}).await
}

/// What the hosts of (owner or shared, executor type) can do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    hosts: i64,
    active: i64,
    served: i64,
    free: i64,
}

/// What decides why jobs wait in line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    hosts: HashMap<(Option<TenantId>, ExecutorType), Place>,
    /// Tenants that run as many jobs as they may.
    full: HashSet<TenantId>,
}

pub(crate) async fn places(tx: &mut sqlx::PgConnection) -> Result<Places> {
    let full = sqlx::query_scalar!(
        "/* jobs::places */
        select tenant_id from limits where kind = 'tenant' and max_running is not null and running >= max_running"
    )
    .fetch_all(&mut *tx)
    .await?;
    let rows = sqlx::query!(
        r#"/* jobs::places */
        select h.tenant_id, h.executor_type::text as "executor_type!", count(*) as "hosts!",
            count(*) filter (where h.is_active and h.state = 'active') as "active!",
            count(*) filter (where h.is_active and h.state = 'active' and s.served) as "served!",
            coalesce(sum(greatest(h.max_concurrent_jobs - h.current_job_count, 0))
                filter (where h.is_active and h.state = 'active' and s.served), 0) as "free!"
        from executor_hosts h cross join lateral (select exists (
            select 1 from worker_hosts wh join workers w on w.id = wh.worker_id
            where wh.executor_host_id = h.id and wh.healthy and w.state = 'alive'
              and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as served) s
        group by h.tenant_id, h.executor_type"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let hosts = rows.into_iter().map(|row| {
        let place = Place { hosts: row.hosts, active: row.active, served: row.served, free: row.free };
        Ok(((row.tenant_id.map(Into::into), parse("executor_type", &row.executor_type)?), place))
    });
    Ok(Places { hosts: hosts.collect::<Result<_>>()?, full: full.into_iter().map(Into::into).collect() })
}

pub(crate) fn explain(places: &Places, tenant: TenantId, executor: ExecutorType) -> WaitingReason {
    let both = [None, Some(tenant)].map(|owner| places.hosts.get(&(owner, executor)).copied().unwrap_or_default());
    let sum = |of: fn(&Place) -> i64| both.iter().map(of).sum::<i64>();
    if sum(|p| p.hosts) == 0 {
        WaitingReason::NoHost
    } else if sum(|p| p.active) == 0 {
        WaitingReason::HostUnavailable
    } else if sum(|p| p.served) == 0 {
        WaitingReason::NoWorker
    } else if places.full.contains(&tenant) {
        WaitingReason::TenantLimit
    } else if sum(|p| p.free) == 0 {
        WaitingReason::HostFull
    } else {
        WaitingReason::Dispatching
    }
}

/// Where these jobs stand: one statement for everyone who waits for one. For processes of the fleet and, with
/// a tenant's scope, for the API.
pub async fn statuses(store: &Store, scope: Scope, ids: &[JobId]) -> Result<HashMap<JobId, Status>> {
    store
        .bounded("jobs::statuses", async {
            let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
            let mut tx = store.begin_scoped("jobs::statuses", scope).await?;
            let rows = sqlx::query!(
                r#"/* jobs::statuses */ select id, status::text as "status!" from container_jobs where id = any($1)"#,
                &ids
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.into_iter().map(|row| Ok((row.id.into(), parse("status", &row.status)?))).collect()
        })
        .await
}

/// Asks for a job's end; none if it does not exist or belongs to another tenant.
pub async fn cancel(store: &Store, scope: Scope, id: JobId) -> Result<Option<Cancelled>> {
    store
        .run("jobs::cancel", || async {
            let mut tx = store.begin_scoped("jobs::cancel", scope).await?;
            let row = sqlx::query!(
                r#"/* jobs::cancel */
                select tenant_id, name, status::text as "status!", executor_type::text as "executor_type!", attempt
                from container_jobs where id = $1 for no key update"#,
                id.uuid()
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(None) };
            let status: Status = parse("status", &row.status)?;
            let Ok(next) = state::next(status, &Event::Cancel) else { return Ok(Some(Cancelled::TooLate(status))) };
            sqlx::query!(
                "/* jobs::cancel */
                update container_jobs set cancel_requested_at = coalesce(cancel_requested_at, now()) where id = $1",
                id.uuid()
            )
            .execute(&mut *tx)
            .await?;
            let done = match next {
                Next::End { status, failure } => {
                    let waiting = Waiting {
                        job: id,
                        tenant: row.tenant_id.into(),
                        name: row.name,
                        executor: parse("executor_type", &row.executor_type)?,
                        attempt: row.attempt,
                    };
                    queue::end_pending(&mut tx, &[waiting.ended(status, failure)]).await?;
                    Cancelled::Ended
                }
                _ => Cancelled::Requested,
            };
            tx.commit().await?;
            Ok(Some(done))
        })
        .await
}

/// How far a job has come: what those who wait for its end or follow its log are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it stands.
    pub status: Status,
    /// The last attempt; 0 before the first.
    pub attempt: i32,
    /// Chunks stored of that attempt's log.
    pub log_sequence: i32,
}

/// How far these jobs have come: one statement for everyone who waits for one of them. Jobs that do not exist, or
/// belong to another tenant, are left out.
pub async fn progress(store: &Store, scope: Scope, ids: &[JobId]) -> Result<HashMap<JobId, Progress>> {
    store.bounded("jobs::progress", async {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let mut tx = store.begin_scoped("jobs::progress", scope).await?;
    let rows = sqlx::query!(
        r#"/* jobs::progress */
        select j.id as "id!", j.status::text as "status!", j.attempt as "attempt!", coalesce(e.log_sequence, 0) as "log_sequence!"
        from container_jobs j left join container_executions e on e.job_id = j.id and e.attempt = j.attempt
        where j.id = any($1)"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let status = parse("status", &row.status)?;
            Ok((row.id.into(), Progress { status, attempt: row.attempt, log_sequence: row.log_sequence }))
        })
        .collect()
}).await
}

/// What is stored beside a job's row.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it runs.
    pub spec: ResolvedSpec,
    /// How it got to its executor, first to last.
    pub routing: Vec<Decision>,
}

/// What a job runs, and how it got to where it is; none if it does not exist or belongs to another tenant.
pub async fn spec(store: &Store, scope: Scope, id: JobId) -> Result<Option<Stored>> {
    store
        .bounded("jobs::spec", async {
            let mut tx = store.begin_scoped("jobs::spec", scope).await?;
            let row = sqlx::query!(
                "/* jobs::spec */
                select s.spec, s.routing
                from container_jobs j join container_job_specs s on s.tenant_id = j.tenant_id and s.job_id = j.id
                where j.id = $1",
                id.uuid()
            )
            .fetch_optional(&mut *tx)
            .await?;
            tx.commit().await?;
            let Some(row) = row else { return Ok(None) };
            // A way that this version cannot read is not told.
            let routing = Routing::deserialize(row.routing).unwrap_or_default().trace;
            Ok(Some(Stored { spec: from_json("spec", row.spec)?, routing }))
        })
        .await
}
