//! Operations on many jobs: how one is asked for, watched and stopped. Dispatchers work them off, batch by batch
//! ([`work`]).

mod apply;
mod select;
pub mod work;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::audit::{self, Actor};
use crate::error::{Result, from_json, parse};
use crate::hosts;
use crate::tx::{Scope, Store};
use chrono::{DateTime, Utc};
use gantry_core::bulk::{self, Action, Deed, Done, Filter, Skip, State};
use gantry_core::{BulkId, ExecutorType, JobId, TenantId};
use serde_json::{Map, Value, json};

/// Jobs that one statement of a dry run looks at closely.
const COUNT_BATCH: i64 = 5_000;

/// An operation as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The id.
    pub id: BulkId,
    /// Who asked for it.
    pub actor: String,
    /// What is done to each job.
    pub deed: Deed,
    /// To which.
    pub filter: Filter,
    /// Whether it goes on.
    pub state: State,
    /// What it came to so far.
    pub tally: Tally,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When it was done or stopped.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Jobs, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that the filter met.
    pub matched: i64,
    /// Those of them that were changed, or would be.
    pub changed: i64,
    /// Those that could not be, by reason.
    pub skips: BTreeMap<String, i64>,
}

impl Tally {
    /// Those that could not be changed.
    pub fn skipped(&self) -> i64 {
        self.skips.values().sum()
    }

    fn changed(&mut self) {
        self.matched += 1;
        self.changed += 1;
    }

    fn skip(&mut self, why: Skip) {
        self.matched += 1;
        *self.skips.entry(why.as_str().to_owned()).or_default() += 1;
    }
}

/// What a dry run found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The jobs that it looked at.
    pub tally: Tally,
    /// Whether these are all; else time was up, and there are more.
    pub complete: bool,
}

/// Counts what an operation would do now; stops counting when `within` is over.
pub async fn count(store: &Store, tenant: TenantId, deed: Deed, filter: &Filter, within: Duration) -> Result<Count> {
    let scope = Scope::Tenant { id: tenant, operator: false };
    let hosts = types(hosts::active_types(store, scope, &[tenant]).await?);
    let (begun, mut tally, mut cursor) = (Instant::now(), Tally::default(), None);
    loop {
        let page = store
            .bounded("bulk::count", async {
                let mut tx = store.begin_scoped_in_order("bulk::count", scope).await?;
                let page = select::page(&mut tx, tenant, deed, filter, None, cursor, COUNT_BATCH).await?;
                tx.commit().await?;
                Ok(page)
            })
            .await?;
        for (_, job) in &page.jobs {
            match bulk::decide(deed, job, &hosts) {
                Ok(_) => tally.changed(),
                Err(why) => tally.skip(why),
            }
        }
        cursor = page.cursor;
        if page.is_last {
            return Ok(Count { tally, complete: true });
        }
        if begun.elapsed() > within {
            return Ok(Count { tally, complete: false });
        }
    }
}

/// The executor types that have an active host for a tenant, whoever owns the host.
fn types(active: Vec<(Option<TenantId>, ExecutorType)>) -> Vec<ExecutorType> {
    active.into_iter().map(|(_, executor)| executor).collect()
}

/// Asks for an operation.
pub async fn put(store: &Store, scope: Scope, actor: &Actor, deed: Deed, filter: &Filter) -> Result<BulkId> {
    let (id, filter, parameters) = (BulkId::new(), json!(filter), parameters(deed));
    store
        .run("bulk::put", || async {
            let mut tx = store.begin_scoped("bulk::put", scope).await?;
            sqlx::query!(
                "/* bulk::put */
                insert into bulk_operations (id, tenant_id, actor, action, filter, parameters)
                values ($1, $2, $3, $4::text::bulk_action, $5, $6) on conflict (id) do nothing",
                id.uuid(),
                actor.tenant.uuid(),
                actor.name,
                deed.action().to_string(),
                filter,
                parameters
            )
            .execute(&mut *tx)
            .await?;
            let detail = json!({ "action": deed.action(), "filter": filter, "parameters": parameters });
            audit::insert(&mut tx, actor, "bulk_started", id.uuid(), &detail).await?;
            tx.commit().await?;
            Ok(id)
        })
        .await
}

