//! From the store's rows to what travels.

use gantry_core::capacity;
use gantry_store::history::AttemptView;
use gantry_store::hosts::HostView;
use gantry_store::jobs::JobView;
use gantry_store::logs;

use crate::wire::{Abandoned, Attempt, Cursor, Data, Host, Job, LogChunk, Standing, Stream};

impl From<JobView> for Job {
    fn from(view: JobView) -> Self {
        Self {
            id: view.id,
            name: view.name,
            status: view.status,
            waiting_reason: view.waiting_reason,
            waiting_until: view.waiting_until,
            project_id: view.project,
            template_id: view.template,
            executor_type: view.executor_type,
            preferred_executor: view.preferred_executor,
            routing_reason: view.routing_reason,
            host_id: view.host,
            host: view.host_name,
            priority: view.priority,
            attempt: view.attempt,
            execution_id: view.execution_id,
            exit_code: view.exit_code,
            failure_class: view.failure_class,
            error_message: view.error_message,
            idempotency_key: view.idempotency_key,
            estimated_cost: view.estimated_cost,
            actual_cost: view.actual_cost,
            executor_metadata: view.executor_metadata,
            cancel_requested_at: view.cancel_requested_at,
            created_at: view.created_at,
            started_at: view.started_at,
            completed_at: view.completed_at,
            created_by: view.created_by,
        }
    }
}

impl From<AttemptView> for Attempt {
    fn from(view: AttemptView) -> Self {
        Self {
            attempt: view.attempt,
            host: view.host_name,
            external_name: view.external_name,
            execution_id: view.execution_id,
            claimed_at: view.claimed_at,
            started_at: view.started_at,
            ended_at: view.ended_at,
            standing: view.standing.map(|standing| Standing {
                condition: standing.condition,
                since: standing.since,
                cause: standing.cause,
            }),
            abandoned: view.abandoned.map(|given_up| Abandoned { at: given_up.at, by: given_up.by, how: given_up.how }),
            stop_reason: view.stop_reason,
            exit_code: view.exit_code,
            failure_class: view.failure_class,
            error_message: view.error_message,
            run_millis: view.run_millis,
            max_memory_bytes: view.max_memory_usage,
            cpu_usage_percent: view.cpu_usage_percent,
            cost: view.cost,
            logs_incomplete: view.logs_incomplete,
            logs_expired_at: view.logs_expired_at,
            backend_log: view.docker_log,
            clean_output: view.clean_output,
            parsed_output: view.parsed_output,
        }
    }
}

impl From<logs::Chunk> for LogChunk {
    fn from(chunk: logs::Chunk) -> Self {
        Self {
            cursor: Cursor { attempt: chunk.attempt, sequence: chunk.sequence },
            attempt: chunk.attempt,
            stream: match chunk.stream {
                logs::Stream::Stdout => Stream::Stdout,
                logs::Stream::Stderr => Stream::Stderr,
            },
            offset: chunk.byte_offset,
            omitted_bytes: chunk.omitted_bytes,
            data: Data::new(chunk.data),
        }
    }
}

/// A host as its reader may see it: the configs tell where engines are and what they allow.
pub(crate) fn host(view: HostView, operator: bool) -> Host {
    let config = |config| operator.then_some(config);
    let (condition, reason) = (view.capacity().condition(), view.capacity().reason());
    Host {
        id: view.host.id,
        name: view.host.name,
        executor_type: view.host.executor_type,
        shared: view.tenant.is_none(),
        is_active: view.is_active,
        state: view.state,
        max_concurrent_jobs: view.max_concurrent_jobs,
        current_job_count: view.current_job_count,
        available_slots: capacity::available(view.max_concurrent_jobs, view.current_job_count),
        utilization_percent: capacity::utilization_percent(view.max_concurrent_jobs, view.current_job_count),
        condition,
        reason,
        unreached_since: view.unreached_since,
        workers: view.workers,
        average_startup_seconds: view.average_startup_time,
        last_health_check: view.last_health_check,
        health_check_failures: view.health_check_failures,
        connection_config: config(view.host.connection_config),
        executor_config: config(view.host.executor_config),
    }
}
