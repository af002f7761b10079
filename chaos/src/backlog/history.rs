//! Jobs that ended long ago: rows as Gantry would have left them, written by SQL because nobody can wait for two million
//! jobs to run.

use gantry_core::{HostId, TenantId, WorkerId};
use sqlx::PgPool;

/// Rows of one statement.
const CHUNK: usize = 100_000;

/// Whose past it is.
pub(super) struct Past {
    pub(super) tenant: TenantId,
    pub(super) host: HostId,
    pub(super) worker: WorkerId,
}

/// Writes so many finished jobs of the last 30 days, each with its spec, its attempt and its two events; then gives the
/// database what autovacuum and checkpoints would have given it by now.
pub(super) async fn fill(sql: &PgPool, past: &Past, jobs: usize) -> anyhow::Result<()> {
    let mut connection = sql.acquire().await?;
    // Triggers of foreign keys are what takes longest, and what is written here is consistent by itself.
    for setting in ["set session_replication_role = replica", "set synchronous_commit = off"] {
        sqlx::query(setting).execute(&mut *connection).await?;
    }
    for first in (0..jobs).step_by(CHUNK) {
        sqlx::query(
            "with past as materialized (
                select i, m.ended - interval '1 second' as began, m.ended, i % 10 = 0 as failed,
                    (lpad(to_hex((extract(epoch from m.ended) * 1000)::bigint), 12, '0') || '7' || substr(md5(i::text), 1, 3)
                        || '8' || substr(md5(i::text), 4, 15))::uuid as id
                from generate_series($1::bigint, $2::bigint - 1) as i
                cross join lateral (select now() - interval '30 days' + i * interval '29 days' / $3::bigint as ended) m
            ), jobs as (
                insert into container_jobs (id, tenant_id, project_id, status, executor_type, preferred_executor, attempt,
                    dispatch_sequence, created_at, started_at, completed_at, exit_code, failure_class, executor_host_id, name,
                    routing_reason, idempotency_key, created_by, execution_id)
                select id, $4, (select id from projects where tenant_id = $4 limit 1),
                    case when failed then 'failed' else 'completed' end::job_status, 'mock', 'mock', 1, 1, began, began, ended,
                    case when failed then 3 else 0 end, case when failed then 'exit_nonzero' end::failure_class, $5, 'past',
                    'preferred', 'past-' || i, 'load', 'past-' || i
                from past
            ), specs as (
                insert into container_job_specs (job_id, tenant_id, spec)
                select id, $4, '{\"image\": \"simulated\", \"timeout_seconds\": 3600, \"labels\": {}}' from past
            ), attempts as (
                insert into container_executions (job_id, attempt, tenant_id, executor_host_id, worker_id, slot_held,
                    external_name, execution_id, claimed_at, launch_sent_at, started_at, ended_at, exit_code, failure_class,
                    run_millis, startup_millis, stdout_log)
                select id, 1, $4, $5, $6, false, 'past-' || i, 'past-' || i, began, began, began, ended,
                    case when failed then 3 else 0 end, case when failed then 'exit_nonzero' end::failure_class, 1000, 20,
                    'one line of output'
                from past
            )
            insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data, created_at)
            select id, e.sequence, $4, 'mock', case when e.sequence = 1 then 'started' when failed then 'failed' else 'completed' end,
                '{}', began
            from past cross join (values (1), (2)) as e(sequence)",
        )
        .bind(i64::try_from(first)?)
        .bind(i64::try_from(jobs.min(first + CHUNK))?)
        .bind(i64::try_from(jobs)?)
        .bind(past.tenant.uuid())
        .bind(past.host.uuid())
        .bind(past.worker.uuid())
        .execute(&mut *connection)
        .await?;
    }
    // Not for others: the settings are the session's.
    connection.close().await?;
    // A past that is long gone is clean and on disk; nobody's commit waits for it any more.
    for statement in ["vacuum (analyze)", "checkpoint"] {
        sqlx::query(statement).execute(sql).await?;
    }
    Ok(())
}
