-- Schedules: submissions that Gantry makes itself, when a calendar says so.

create type schedule_missed as enum ('skip', 'one', 'all');
comment on type schedule_missed is 'What becomes of due times that nobody looked at in time. skip: no job. one: one job for all of them together. all: a job for each.';

create type schedule_overlap as enum ('allow', 'skip', 'queue');
comment on type schedule_overlap is 'What becomes of a due time while a job of the schedule is pending or running. allow: a job beside it. skip: no job. queue: a job when it has ended.';

create type schedule_outcome as enum ('submitted', 'skipped_missed', 'skipped_overlap', 'queued_overlap', 'refused');
comment on type schedule_outcome is 'What became of a due time. submitted: it made a job. skipped_missed: it came too late. skipped_overlap: a job of the schedule was open. queued_overlap: it waits for that one to end. refused: admission refused the submission.';

create table schedules (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    name text not null,
    cron text not null,
    time_zone text not null,
    submission jsonb not null,
    missed schedule_missed not null default 'one',
    overlap schedule_overlap not null default 'allow',
    revision integer not null default 1,
    paused_at timestamptz,
    next_due_at timestamptz,
    last_due_at timestamptz,
    last_job_id uuid,
    last_error text,
    last_error_at timestamptz,
    waiting integer not null default 0,
    created_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint schedules_name_length check (char_length(name) between 1 and 255),
    constraint schedules_submission_is_object check (jsonb_typeof(submission) = 'object'),
    constraint schedules_paused_is_not_due check (paused_at is null or next_due_at is null),
    constraint schedules_error_is_dated check ((last_error is null) = (last_error_at is null)),
    constraint schedules_waiting_not_negative check (waiting >= 0)
);
create unique index schedules_tenant_name on schedules (tenant_id, name);
create index schedules_due on schedules (next_due_at) where next_due_at is not null;
create index schedules_waiting on schedules (id) where waiting > 0 and paused_at is null;
comment on table schedules is 'When to submit what. A dispatcher that advances next_due_at holds the row, and makes the job of the due time in the same transaction.';
comment on column schedules.id is 'UUIDv7.';
comment on column schedules.tenant_id is 'The owner, also of the jobs.';
comment on column schedules.name is 'Unique in the tenant.';
comment on column schedules.cron is 'Five fields, or six with seconds first.';
comment on column schedules.time_zone is 'IANA name of the zone in which cron is read.';
comment on column schedules.submission is 'What is submitted at each due time: a submission without idempotency_key and not_before.';
comment on column schedules.missed is 'What becomes of due times that were missed.';
comment on column schedules.overlap is 'What becomes of a due time while a job of the schedule is open.';
comment on column schedules.revision is 'Raised by whoever edits, pauses or resumes it: what a dispatcher prepared before is dropped.';
comment on column schedules.paused_at is 'Since when nothing is submitted; null while it is not paused.';
comment on column schedules.next_due_at is 'The oldest due time that is not decided about; null while paused, or if it is never due again.';
comment on column schedules.last_due_at is 'The last due time that was decided about.';
comment on column schedules.last_job_id is 'The last job that it made; kept when the job is gone.';
comment on column schedules.last_error is 'Why the last due time made no job; null since one did.';
comment on column schedules.last_error_at is 'When that was.';
comment on column schedules.waiting is 'Its rows of schedule_runs that are queued_overlap.';
comment on column schedules.created_by is 'Who put it last.';
comment on column schedules.created_at is 'When it was made.';
comment on column schedules.updated_at is 'When it was last put, paused or resumed.';

-- Without a foreign key: a schedule is deleted at once, and its history leaves with everybody's.
create table schedule_runs (
    schedule_id uuid not null,
    due_at timestamptz not null,
    tenant_id uuid not null references tenants,
    outcome schedule_outcome not null,
    job_id uuid,
    triggered_by text,
    detail text,
    created_at timestamptz not null default now(),
    primary key (schedule_id, due_at),
    constraint schedule_runs_submitted_has_job check ((outcome = 'submitted') = (job_id is not null))
);
create index schedule_runs_waiting on schedule_runs (schedule_id, due_at) where outcome = 'queued_overlap';
create index schedule_runs_created on schedule_runs (created_at);
comment on table schedule_runs is 'What became of each due time. The key is the promise: no due time makes two jobs, with any number of dispatchers.';
comment on column schedule_runs.schedule_id is 'The schedule; kept when it is gone.';
comment on column schedule_runs.due_at is 'The due time; for a run outside the calendar, when it was asked for. With skipped_missed the first of those that detail tells of.';
comment on column schedule_runs.tenant_id is 'The owner.';
comment on column schedule_runs.outcome is 'What became of it.';
comment on column schedule_runs.job_id is 'The job that it made; kept when the job is gone.';
comment on column schedule_runs.triggered_by is 'Who asked for a run outside the calendar: key: and the id of the API key; null for a due time.';
comment on column schedule_runs.detail is 'Why it made no job, in words.';
comment on column schedule_runs.created_at is 'When it was decided.';

alter table container_jobs add column schedule_id uuid;
create index container_jobs_schedule_open on container_jobs (schedule_id) where schedule_id is not null and status in ('pending', 'running');
comment on column container_jobs.schedule_id is 'The schedule that made it; kept when that is gone.';

-- Who may see what ----------------------------------------------------------------------------------------------
grant select, insert, update, delete on schedules, schedule_runs to gantry_fleet;
grant select, insert, delete on schedules, schedule_runs to gantry_api;
grant update (cron, time_zone, submission, missed, overlap, revision, paused_at, next_due_at, last_job_id, created_by, updated_at) on schedules to gantry_api;

do $$
declare
    name text;
begin
    foreach name in array array['schedules', 'schedule_runs']
    loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format('create policy fleet on %I to gantry_fleet using (true) with check (true)', name);
        execute format('create policy tenant on %I to gantry_api using (tenant_id = gantry_tenant()) with check (tenant_id = gantry_tenant())', name);
    end loop;
end $$;
