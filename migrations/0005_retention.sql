-- How long what is over is kept. What to remove is found without reading what stays.

alter table tenants
    add column retain_jobs_seconds bigint,
    add column retain_logs_seconds bigint,
    -- A hundred years: what is more is for ever, and no time reaches further back than Postgres can tell.
    add constraint tenants_retention_range check (retain_jobs_seconds between 0 and 3162240000 and retain_logs_seconds between 0 and 3162240000);
comment on column tenants.retain_jobs_seconds is 'Seconds for which its jobs are kept after their end, with all that belongs to them; 0 for ever, null as the dispatchers are configured.';
comment on column tenants.retain_logs_seconds is 'Seconds for which the logs of its jobs are kept after the job''s end, and never longer than the job; 0 as long as the job, null as the dispatchers are configured.';

alter table container_executions
    add column logs_expired_at timestamptz,
    add column logs_removed_at timestamptz,
    add constraint container_executions_logs_leave_in_order check (logs_removed_at is null or (logs_expired_at is not null and ended_at is not null));
comment on column container_executions.logs_expired_at is 'From when its log and the excerpts of it are not there any more, because their time was over.';
comment on column container_executions.logs_removed_at is 'When the last chunk of its log was removed.';

-- Both are written once, with the end, whose update changes indexed columns anyway: no update that was HOT becomes another.
create index container_jobs_ended on container_jobs (tenant_id, completed_at) where completed_at is not null;
create index container_executions_logs on container_executions (tenant_id, ended_at) where ended_at is not null and logs_removed_at is null;
create index dead_letters_age on dead_letters (tenant_id, last_received_at);
