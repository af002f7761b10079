//! What a job would meet that is not there yet: read as the explanation of one that is, and nothing is written.

use gantry_core::limits::{KEY_DEFAULT, Kind, Traits};
use gantry_core::why::{Facts, Job};
use gantry_core::{Status, WaitingReason, retry};
use rust_decimal::Decimal;

use crate::admission::NewJob;
use crate::error::{Result, parse};
use crate::hosts::{self, HostView};
use crate::tx::{Scope, Store};
use crate::{costs, why};

/// What a job would meet.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// What would be told of it, right after it had come.
    pub facts: Facts,
    /// The hosts of the executor types that were considered.
    pub hosts: Vec<HostView>,
    /// The limits that would count it.
    pub limits: Vec<Limit>,
    /// The cap of its tenant's backlog, if there is one.
    pub backlog: Option<BacklogCap>,
    /// What one run of it is expected to cost; none where it has no host.
    pub estimated_cost: Option<Decimal>,
}

/// How many jobs of a tenant may wait, and how many do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogCap {
    /// The most; a further one is refused.
    pub max_pending: i32,
    /// Those that wait, counted up to the most.
    pub waiting: i64,
}

/// A limit that counts a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it counts.
    pub kind: Kind,
    /// The concurrency key, or the name of the template; empty for the tenant as a whole.
    pub name: String,
    /// The most that may run; none for any number.
    pub max_running: Option<i32>,
    /// What runs now.
    pub running: i32,
    /// Jobs that are parked for it, counted up to a thousand.
    pub waiting: i64,
}

/// Waiting jobs that are counted for a limit.
const COUNTED: i64 = 1_000;

/// What this job would meet if it came now.
pub async fn outlook(store: &Store, scope: Scope, job: &NewJob) -> Result<Outlook> {
    store
        .bounded("route::outlook", async {
            let mut tx = store.begin_scoped("route::outlook", scope).await?;
            let facts = facts(&mut tx, job).await?;
            let considered = |view: &HostView| {
                let candidates = job.routing.trace.iter().flat_map(|decision| &decision.candidates);
                let own = view.tenant.is_none_or(|owner| owner == job.tenant);
                own && candidates.into_iter().any(|candidate| candidate.executor == view.host.executor_type)
            };
            let hosts = hosts::list_within(&mut tx).await?.into_iter().filter(considered).collect();
            let limits = limits(&mut tx, job).await?;
            let backlog = backlog(&mut tx, job).await?;
            let estimated_cost = costs::estimates(&mut tx, &[job.into()]).await?.pop().flatten();
            tx.commit().await?;
            Ok(Outlook { facts, hosts, limits, backlog, estimated_cost })
        })
        .await
}

async fn facts(tx: &mut sqlx::PgConnection, new: &NewJob) -> Result<Facts> {
    let now = sqlx::query_scalar!(r#"/* route::facts */ select now() as "now!""#).fetch_one(&mut *tx).await?;
    let later = new.not_before.filter(|time| *time > now);
    let job = Job {
        id: new.id,
        status: Status::Pending,
        executor: new.executor_type,
        created_at: now,
        completed_at: None,
        cancel_requested_at: None,
        waiting_reason: later.map(|_| WaitingReason::NotBefore),
        parked_until: later,
        dispatched_at: None,
        failure_class: None,
        error_message: None,
        exit_code: None,
        retry: new.spec.container.retry.clone(),
        used: retry::Used::default(),
    };
    let place = why::Place {
        tenant: new.tenant,
        priority: new.priority,
        limit: None,
        template: new.template,
        key: new.concurrency_key.clone(),
    };
    let backlog = Some(why::backlog(tx, &job, &place).await?);
    Ok(Facts { now, job, attempts: Vec::new(), backlog, changes: Vec::new(), routing: new.routing.trace.clone() })
}

/// Without the lock that admission counts under: it may be another number in a moment.
async fn backlog(tx: &mut sqlx::PgConnection, job: &NewJob) -> Result<Option<BacklogCap>> {
    let row = sqlx::query!(
        r#"/* route::backlog */
        select t.max_pending as "max_pending!", gantry_waiting(t.id, t.max_pending) as "waiting!"
        from tenants t where t.id = $1 and t.max_pending is not null"#,
        job.tenant.uuid()
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(row.map(|row| BacklogCap { max_pending: row.max_pending, waiting: row.waiting }))
}

async fn limits(tx: &mut sqlx::PgConnection, job: &NewJob) -> Result<Vec<Limit>> {
    let traits = Traits { tenant: job.tenant, template: job.template, key: job.concurrency_key.clone() };
    let (kinds, names): (Vec<&str>, Vec<String>) =
        traits.subjects().map(|subject| (subject.kind.as_str(), subject.name)).unzip();
    let rows = sqlx::query!(
        r#"/* route::limits */
        select l.kind::text as "kind!", coalesce(t.name, l.name) as "name!", l.max_running, l.running,
            (select count(*) from (select 1 from container_jobs j
                where j.limit_id = l.id and j.status = 'pending' limit $4) w) as "waiting!"
        from unnest($2::text[], $3::text[]) as s(kind, name)
        join limits l on l.tenant_id = $1 and l.kind = s.kind::limit_kind and l.name = s.name
        left join container_templates t on l.kind = 'template' and t.id::text = l.name
        order by l.kind"#,
        job.tenant.uuid(),
        &kinds as &[&str],
        &names,
        COUNTED
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut limits = rows
        .into_iter()
        .map(|row| {
            Ok(Limit {
                kind: parse("kind", &row.kind)?,
                name: row.name,
                max_running: row.max_running,
                running: row.running,
                waiting: row.waiting,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    // A key that nobody has used has its limit from its first claim on.
    if let Some(name) = &job.concurrency_key
        && !limits.iter().any(|limit| limit.kind == Kind::Key)
    {
        let limit =
            Limit { kind: Kind::Key, name: name.clone(), max_running: Some(KEY_DEFAULT), running: 0, waiting: 0 };
        limits.push(limit);
    }
    Ok(limits)
}
