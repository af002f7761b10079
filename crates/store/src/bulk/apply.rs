//! The changes of one batch, by the ways that single ones go, each with its entry among the changes of its job.

use std::collections::HashMap;

use gantry_core::bulk::{Change, Deed, Job, Skip, retry_key};
use gantry_core::env::Environment;
use gantry_core::routing::failover::Routing;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, Failure, JobId, Status};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::work::{Outcome, Task};
use crate::admission::{self, Idempotency, Inserted, KeySource, NewJob};
use crate::costs::{self, Routed};
use crate::error::{Result, parse};
use crate::queue::{self, Waiting};

/// Changes jobs that the caller has locked; answers for each of them.
pub(super) async fn apply(
    tx: &mut sqlx::PgConnection,
    task: &Task,
    changes: Vec<(JobId, Job, Change)>,
) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(changes.len());
    let (mut ended, mut asked, mut again) = (Vec::new(), Vec::new(), Vec::new());
    let mut details: Vec<(JobId, Value)> = Vec::with_capacity(changes.len());
    for (id, job, change) in changes {
        match change {
            Change::Resubmit => {
                again.push(id);
                continue;
            }
            Change::End { status, failure } => {
                details.push((id, json!({ "from": job.status, "to": status })));
                asked.push(id);
                ended.push((id, status, failure));
            }
            Change::RequestEnd => {
                details.push((id, json!({ "from": job.status, "asked": "its end" })));
                asked.push(id);
            }
            Change::Priority(priority) => details.push((id, json!({ "from": job.priority, "to": priority }))),
            Change::Executor(executor) => details.push((id, json!({ "from": job.executor, "to": executor }))),
        }
        outcomes.push(Ok(()));
    }
    match task.deed {
        Deed::Cancel => cancel(tx, &asked, ended).await?,
        Deed::Retry => outcomes = resubmit(tx, task, &again, &mut details).await?,
        Deed::Prioritise(priority) => prioritise(tx, &ids(&details), priority).await?,
        Deed::Move(executor) => send_to(tx, task, &ids(&details), executor).await?,
    }
    write_down(tx, task, &details).await?;
    Ok(outcomes)
}

fn ids(details: &[(JobId, Value)]) -> Vec<Uuid> {
    details.iter().map(|(id, _)| id.uuid()).collect()
}

type Ended = (JobId, Status, Option<Failure>);

