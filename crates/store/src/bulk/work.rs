//! How dispatchers work operations off: a batch a transaction, which moves the cursor together with the jobs. Whoever
//! dies in the middle has done nothing, and the next one goes on from the cursor.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use gantry_core::bulk::{self, Action, Change, Deed, Filter, Job, Skip};
use gantry_core::{BulkId, JobId, TenantId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Tally, apply, deed, select};
use crate::error::{Result, from_json, parse};
use crate::hosts;
use crate::tx::Store;

/// Jobs that are changed in one transaction at most.
const BATCH: i64 = 500;

/// What a batch came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What was done.
    pub action: Action,
    /// To how many jobs.
    pub changed: i64,
    /// Running jobs whose end was asked for: their workers should hear of it.
    pub cancelled: Vec<JobId>,
    /// Whether jobs stand in line now where none stood.
    pub lined_up: bool,
}

/// What an operation needs to go on.
pub(super) struct Task {
    pub(super) id: BulkId,
    pub(super) tenant: TenantId,
    pub(super) actor: String,
    pub(super) deed: Deed,
    filter: Filter,
    cursor: Option<JobId>,
    created_at: DateTime<Utc>,
    skips: Value,
}

/// Does a batch of the operation that has waited longest; none if none runs that nobody else works on.
pub async fn batch(store: &Store) -> Result<Option<Batch>> {
    store.run("bulk::batch", || batch_once(store)).await
}

async fn batch_once(store: &Store) -> Result<Option<Batch>> {
    let mut tx = store.begin("bulk::batch").await?;
    let Some(task) = lock(&mut tx).await? else { return Ok(None) };
    let page =
        select::page(&mut tx, task.tenant, task.deed, &task.filter, Some(task.created_at), task.cursor, BATCH).await?;
    let hosts = match task.deed {
        Deed::Move(_) => super::types(hosts::active_types_within(&mut tx, &[task.tenant]).await?),
        _ => Vec::new(),
    };
    let mut tally = Tally { skips: from_json("skips", task.skips.clone())?, ..Tally::default() };
    let before = tally.skipped();
    let mut changes = Vec::with_capacity(page.jobs.len());
    for (id, job) in lock_jobs(&mut tx, &task, page.jobs).await? {
        match bulk::decide(task.deed, &job, &hosts) {
            Ok(change) => changes.push((id, job, change)),
            Err(why) => tally.skip(why),
        }
    }
    let cancelled = changes.iter().filter(|(.., change)| *change == Change::RequestEnd).map(|(id, ..)| *id).collect();
    for outcome in apply::apply(&mut tx, &task, changes).await? {
        match outcome {
            Ok(()) => tally.changed(),
            Err(why) => tally.skip(why),
        }
    }
    advance(&mut tx, &task, page.cursor, page.is_last, &tally, tally.skipped() - before).await?;
    tx.commit().await?;
    let lined_up = task.deed != Deed::Cancel && tally.changed > 0;
    Ok(Some(Batch { action: task.deed.action(), changed: tally.changed, cancelled, lined_up }))
}

async fn lock(tx: &mut sqlx::PgConnection) -> Result<Option<Task>> {
    let row = sqlx::query!(
        r#"/* bulk::lock */
        select id, tenant_id, actor, action::text as "action!", filter, parameters, cursor, created_at, skips
        from bulk_operations where state = 'running' order by worked_at limit 1 for no key update skip locked"#
    )
    .fetch_optional(&mut *tx)
    .await?;
    row.map(|row| {
        Ok(Task {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            actor: row.actor,
            deed: deed(parse("action", &row.action)?, &row.parameters)?,
            filter: from_json("filter", row.filter)?,
            cursor: row.cursor.map(Into::into),
            created_at: row.created_at,
            skips: row.skips,
        })
    })
    .transpose()
}

/// Locks the jobs, and reads again what may have changed since they were found. Those that do not match any more are
/// left out.
async fn lock_jobs(tx: &mut sqlx::PgConnection, task: &Task, found: Vec<(JobId, Job)>) -> Result<Vec<(JobId, Job)>> {
    let ids: Vec<Uuid> = found.iter().map(|(id, _)| id.uuid()).collect();
    let rows = sqlx::query!(
        r#"/* bulk::lock_jobs */
        select id, status::text as "status!", executor_type::text as "executor_type!", priority,
            dispatched_at is not null as "dispatched!", cancel_requested_at is not null as "cancel_requested!"
        from container_jobs where id = any($1) order by id for no key update"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut found: HashMap<JobId, Job> = found.into_iter().collect();
    let mut locked = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(before) = found.remove(&row.id.into()) else { continue };
        let job = Job {
            status: parse("status", &row.status)?,
            executor: parse("executor_type", &row.executor_type)?,
            priority: row.priority,
            dispatched: row.dispatched,
            cancel_requested: row.cancel_requested,
            supported: before.supported,
        };
        let still = select::statuses(task.deed, &task.filter).contains(&job.status)
            && task.filter.executor_type.is_none_or(|executor| executor == job.executor);
        if still {
            locked.push((row.id.into(), job));
        }
    }
    Ok(locked)
}

async fn advance(
    tx: &mut sqlx::PgConnection,
    task: &Task,
    cursor: Option<JobId>,
    is_last: bool,
    tally: &Tally,
    skipped: i64,
) -> Result<()> {
    sqlx::query!(
        "/* bulk::advance */
        update bulk_operations
        set cursor = $2, matched = matched + $3, changed = changed + $4, skipped = skipped + $5, skips = $6,
            state = case when $7 then 'done'::bulk_state else state end, finished_at = case when $7 then now() end,
            worked_at = clock_timestamp()
        where id = $1",
        task.id.uuid(),
        cursor.map(JobId::uuid),
        tally.matched,
        tally.changed,
        skipped,
        json!(tally.skips),
        is_last
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// What [`apply::apply`] says of each job.
pub(super) type Outcome = std::result::Result<(), Skip>;
