//! Executor hosts.

use chrono::{DateTime, Utc};
use gantry_core::host::{Host, State};
use gantry_core::{ExecutorType, HostId, TenantId, capacity};
use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// A host as people see it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// The host.
    pub host: Host,
    /// Its owner; none for a shared one.
    pub tenant: Option<TenantId>,
    /// Whether it takes part at all.
    pub is_active: bool,
    /// What an operator allows.
    pub state: State,
    /// Slots.
    pub max_concurrent_jobs: i32,
    /// Slots in use.
    pub current_job_count: i32,
    /// Seconds from the launch request to running.
    pub average_startup_time: Option<f64>,
    /// When a worker last asked it.
    pub last_health_check: Option<DateTime<Utc>>,
    /// Failed checks in a row.
    pub health_check_failures: i32,
    /// Live workers that serve it.
    pub workers: i64,
    /// Live workers of its executor type.
    pub workers_of_type: i64,
    /// Since when nobody serves it, as far as that is known; none while somebody does.
    pub unreached_since: Option<DateTime<Utc>>,
    /// What the last check said while nobody serves it; none for who may not see it.
    pub detail: Option<String>,
}

impl HostView {
    /// What its capacity follows from.
    pub fn capacity(&self) -> capacity::Facts<'_> {
        capacity::Facts {
            name: &self.host.name,
            executor: self.host.executor_type,
            is_active: self.is_active,
            state: self.state,
            max: self.max_concurrent_jobs,
            current: self.current_job_count,
            workers: self.workers,
            workers_of_type: self.workers_of_type,
            unreached_since: self.unreached_since,
            detail: self.detail.as_deref(),
        }
    }
}

/// A host to be stored.
#[derive(Clone, Debug)]
pub struct NewHost<'a> {
    /// The owner; none for a shared host.
    pub tenant: Option<TenantId>,
    /// Unique per owner.
    pub name: &'a str,
    /// Kind of backend.
    pub executor_type: ExecutorType,
    /// How to reach it.
    pub connection_config: Value,
    /// How to run things there.
    pub executor_config: Value,
    /// Slots.
    pub max_concurrent_jobs: i32,
    /// Price of one start.
    pub cost_per_job: Decimal,
    /// Price of an hour.
    pub cost_per_hour: Decimal,
}