async fn cancel(tx: &mut sqlx::PgConnection, asked: &[JobId], ended: Vec<Ended>) -> Result<()> {
    let ids: Vec<Uuid> = asked.iter().map(|id| id.uuid()).collect();
    let rows = sqlx::query!(
        r#"/* bulk::cancel */
        update container_jobs set cancel_requested_at = coalesce(cancel_requested_at, now()) where id = any($1)
        returning id, tenant_id, name, executor_type::text as "executor_type!", attempt"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut ends: HashMap<JobId, _> = ended.into_iter().map(|(id, status, failure)| (id, (status, failure))).collect();
    let mut events = Vec::with_capacity(ends.len());
    for row in rows {
        let Some((status, failure)) = ends.remove(&row.id.into()) else { continue };
        let waiting = Waiting {
            job: row.id.into(),
            tenant: row.tenant_id.into(),
            name: row.name,
            executor: parse("executor_type", &row.executor_type)?,
            attempt: row.attempt,
        };
        events.push(waiting.ended(status, failure));
    }
    if events.is_empty() { Ok(()) } else { queue::end_pending(tx, &events).await }
}

async fn prioritise(tx: &mut sqlx::PgConnection, ids: &[Uuid], priority: i16) -> Result<()> {
    sqlx::query!("/* bulk::prioritise */ update container_jobs set priority = $2 where id = any($1)", ids, priority)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// Moves jobs into the lines of another executor type. What they waited for at the old one is over, and what they were
/// expected to cost there.
async fn send_to(tx: &mut sqlx::PgConnection, task: &Task, ids: &[Uuid], executor: ExecutorType) -> Result<()> {
    let rows = sqlx::query!(
        "/* bulk::send_to */
        select j.id, j.template, (
            select s.spec->'timeout_seconds' from container_job_specs s where s.tenant_id = j.tenant_id and s.job_id = j.id) as timeout
        from container_jobs j where j.id = any($1)",
        ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let (ids, routed): (Vec<Uuid>, Vec<Routed>) = rows
        .into_iter()
        .map(|row| {
            let (template, timeout) = (row.template.map(Into::into), costs::timeout(row.timeout));
            (row.id, Routed { tenant: task.tenant, template, executor, timeout })
        })
        .unzip();
    let estimates = costs::estimates(tx, &routed).await?;
    sqlx::query!(
        "/* bulk::send_to */
        update container_jobs j
        set executor_type = $2::text::executor_type,
            routing_reason = 'moved from ' || executor_type::text || ' by ' || $3 || ' (bulk operation ' || $4 || ')',
            parked_until = case when waiting_reason in ('host_full', 'host_unavailable', 'no_host', 'no_worker') then null else parked_until end,
            waiting_reason = case when waiting_reason in ('host_full', 'host_unavailable', 'no_host', 'no_worker') then null else waiting_reason end,
            estimated_cost = m.estimate
        from unnest($1::uuid[], $5::numeric[]) as m(job_id, estimate) where j.id = m.job_id",
        &ids,
        executor.as_str(),
        task.actor,
        task.id.to_string(),
        &estimates as &[Option<Decimal>]
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Submits jobs that have ended anew, each under a key of its own.
async fn resubmit(
    tx: &mut sqlx::PgConnection,
    task: &Task,
    ids: &[JobId],
    details: &mut Vec<(JobId, Value)>,
) -> Result<Vec<Outcome>> {
    let (old, jobs, unreadable) = new_jobs(tx, task, ids).await?;
    let mut outcomes = vec![Err(Skip::Unreadable); unreadable];
    for (old, inserted) in old.into_iter().zip(admission::insert_within(tx, &jobs).await?) {
        outcomes.push(match inserted {
            Inserted::New(new) => {
                details.push((old, json!({ "retried_as": new })));
                details.push((new, json!({ "retry_of": old })));
                Ok(())
            }
            Inserted::Full { .. } => Err(Skip::BacklogFull),
            // The key is the operation's own, and the operation comes here once.
            Inserted::Existing(_) | Inserted::Conflict(_) | Inserted::Dispatched(_) => Err(Skip::Unchanged),
        });
    }
    Ok(outcomes)
}

/// The jobs to be submitted, each beside the one it comes from, and how many there are whose spec cannot be read.
async fn new_jobs(tx: &mut sqlx::PgConnection, task: &Task, ids: &[JobId]) -> Result<(Vec<JobId>, Vec<NewJob>, usize)> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    let rows = sqlx::query!(
        r#"/* bulk::new_jobs */
        select j.id, j.project_id, j.name, j.template, j.executor_type::text as "executor_type!", j.preferred_executor::text,
            j.override_command, j.override_environment, j.concurrency_key, j.priority, s.spec, s.routing
        from container_jobs j join container_job_specs s on s.tenant_id = j.tenant_id and s.job_id = j.id
        where j.id = any($1) order by j.id"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let (mut old, mut jobs) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        let environment = row.override_environment.map(Environment::deserialize).transpose();
        let (Ok(spec), Ok(environment)) = (ResolvedSpec::deserialize(row.spec), environment) else { continue };
        let id = JobId::from(row.id);
        let key = retry_key(task.id, id);
        let executor_type = parse("executor_type", &row.executor_type)?;
        let routing_reason = format!("as job {id}, of which it is a retry");
        // A way that cannot be read leads nowhere: the job stays where it is sent.
        let routing = Routing::deserialize(row.routing).unwrap_or_default().again(executor_type, &routing_reason);
        let body_hash = Sha256::digest(&key).into();
        old.push(id);
        jobs.push(NewJob {
            id: JobId::new(),
            tenant: task.tenant,
            project: row.project_id.into(),
            name: row.name,
            template: row.template.map(Into::into),
            // It belongs to no request that is being traced.
            spec: ResolvedSpec { traceparent: None, ..spec },
            executor_type,
            preferred_executor: row
                .preferred_executor
                .as_deref()
                .map(|e| parse("preferred_executor", e))
                .transpose()?,
            routing_reason,
            routing,
            override_command: row.override_command,
            override_environment: environment.unwrap_or_default(),
            concurrency_key: row.concurrency_key,
            priority: row.priority,
            not_before: None,
            queue_timeout_seconds: None,
            idempotency: Some(Idempotency { source: KeySource::Key, key, body_hash }),
            created_by: task.actor.clone(),
            schedule: None,
            at_once: false,
        });
    }
    let unreadable = ids.len() - jobs.len();
    Ok((old, jobs, unreadable))
}

async fn write_down(tx: &mut sqlx::PgConnection, task: &Task, details: &[(JobId, Value)]) -> Result<()> {
    let values: Vec<Value> = details.iter().map(|(_, detail)| detail.clone()).collect();
    sqlx::query!(
        "/* bulk::write_down */
        insert into bulk_changes (job_id, operation_id, tenant_id, detail)
        select job_id, $1, $2, detail from unnest($3::uuid[], $4::jsonb[]) as c(job_id, detail)",
        task.id.uuid(),
        task.tenant.uuid(),
        &ids(details),
        &values
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
