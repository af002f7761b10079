-- What shows the whole of a tenant's work at a glance.

-- By text for the same reason as container_jobs_backlog. Written where a job is parked, which is never a HOT update.
create index container_jobs_waiting on container_jobs ((tenant_id::text), executor_type, waiting_reason) where status = 'pending' and parked_until is not null;

-- Bounded, whatever the length of the lines: of each executor type and reason at most most + 1 jobs are counted. A function
-- of the owner for the same reason as gantry_line.
create function gantry_backlog(own uuid, most integer)
    returns table (executor executor_type, reason waiting_reason, jobs bigint)
    language sql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off
    as $$
        select * from (
            select e.e, null::public.waiting_reason, (select count(*) from (
                select 1 from public.container_jobs j
                where j.executor_type = e.e and j.tenant_id = own
                  and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null limit most + 1) r)
            from unnest(enum_range(null::public.executor_type)) as e(e)
            union all
            select e.e, 'dispatching'::public.waiting_reason, (select count(*) from (
                select 1 from public.container_jobs j
                where j.executor_type = e.e and j.tenant_id = own
                  and j.status = 'pending' and j.dispatched_at is not null limit most + 1) r)
            from unnest(enum_range(null::public.executor_type)) as e(e)
            union all
            select e.e, w.w, (select count(*) from (
                select 1 from public.container_jobs j
                where j.tenant_id::text = own::text and j.executor_type = e.e and j.waiting_reason = w.w
                  and j.status = 'pending' and j.parked_until is not null limit most + 1) r)
            from unnest(enum_range(null::public.executor_type)) as e(e)
            cross join unnest(enum_range(null::public.waiting_reason)) as w(w)
        ) backlog (executor, reason, jobs)
        where jobs > 0 and own = coalesce(public.gantry_tenant(), own)
    $$;
comment on function gantry_backlog(uuid, integer) is 'How many jobs of a tenant wait, by executor type and by the reason that is stored: null for those in line, dispatching for those in the window. Of each at most one more than asked for.';
revoke execute on function gantry_backlog(uuid, integer) from public;
grant execute on function gantry_backlog(uuid, integer) to gantry_api, gantry_fleet;