/// Stores a host. A taken name violates `executor_hosts_owner_name`.
pub async fn insert(store: &Store, scope: Scope, host: &NewHost<'_>) -> Result<HostId> {
    store
        .bounded("hosts::insert", async {
            let id = HostId::new();
            let mut tx = store.begin_scoped("hosts::insert", scope).await?;
            sqlx::query!(
                "/* hosts::insert */
        insert into executor_hosts (id, tenant_id, name, executor_type, connection_config, executor_config,
            max_concurrent_jobs, cost_per_job, cost_per_hour)
        values ($1, $2, $3, $4::text::executor_type, $5, $6, $7, $8, $9)",
                id.uuid(),
                host.tenant.map(TenantId::uuid),
                host.name,
                host.executor_type.as_str(),
                host.connection_config,
                host.executor_config,
                host.max_concurrent_jobs,
                host.cost_per_job,
                host.cost_per_hour
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(id)
        })
        .await
}

/// The hosts that `scope` may see, by name.
pub async fn list(store: &Store, scope: Scope) -> Result<Vec<HostView>> {
    store
        .bounded("hosts::list", async {
            let mut tx = store.begin_scoped("hosts::list", scope).await?;
            let hosts = list_within(&mut tx).await?;
            tx.commit().await?;
            Ok(hosts)
        })
        .await
}

pub(crate) async fn list_within(tx: &mut PgConnection) -> Result<Vec<HostView>> {
    let rows = sqlx::query!(
        r#"/* hosts::list */
        select h.id, h.tenant_id, h.name, h.executor_type::text as "executor_type!", h.connection_config, h.executor_config,
            h.is_active, h.state::text as "state!", h.max_concurrent_jobs, h.current_job_count, h.average_startup_time,
            h.last_health_check, h.health_check_failures,
            s.workers as "workers!", case when s.workers = 0 then s.gone_since end as unreached_since,
            case when s.workers = 0 then (select gantry_host_detail(wh.worker_id, h.id) from worker_hosts wh
                where wh.executor_host_id = h.id and not wh.healthy order by wh.unhealthy_since desc limit 1) end as detail,
            (select count(*) from workers w where w.executor_type = h.executor_type and w.state = 'alive'
               and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as "workers_of_type!"
        from executor_hosts h cross join lateral (
            select count(*) filter (where wh.healthy and w.state = 'alive'
                    and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as workers,
                max(coalesce(w.ended_at, wh.unhealthy_since)) as gone_since
            from worker_hosts wh join workers w on w.id = wh.worker_id where wh.executor_host_id = h.id) s
        order by h.name, h.id"#
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(HostView {
                host: Host {
                    id: row.id.into(),
                    name: row.name,
                    executor_type: parse("executor_type", &row.executor_type)?,
                    connection_config: row.connection_config,
                    executor_config: row.executor_config,
                },
                tenant: row.tenant_id.map(Into::into),
                is_active: row.is_active,
                state: parse("state", &row.state)?,
                max_concurrent_jobs: row.max_concurrent_jobs,
                current_job_count: row.current_job_count,
                average_startup_time: row.average_startup_time,
                last_health_check: row.last_health_check,
                health_check_failures: row.health_check_failures,
                workers: row.workers,
                workers_of_type: row.workers_of_type,
                unreached_since: row.unreached_since,
                detail: row.detail,
            })
        })
        .collect()
}

/// What a worker needs to know of a host of its executor type.
#[derive(Clone, Debug)]
pub struct ServedHost {
    /// The host.
    pub host: Host,
    /// The engine it was when it was first reached.
    pub engine_identity: Option<String>,
}

/// Every host of an executor type, whatever its state: attempts may still run there.
pub async fn of_type(store: &Store, executor: ExecutorType) -> Result<Vec<ServedHost>> {
    let rows = store
        .read(
            "hosts::of_type",
            sqlx::query!(
                "/* hosts::of_type */
        select id, name, connection_config, executor_config, engine_identity from executor_hosts
        where executor_type = $1::text::executor_type order by id",
                executor.as_str()
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let served = rows.into_iter().map(|row| ServedHost {
        host: Host {
            id: row.id.into(),
            name: row.name,
            executor_type: executor,
            connection_config: row.connection_config,
            executor_config: row.executor_config,
        },
        engine_identity: row.engine_identity,
    });
    Ok(served.collect())
}

/// Stores the engine's identity if none is stored yet, and returns the one that is.
pub async fn identify(store: &Store, host: HostId, identity: &str) -> Result<String> {
    let row = store
        .single(
            "hosts::identify",
            sqlx::query!(
                r#"/* hosts::identify */
        update executor_hosts set engine_identity = coalesce(engine_identity, $2) where id = $1
        returning engine_identity as "engine_identity!""#,
                host.uuid(),
                identity
            )
            .fetch_one(store.pool()),
        )
        .await?;
    Ok(row.engine_identity)
}

/// The executor types that have an active host for each of these tenants, and whether a live worker reaches one: (tenant
/// or none for all, type, reached).
pub(crate) async fn reach_within(
    tx: &mut PgConnection,
    tenants: &[TenantId],
) -> Result<Vec<(Option<TenantId>, ExecutorType, bool)>> {
    let rows = sqlx::query!(
        r#"/* hosts::reach */
        select h.tenant_id, h.executor_type::text as "executor_type!", bool_or(s.served) as "served!"
        from executor_hosts h cross join lateral (select exists (
            select 1 from worker_hosts wh join workers w on w.id = wh.worker_id
            where wh.executor_host_id = h.id and wh.healthy and w.state = 'alive'
              and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as served) s
        where h.is_active and h.state = 'active' and (h.tenant_id is null or h.tenant_id = any($1))
        group by h.tenant_id, h.executor_type"#,
        &tenants.iter().map(|tenant| tenant.uuid()).collect::<Vec<_>>()
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| Ok((row.tenant_id.map(Into::into), parse("executor_type", &row.executor_type)?, row.served)))
        .collect()
}

/// The executor types that have an active host, for each of these tenants: (tenant or none for all, type).
pub async fn active_types(
    store: &Store,
    scope: Scope,
    tenants: &[TenantId],
) -> Result<Vec<(Option<TenantId>, ExecutorType)>> {
    store
        .bounded("hosts::active_types", async {
            let mut tx = store.begin_scoped_kept("hosts::active_types", scope).await?;
            let types = active_types_within(&mut tx, tenants).await?;
            tx.commit().await?;
            Ok(types)
        })
        .await
}

/// The same inside a transaction.
pub(crate) async fn active_types_within(
    tx: &mut PgConnection,
    tenants: &[TenantId],
) -> Result<Vec<(Option<TenantId>, ExecutorType)>> {
    let tenants: Vec<Uuid> = tenants.iter().map(|tenant| tenant.uuid()).collect();
    // As text only what is left: not for each of a thousand hosts.
    let rows = sqlx::query!(
        r#"/* hosts::active_types */
        select tenant_id, executor_type::text as "executor_type!" from (
            select distinct tenant_id, executor_type from executor_hosts
            where is_active and state = 'active' and (tenant_id is null or tenant_id = any($1))) t"#,
        &tenants
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| Ok((row.tenant_id.map(Into::into), parse("executor_type", &row.executor_type)?)))
        .collect()
}
