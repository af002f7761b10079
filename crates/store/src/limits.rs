//! Limits on running jobs: counter rows that the claim locks and the end of an attempt moves back.

use std::collections::{BTreeMap, BTreeSet};

use gantry_core::limits::{Book, KEY_DEFAULT, Kind, Limit, Subject};
use gantry_core::{LimitId, TenantId};
use serde_json::json;
use uuid::Uuid;

use crate::audit::{self, Actor};
use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// A limit as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitView {
    /// The row.
    pub id: LimitId,
    /// What it counts.
    pub kind: Kind,
    /// The concurrency key, or the name of the template; empty for the tenant as a whole.
    pub name: String,
    /// The most that may run; none for any number.
    pub max_running: Option<i32>,
    /// What runs now.
    pub running: i32,
    /// Jobs that are parked for it.
    pub waiting: i64,
}

/// So many limits are listed, and so many waiting jobs are counted for each.
const LISTED: i64 = 1_000;
const COUNTED: i64 = 1_000;

/// So many jobs more than a limit has room for are put back in line: the best may be held back by another one.
const BEYOND: i32 = 200;

/// Locks the limits that count any of these jobs, in the order of their ids, and makes those of keys that are new.
/// What counts a job never changes, so it is read before the job is locked. Each job is looked up by itself (`offset 0`): all at
/// once may be planned as a read of all jobs, while they seem to be few.
pub(crate) async fn lock(tx: &mut sqlx::PgConnection, jobs: &[Uuid]) -> Result<Book> {
    let rows = sqlx::query!(
        r#"/* limits::lock */
        select distinct j.tenant_id, s.name as "name!", l.id as "id?"
        from (
            select distinct c.tenant_id, c.template, c.concurrency_key
            from unnest($1::uuid[]) as w(id)
            cross join lateral (
                select tenant_id, template, concurrency_key from container_jobs where id = w.id offset 0) c) j
        cross join lateral (values ('tenant'::limit_kind, ''), ('template', j.template::text), ('key', j.concurrency_key)) as s(kind, name)
        left join limits l on l.tenant_id = j.tenant_id and l.kind = s.kind and l.name = s.name
        where s.name is not null and (l.id is not null or s.kind = 'key')"#,
        jobs
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.is_empty() {
        return Ok(Book::default());
    }
    let new_keys: BTreeSet<(Uuid, &str)> =
        rows.iter().filter(|row| row.id.is_none()).map(|row| (row.tenant_id, row.name.as_str())).collect();
    let mut ids: Vec<Uuid> = rows.iter().filter_map(|row| row.id).collect();
    if !new_keys.is_empty() {
        ids.extend(make_keys(tx, &new_keys).await?);
    }
    let rows = sqlx::query!(
        r#"/* limits::lock */
        select id, tenant_id, kind::text as "kind!", name, max_running, running from limits
        where id = any($1) order by id for no key update"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let limits = rows.into_iter().map(|row| {
        let subject = Subject { tenant: row.tenant_id.into(), kind: parse("kind", &row.kind)?, name: row.name };
        Ok((subject, Limit { id: row.id.into(), most: row.max_running, running: row.running }))
    });
    Ok(Book::new(limits.collect::<Result<Vec<_>>>()?))
}

async fn make_keys(tx: &mut sqlx::PgConnection, keys: &BTreeSet<(Uuid, &str)>) -> Result<Vec<Uuid>> {
    let ids: Vec<Uuid> = keys.iter().map(|_| LimitId::new().uuid()).collect();
    let tenants: Vec<Uuid> = keys.iter().map(|(tenant, _)| *tenant).collect();
    let names: Vec<String> = keys.iter().map(|(_, name)| (*name).to_owned()).collect();
    // In one order in every claim, so that two with the same keys wait for each other instead of deadlocking.
    sqlx::query!(
        "/* limits::make_keys */
        insert into limits (id, tenant_id, kind, name, max_running)
        select id, tenant_id, 'key', name, $4 from unnest($1::uuid[], $2::uuid[], $3::text[])
            with ordinality as n(id, tenant_id, name, place)
        order by place on conflict do nothing",
        &ids,
        &tenants,
        &names,
        KEY_DEFAULT
    )
    .execute(&mut *tx)
    .await?;
    // A second statement: only it sees rows for whose transaction the first one had to wait.
    let rows = sqlx::query_scalar!(
        "/* limits::make_keys */
        select l.id from unnest($1::uuid[], $2::text[]) as n(tenant_id, name)
        join limits l on l.tenant_id = n.tenant_id and l.kind = 'key' and l.name = n.name",
        &tenants,
        &names
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows)
}

