//! Which jobs an operation is about: a page of them at a time, in the order of their ids, so that a statement looks at a
//! bounded number of rows however few of them match.

use chrono::{DateTime, Utc};
use gantry_core::bulk::{Deed, Filter, Job};
use gantry_core::{ExecutorType, JobId, Status, TenantId, WaitingReason};
use serde_json::json;
use uuid::Uuid;

use crate::error::{Result, parse};
use crate::why;

/// Rows that are passed over by one page at most.
const WINDOW: i64 = 20_000;

/// Some of the jobs that match.
pub(super) struct Page {
    /// The jobs, by id.
    pub(super) jobs: Vec<(JobId, Job)>,
    /// The last job that was looked at.
    pub(super) cursor: Option<JobId>,
    /// Whether there are no more.
    pub(super) is_last: bool,
}

/// The first jobs behind `cursor` that match, at most `most` of them. `accepted_before` keeps those out that came
/// after the operation.
pub(super) async fn page(
    tx: &mut sqlx::PgConnection,
    tenant: TenantId,
    deed: Deed,
    filter: &Filter,
    accepted_before: Option<DateTime<Utc>>,
    cursor: Option<JobId>,
    most: i64,
) -> Result<Page> {
    let after = cursor.map_or(Uuid::nil(), JobId::uuid);
    let end = sqlx::query_scalar!(
        "/* bulk::page */
        select job_id from (
            select job_id from container_job_specs where tenant_id = $1 and job_id > $2 order by job_id limit $3) w
        order by job_id desc limit 1",
        tenant.uuid(),
        after,
        WINDOW
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(end) = end else { return Ok(Page { jobs: Vec::new(), cursor, is_last: true }) };
    let jobs = matching(tx, tenant, deed, filter, accepted_before, (after, end), most).await?;
    let full = i64::try_from(jobs.len()).is_ok_and(|found| found == most);
    let cursor = jobs.last().filter(|_| full).map_or(end.into(), |(id, _)| *id);
    Ok(Page { jobs, cursor: Some(cursor), is_last: false })
}

/// By the specs, whose key begins with the tenant and is written once per job; each job is looked up by itself, as in
/// `jobs::select`. So are labels, so that the walk reads nothing but the index.
async fn matching(
    tx: &mut sqlx::PgConnection,
    tenant: TenantId,
    deed: Deed,
    filter: &Filter,
    accepted_before: Option<DateTime<Utc>>,
    (after, end): (Uuid, Uuid),
    most: i64,
) -> Result<Vec<(JobId, Job)>> {
    let statuses: Vec<String> = statuses(deed, filter).iter().map(ToString::to_string).collect();
    let in_line = in_line(tx, tenant, filter.waiting_reason).await?;
    let labels = (!filter.labels.is_empty()).then(|| json!(filter.labels));
    let rows = sqlx::query!(
        r#"/* bulk::matching */
        select j.id, j.status::text as "status!", j.executor_type::text as "executor_type!", j.priority,
            j.dispatched_at is not null as "dispatched!", j.cancel_requested_at is not null as "cancel_requested!",
            coalesce(t.supported_executors::text[], '{}') as "supported!"
        from container_job_specs s
        cross join lateral (
            select * from container_jobs j
            where j.id = s.job_id and j.status = any($4::text[]::job_status[])
              and ($5::text is null or j.template = (select c.id from container_templates c where c.tenant_id = $1 and c.name = $5))
              and ($6::text is null or j.project_id = (select p.id from projects p where p.tenant_id = $1 and p.name = $6))
              and ($7::jsonb is null or (
                select (l.spec->'labels')::jsonb from container_job_specs l where l.tenant_id = $1 and l.job_id = j.id) @> $7)
              and ($8::text is null or j.executor_type = $8::text::executor_type)
              and ($9::timestamptz is null or j.created_at >= $9) and ($10::timestamptz is null or j.created_at < $10)
              and ($11::timestamptz is null or j.created_at < $11) and ($12::text is null or starts_with(j.name, $12))
              and ($13::text is null or (j.status = 'pending' and case
                when j.waiting_reason is not null then j.waiting_reason = $13::text::waiting_reason
                when j.dispatched_at is not null then $13 = 'dispatching'
                else j.executor_type = any($14::text[]::executor_type[]) end))
            offset 0) j
        left join container_templates t on t.id = j.template
        where s.tenant_id = $1 and s.job_id > $2 and s.job_id <= $3
        order by s.job_id limit $15"#,
        tenant.uuid(),
        after,
        end,
        &statuses,
        filter.template.as_deref(),
        filter.project.as_deref(),
        labels,
        filter.executor_type.map(ExecutorType::as_str),
        filter.created_after,
        filter.created_before,
        accepted_before,
        filter.name_prefix.as_deref(),
        filter.waiting_reason.map(WaitingReason::as_str),
        &in_line,
        most
    )
    .fetch_all(&mut *tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let supported =
                row.supported.iter().map(|name| parse("supported_executors", name)).collect::<Result<_>>()?;
            let job = Job {
                status: parse("status", &row.status)?,
                executor: parse("executor_type", &row.executor_type)?,
                priority: row.priority,
                dispatched: row.dispatched,
                cancel_requested: row.cancel_requested,
                supported,
            };
            Ok((row.id.into(), job))
        })
        .collect()
}

/// The statuses that are meant.
pub(super) fn statuses(deed: Deed, filter: &Filter) -> &[Status] {
    if filter.statuses.is_empty() { deed.statuses() } else { &filter.statuses }
}

/// The executor types whose jobs in line wait for this: they have no reason stored.
async fn in_line(tx: &mut sqlx::PgConnection, tenant: TenantId, reason: Option<WaitingReason>) -> Result<Vec<String>> {
    let mut types = Vec::new();
    if let Some(reason) = reason {
        for executor in ExecutorType::ALL {
            if why::hosts(tx, *executor, tenant).await?.hosts.reason() == reason {
                types.push(executor.to_string());
            }
        }
    }
    Ok(types)
}
