-- What tells a person why a job is where it is, and what changes many jobs at once.

-- Why -----------------------------------------------------------------------------------------------------------
alter table executor_hosts add column average_slot_time double precision;
comment on column executor_hosts.average_slot_time is 'Seconds from claim to recorded end, as a moving average of real ends: with the slots it tells how fast a line moves.';

alter table container_executions
    add column prepare_began_at timestamptz,
    add column prepare_ended_at timestamptz,
    add constraint container_executions_prepare_began check (prepare_ended_at is null or prepare_began_at is not null);
comment on column container_executions.prepare_began_at is 'Since when its image is pulled, or whatever else its backend needs; null if it took no time worth telling.';
comment on column container_executions.prepare_ended_at is 'Until when.';

-- The functions below run as the owner of the schema, which row-level security holds too unless it is a superuser.
create policy owner on tenants for select to current_user using (true);
create policy owner on container_jobs for select to current_user using (true);
-- For gantry_host_detail.
create policy owner on executor_hosts for select to current_user using (true);

-- Bounded, whatever the length of the lines: of each side at most most + 1 jobs are counted, in at most so many lines.
-- Not a query of the API: under row-level security an enum finds nothing by an index, because comparing one may leak.
create function gantry_line(own uuid, executor executor_type, at_priority smallint, job uuid, most integer)
    returns table (own_ahead bigint, others_ahead bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$
        with recursive line as (
            (select j.tenant_id, j.priority from public.container_jobs j
             where j.executor_type = executor and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null
             order by j.tenant_id, j.priority limit 1)
            union all
            select n.tenant_id, n.priority from line cross join lateral (
                select j.tenant_id, j.priority from public.container_jobs j
                where j.executor_type = executor and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null
                  and (j.tenant_id, j.priority) > (line.tenant_id, line.priority)
                order by j.tenant_id, j.priority limit 1) n
        ), higher as (
            select count(*) as jobs from (
                select 1 from public.container_jobs j
                where j.executor_type = executor and j.tenant_id = own and j.priority > at_priority
                  and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null limit most + 1) r
        ), equal as (
            select count(*) as jobs from (
                select 1 from public.container_jobs j
                where j.executor_type = executor and j.tenant_id = own and j.priority = at_priority and j.id < job
                  and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null limit most + 1) r
        ), others as (
            select count(*) as jobs from (
                select 1 from (select * from line limit most) l
                join public.tenants t on t.id = l.tenant_id join public.tenants o on o.id = own cross join equal
                cross join lateral (
                    select 1 from public.container_jobs j
                    where j.executor_type = executor and j.tenant_id = l.tenant_id and j.priority = l.priority
                      and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null
                    limit case when l.priority > at_priority then most + 1
                        else least(most + 1, ceil(equal.jobs * t.weight / o.weight))::bigint end) r
                where l.tenant_id <> own and l.priority >= at_priority limit most + 1) r
        )
        select higher.jobs + equal.jobs, others.jobs from higher, equal, others
        where own = coalesce(public.gantry_tenant(), own)
    $$;
comment on function gantry_line(uuid, executor_type, smallint, uuid, integer) is 'How many jobs go before a job: of its own tenant those of higher priority and the older ones of its own; of other tenants those of higher priority, and of its own as many as their shares allow.';
revoke execute on function gantry_line(uuid, executor_type, smallint, uuid, integer) from public;
grant execute on function gantry_line(uuid, executor_type, smallint, uuid, integer) to gantry_api, gantry_fleet;

-- Bulk ----------------------------------------------------------------------------------------------------------
create type bulk_action as enum ('cancel', 'retry', 'prioritise', 'move');
comment on type bulk_action is 'What a bulk operation does to each job. cancel: asks for its end. retry: submits a job that has ended anew, as a job of its own. prioritise: gives a pending job another priority. move: sends a pending job to another executor type.';

create type bulk_state as enum ('running', 'done', 'stopped');
comment on type bulk_state is 'running: dispatchers work it off. done: every job was looked at. stopped: somebody stopped it; what was changed stays changed. The last two never change.';

create table bulk_operations (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    actor text not null,
    action bulk_action not null,
    filter jsonb not null,
    parameters jsonb not null default '{}',
    state bulk_state not null default 'running',
    cursor uuid,
    matched bigint not null default 0,
    changed bigint not null default 0,
    skipped bigint not null default 0,
    skips jsonb not null default '{}',
    created_at timestamptz not null default now(),
    worked_at timestamptz not null default now(),
    finished_at timestamptz,
    constraint bulk_operations_objects check (jsonb_typeof(filter) = 'object' and jsonb_typeof(parameters) = 'object' and jsonb_typeof(skips) = 'object'),
    constraint bulk_operations_counts check (changed >= 0 and skipped >= 0 and matched = changed + skipped),
    constraint bulk_operations_end_is_dated check ((state = 'running') = (finished_at is null))
) with (fillfactor = 70);
create index bulk_operations_tenant on bulk_operations (tenant_id, id);
create index bulk_operations_running on bulk_operations (worked_at) where state = 'running';
comment on table bulk_operations is 'What somebody does to many jobs at once. Dispatchers work it off in batches, each of which moves the cursor in the transaction that changes the jobs.';
comment on column bulk_operations.id is 'UUIDv7.';
comment on column bulk_operations.tenant_id is 'Whose jobs.';
comment on column bulk_operations.actor is 'Who: key: and the id of the API key.';
comment on column bulk_operations.action is 'What.';
comment on column bulk_operations.filter is 'To which jobs. Never to one that was accepted after created_at.';
comment on column bulk_operations.parameters is 'The new priority, or the new executor type.';
comment on column bulk_operations.state is 'Whether it goes on.';
comment on column bulk_operations.cursor is 'The last job that was looked at; null before the first.';
comment on column bulk_operations.matched is 'Jobs that the filter met so far.';
comment on column bulk_operations.changed is 'Those of them that were changed.';
comment on column bulk_operations.skipped is 'Those that could not be.';
comment on column bulk_operations.skips is 'The latter by reason.';
comment on column bulk_operations.created_at is 'When it was asked for.';
comment on column bulk_operations.worked_at is 'When its last batch was done: who has waited longest goes next.';
comment on column bulk_operations.finished_at is 'When it was done or stopped.';

create table bulk_changes (
    job_id uuid not null references container_jobs on delete cascade,
    operation_id uuid not null references bulk_operations,
    tenant_id uuid not null,
    detail jsonb not null,
    created_at timestamptz not null default now(),
    primary key (job_id, operation_id)
);
comment on table bulk_changes is 'What bulk operations did to each job, written in the transaction that did it, never changed.';
comment on column bulk_changes.job_id is 'The job. Of a retry both have a row: the one that had ended, and the new one.';
comment on column bulk_changes.operation_id is 'The operation.';
comment on column bulk_changes.tenant_id is 'The owner.';
comment on column bulk_changes.detail is 'What was changed: from and to, or the other job of a retry.';
comment on column bulk_changes.created_at is 'When.';

grant select, insert, update, delete on bulk_operations, bulk_changes to gantry_fleet;
revoke update, delete on bulk_changes from gantry_fleet;
grant select, insert on bulk_operations to gantry_api;
-- To stop one, and nothing else.
grant update (state, finished_at) on bulk_operations to gantry_api;
grant select on bulk_changes to gantry_api;

do $$
declare
    name text;
begin
    foreach name in array array['bulk_operations', 'bulk_changes']
    loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format('create policy fleet on %I to gantry_fleet using (true) with check (true)', name);
        execute format('create policy tenant on %I to gantry_api using (tenant_id = gantry_tenant()) with check (tenant_id = gantry_tenant())', name);
    end loop;
end $$;