/// The limits of these subjects as they stand, unlocked: for advice.
pub(crate) async fn read(tx: &mut sqlx::PgConnection, subjects: &BTreeSet<Subject>) -> Result<Book> {
    let tenants: Vec<Uuid> = subjects.iter().map(|subject| subject.tenant.uuid()).collect();
    let kinds: Vec<&str> = subjects.iter().map(|subject| subject.kind.as_str()).collect();
    let names: Vec<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
    let rows = sqlx::query!(
        r#"/* limits::read */
        select l.id, l.tenant_id, l.kind::text as "kind!", l.name, l.max_running, l.running
        from unnest($1::uuid[], $2::text[], $3::text[]) as s(tenant_id, kind, name)
        join limits l on l.tenant_id = s.tenant_id and l.kind = s.kind::limit_kind and l.name = s.name"#,
        &tenants,
        &kinds as &[&str],
        &names as &[&str]
    )
    .fetch_all(&mut *tx)
    .await?;
    let limits = rows.into_iter().map(|row| {
        let subject = Subject { tenant: row.tenant_id.into(), kind: parse("kind", &row.kind)?, name: row.name };
        Ok((subject, Limit { id: row.id.into(), most: row.max_running, running: row.running }))
    });
    Ok(Book::new(limits.collect::<Result<Vec<_>>>()?))
}