fn parameters(deed: Deed) -> Value {
    match deed {
        Deed::Cancel | Deed::Retry => json!({}),
        Deed::Prioritise(priority) => json!({ "priority": priority }),
        Deed::Move(executor) => json!({ "executor_type": executor }),
    }
}

fn deed(action: Action, parameters: &Value) -> Result<Deed> {
    Ok(match action {
        Action::Cancel => Deed::Cancel,
        Action::Retry => Deed::Retry,
        Action::Prioritise => Deed::Prioritise(from_json("parameters", parameters["priority"].clone())?),
        Action::Move => Deed::Move(from_json("parameters", parameters["executor_type"].clone())?),
    })
}

/// An operation; none if it does not exist or belongs to another tenant.
pub async fn get(store: &Store, scope: Scope, id: BulkId) -> Result<Option<Operation>> {
    Ok(read(store, scope, Some(id), None, 1).await?.pop())
}

/// Operations, newest first.
pub async fn list(store: &Store, scope: Scope, before: Option<BulkId>, limit: i64) -> Result<Vec<Operation>> {
    read(store, scope, None, before, limit).await
}

async fn read(
    store: &Store,
    scope: Scope,
    id: Option<BulkId>,
    before: Option<BulkId>,
    limit: i64,
) -> Result<Vec<Operation>> {
    store
        .bounded("bulk::read", async {
            let mut tx = store.begin_scoped("bulk::read", scope).await?;
            let rows = sqlx::query!(
                r#"/* bulk::read */
                select id, actor, action::text as "action!", filter, parameters, state::text as "state!", matched, changed, skips,
                    created_at, finished_at
                from bulk_operations where ($1::uuid is null or id = $1) and ($2::uuid is null or id < $2)
                order by id desc limit $3"#,
                id.map(BulkId::uuid),
                before.map(BulkId::uuid),
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.into_iter()
                .map(|row| {
                    let skips = from_json("skips", row.skips)?;
                    Ok(Operation {
                        id: row.id.into(),
                        actor: row.actor,
                        deed: deed(parse("action", &row.action)?, &row.parameters)?,
                        filter: from_json("filter", row.filter)?,
                        state: parse("state", &row.state)?,
                        tally: Tally { matched: row.matched, changed: row.changed, skips },
                        created_at: row.created_at,
                        finished_at: row.finished_at,
                    })
                })
                .collect()
        })
        .await
}

/// Stops an operation; false if it does not run.
pub async fn stop(store: &Store, scope: Scope, actor: &Actor, id: BulkId) -> Result<bool> {
    store
        .run("bulk::stop", || async {
            let mut tx = store.begin_scoped("bulk::stop", scope).await?;
            let stopped = sqlx::query!(
                "/* bulk::stop */
                update bulk_operations set state = 'stopped', finished_at = now() where id = $1 and state = 'running'",
                id.uuid()
            )
            .execute(&mut *tx)
            .await?;
            if stopped.rows_affected() == 0 {
                return Ok(false);
            }
            audit::insert(&mut tx, actor, "bulk_stopped", id.uuid(), &Value::Object(Map::new())).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
}

/// What operations did to a job, first to last.
pub async fn changes(store: &Store, scope: Scope, job: JobId) -> Result<Vec<Done>> {
    store
        .bounded("bulk::changes", async {
            let mut tx = store.begin_scoped("bulk::changes", scope).await?;
            let changes = changes_within(&mut tx, job).await?;
            tx.commit().await?;
            Ok(changes)
        })
        .await
}

/// The same inside a transaction.
pub(crate) async fn changes_within(tx: &mut sqlx::PgConnection, job: JobId) -> Result<Vec<Done>> {
    let rows = sqlx::query!(
        r#"/* bulk::changes_within */
        select c.operation_id, o.action::text as "action!", o.actor, c.created_at, c.detail
        from bulk_changes c join bulk_operations o on o.id = c.operation_id where c.job_id = $1
        order by c.created_at, c.operation_id"#,
        job.uuid()
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Done {
                operation: row.operation_id.into(),
                action: parse("action", &row.action)?,
                actor: row.actor,
                at: row.created_at,
                detail: row.detail,
            })
        })
        .collect()
}