/// Counts attempts no more, and puts as many of the best jobs that are parked for these limits back in line. The caller
/// has locked the limits.
pub(crate) async fn release(tx: &mut sqlx::PgConnection, counts: &BTreeMap<LimitId, i32>) -> Result<()> {
    let ids: Vec<Uuid> = counts.keys().map(|id| id.uuid()).collect();
    let attempts: Vec<i32> = counts.values().copied().collect();
    sqlx::query!(
        "/* limits::release */
        with freed as (
            update limits l set running = l.running - f.attempts
            from unnest($1::uuid[], $2::int[]) as f(id, attempts) where l.id = f.id
            returning l.id, least(f.attempts, greatest(coalesce(l.max_running, f.attempts + l.running) - l.running, 0)) as room
        ), next as (
            select c.id from freed cross join lateral (
                select id from container_jobs where limit_id = freed.id and status = 'pending'
                order by limit_id, priority desc, id limit freed.room for no key update skip locked) c
        )
        update container_jobs j set parked_until = null, waiting_reason = null, waiting_detail = null, limit_id = null
        where j.id = any(array(select id from next))",
        &ids,
        &attempts
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Puts the best jobs back in line that are parked for a limit which has room for them: when an end was faster than
/// the parking. Returns how many.
pub async fn unpark_free(store: &Store, limit: i32) -> Result<u64> {
    store
        .run("limits::unpark_free", || async {
            let mut tx = store.begin_in_order("limits::unpark_free").await?;
            let done = sqlx::query!(
                "/* limits::unpark_free */
                with recursive parked as (
                    (select limit_id from container_jobs where status = 'pending' and limit_id is not null order by limit_id limit 1)
                    union all
                    select (select j.limit_id from container_jobs j
                            where j.status = 'pending' and j.limit_id is not null and j.limit_id > parked.limit_id
                            order by j.limit_id limit 1)
                    from parked where parked.limit_id is not null
                ), free as (
                    select p.limit_id, coalesce(l.max_running - l.running, $1) as room
                    from parked p left join limits l on l.id = p.limit_id
                    where p.limit_id is not null and (l.max_running is null or l.running < l.max_running)
                ), next as (
                    select c.id from free cross join lateral (
                        select id from container_jobs where limit_id = free.limit_id and status = 'pending'
                        order by limit_id, priority desc, id limit free.room + $2 for no key update skip locked) c
                    limit $1
                )
                update container_jobs j set parked_until = null, waiting_reason = null, waiting_detail = null, limit_id = null
                where j.id = any(array(select id from next))",
                limit,
                BEYOND
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        })
        .await
}

/// Sets the most that may run of a subject; none for any number. What runs already counts. Jobs for which there is
/// room now stand in line again with the next [`unpark_free`].
pub async fn set(store: &Store, scope: Scope, actor: &Actor, subject: &Subject, most: Option<i32>) -> Result<()> {
    store
        .run("limits::set", || async {
            let mut tx = store.begin_scoped("limits::set", scope).await?;
            let id = if exists(&mut tx, subject).await? {
                change(&mut tx, subject, most).await?
            } else {
                Some(make(&mut tx, subject, most).await?)
            };
            // Nobody deletes a limit.
            let Some(id) = id else { return Ok(()) };
            let detail = json!({"kind": subject.kind, "name": subject.name, "max_running": most});
            audit::insert(&mut tx, actor, "limit_set", id.uuid(), &detail).await?;
            tx.commit().await
        })
        .await
}

/// Without a lock, so that the table's own can be the first that is taken.
async fn exists(tx: &mut sqlx::PgConnection, subject: &Subject) -> Result<bool> {
    let exists = sqlx::query_scalar!(
        r#"/* limits::exists */
        select exists (select 1 from limits where tenant_id = $1 and kind = $2::text::limit_kind and name = $3) as "exists!""#,
        subject.tenant.uuid(),
        subject.kind.as_str(),
        subject.name
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(exists)
}

async fn change(tx: &mut sqlx::PgConnection, subject: &Subject, most: Option<i32>) -> Result<Option<LimitId>> {
    let id = sqlx::query_scalar!(
        "/* limits::change */
        update limits set max_running = $4 where tenant_id = $1 and kind = $2::text::limit_kind and name = $3 returning id",
        subject.tenant.uuid(),
        subject.kind.as_str(),
        subject.name,
        most
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(id.map(Into::into))
}

/// A limit that is new counts what runs already. No claim and no end may be under way meanwhile: both lock this table before any
/// row but the worker's, if only to share it, so its lock keeps them out for the moment that this takes. Whoever only reads it
/// goes on.
async fn make(tx: &mut sqlx::PgConnection, subject: &Subject, most: Option<i32>) -> Result<LimitId> {
    sqlx::query!("/* limits::make */ lock table limits in exclusive mode").execute(&mut *tx).await?;
    if let Some(id) = change(tx, subject, most).await? {
        return Ok(id);
    }
    let id = LimitId::new();
    sqlx::query!(
        "/* limits::make */
        with counted as (
            update container_executions e set limits = e.limits || $1::uuid
            from container_jobs j
            where e.slot_held and j.id = e.job_id and j.tenant_id = $2
              and case $3::text::limit_kind when 'tenant' then true when 'template' then j.template::text = $4
                  else j.concurrency_key = $4 end
            returning 1
        )
        insert into limits (id, tenant_id, kind, name, max_running, running)
        select $1, $2, $3::text::limit_kind, $4, $5, count(*) from counted",
        id.uuid(),
        subject.tenant.uuid(),
        subject.kind.as_str(),
        subject.name,
        most
    )
    .execute(&mut *tx)
    .await?;
    Ok(id)
}

/// The limits of a tenant, in the order of kind and name: the first 1,000.
pub async fn list(store: &Store, scope: Scope, tenant: TenantId) -> Result<Vec<LimitView>> {
    store
        .bounded("limits::list", async {
            let mut tx = store.begin_scoped("limits::list", scope).await?;
            let rows = sqlx::query!(
                r#"/* limits::list */
                select l.id, l.kind::text as "kind!", coalesce(t.name, l.name) as "name!", l.max_running, l.running,
                    (select count(*) from (select 1 from container_jobs j
                        where j.limit_id = l.id and j.status = 'pending' limit $2) w) as "waiting!"
                from limits l left join container_templates t on l.kind = 'template' and t.id::text = l.name
                where l.tenant_id = $1
                order by l.kind, 3, l.id limit $3"#,
                tenant.uuid(),
                COUNTED,
                LISTED
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            let views = rows.into_iter().map(|row| {
                Ok(LimitView {
                    id: row.id.into(),
                    kind: parse("kind", &row.kind)?,
                    name: row.name,
                    max_running: row.max_running,
                    running: row.running,
                    waiting: row.waiting,
                })
            });
            views.collect()
        })
        .await
}
