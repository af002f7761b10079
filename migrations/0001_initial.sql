-- Gantry's schema. Run by its owner, a role that may create roles (once per cluster) and does not serve requests.
-- While nothing is released this file is edited in place; docs/DATA_MODEL.md tells who writes which row and when.

-- Roles ---------------------------------------------------------------------------------------------------------
-- Roles belong to the cluster: another database, or a migration running beside this one, may have made them.
do $$
begin
    create role gantry_fleet login;
exception when duplicate_object or unique_violation then null;
end $$;
do $$
begin
    create role gantry_api login;
exception when duplicate_object or unique_violation then null;
end $$;
comment on role gantry_fleet is 'Gantry dispatchers, workers and recorders: sees every tenant.';
comment on role gantry_api is 'Gantry API: sees the tenant that its transaction names.';

-- Types ---------------------------------------------------------------------------------------------------------
create type executor_type as enum ('docker', 'cloudrun', 'fargate', 'scaleway', 'mock');
comment on type executor_type is 'Kind of backend. docker: a Docker Engine. cloudrun: Google Cloud Run Jobs. fargate: AWS ECS. scaleway: Scaleway Serverless Jobs. mock: simulated containers.';

create type host_state as enum ('active', 'cordoned', 'draining', 'lost');
comment on type host_state is 'What an operator allows on a host. active: new jobs. cordoned: no new jobs. draining: no new jobs, until it is empty. lost: no new jobs, and the attempts there are given up.';

create type job_status as enum ('pending', 'running', 'completed', 'failed', 'timeout', 'cancelled');
comment on type job_status is 'pending: no attempt owns it. running: an attempt owns it. completed: exit code 0. failed: ended otherwise, or can never run. timeout: ran or waited too long. cancelled: its end was asked for. The last four never change.';

create type waiting_reason as enum ('dispatching', 'retry_backoff', 'not_before', 'host_full', 'host_unavailable', 'no_host', 'no_worker', 'tenant_limit', 'template_limit', 'key_limit', 'budget', 'dependency');
comment on type waiting_reason is 'What a pending job waits for. dispatching: a worker to take it. retry_backoff: the pause before its next attempt. not_before: its start time. host_full: a free slot. host_unavailable: a host that is active and healthy. no_host: a host. no_worker: a worker that serves its hosts. tenant_limit, template_limit, key_limit: a running job of the same kind to end. budget: money. dependency: another job.';

create type failure_class as enum ('exit_nonzero', 'oom_killed', 'timeout', 'cancelled', 'image_not_found', 'image_pull_denied', 'invalid_spec', 'launch_rejected', 'no_capacity', 'throttled', 'host_unreachable', 'lost', 'backend_error');
comment on type failure_class is 'Why an attempt failed. exit_nonzero: another exit code than 0. oom_killed: killed at its memory limit. timeout: too long. cancelled: asked for. image_not_found, image_pull_denied: the registry. invalid_spec: can never run there. launch_rejected: the backend refused to start it. no_capacity: no room. throttled: asked to slow down. host_unreachable: no answer. lost: launched and gone. backend_error: anything else of the backend.';

create type stop_reason as enum ('cancel', 'timeout', 'launch_deadline', 'drain');
comment on type stop_reason is 'Why a container is stopped. cancel: asked for. timeout: the run deadline. launch_deadline: claimed and not started in time. drain: its host is drained, and what runs there is moved.';

create type abandon as enum ('retry', 'fail');
comment on type abandon is 'How an attempt is given up whose end can never be confirmed. retry: the infrastructure budget decides. fail: the job ends with it.';

create type worker_state as enum ('alive', 'handed_over', 'dead');
comment on type worker_state is 'alive: beats. handed_over: ended in order, its attempts are free to take. dead: overdue, its attempts are free to take. The last two never change.';

create type log_stream as enum ('stdout', 'stderr');
comment on type log_stream is 'stdout: standard output. stderr: standard error.';

create type idempotency_source as enum ('key', 'message');
comment on type idempotency_source is 'key: idempotency_key of the submission. message: message_id of the AMQP message.';

create type limit_kind as enum ('tenant', 'template', 'key');
comment on type limit_kind is 'What a limit counts. tenant: all running jobs of the tenant. template: those of one container template. key: those that share a concurrency key.';

create type retry_budget as enum ('user', 'infrastructure', 'operator');
comment on type retry_budget is 'user: the retry policy of the job. infrastructure: the budget for what was not the fault of the job. operator: none, because an operator moved it off its host.';

-- Who asks ------------------------------------------------------------------------------------------------------
-- Null when unset, so that a transaction without a tenant sees nothing.
create function gantry_tenant() returns uuid language sql stable
    as $$ select nullif(current_setting('gantry.tenant', true), '')::uuid $$;
comment on function gantry_tenant() is 'The tenant of this transaction (set local gantry.tenant), or null.';

create function gantry_is_operator() returns boolean language sql stable
    as $$ select coalesce(current_setting('gantry.operator', true), '') = 'on' $$;
comment on function gantry_is_operator() is 'Whether this transaction acts for an operator (set local gantry.operator).';

create table fleet (
    singleton boolean primary key default true,
    id uuid not null default gen_random_uuid(),
    created_at timestamptz not null default now(),
    constraint fleet_is_single check (singleton)
);
comment on table fleet is 'The one fleet of this database.';
comment on column fleet.singleton is 'Keeps the table at one row.';
comment on column fleet.id is 'Part of every external name and a label of every container: two fleets can share an engine.';
comment on column fleet.created_at is 'When the schema was made.';
insert into fleet default values;

-- Times to keep reach a hundred years: what is more is for ever, and no time goes further back than Postgres can tell.
create table tenants (
    id uuid primary key,
    name text not null,
    weight double precision not null default 1,
    max_pending integer,
    retain_jobs_seconds bigint,
    retain_logs_seconds bigint,
    created_at timestamptz not null default now(),
    constraint tenants_name_length check (char_length(name) between 1 and 255),
    constraint tenants_weight_range check (weight between 0.001 and 1000),
    constraint tenants_cap_not_negative check (max_pending >= 0),
    constraint tenants_retention_range check (retain_jobs_seconds between 0 and 3162240000 and retain_logs_seconds between 0 and 3162240000)
);
create unique index tenants_name on tenants (name);
comment on table tenants is 'Who owns jobs.';
comment on column tenants.id is 'UUIDv7.';
comment on column tenants.name is 'Unique name.';
comment on column tenants.weight is 'Its share of starts beside the other tenants that wait: 2 starts twice as many jobs as 1.';
comment on column tenants.max_pending is 'Jobs that may wait at once; further ones are refused. Null for no cap.';
comment on column tenants.retain_jobs_seconds is 'Seconds for which its jobs are kept after their end, with all that belongs to them; 0 for ever, null as the dispatchers are configured.';
comment on column tenants.retain_logs_seconds is 'Seconds for which the logs of its jobs are kept after the job''s end, and never longer than the job; 0 as long as the job, null as the dispatchers are configured.';
comment on column tenants.created_at is 'When it was made.';

create table projects (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    name text not null,
    created_at timestamptz not null default now(),
    constraint projects_name_length check (char_length(name) between 1 and 255)
);
-- The tenant is part of a unique key: whoever changes it waits for those who hold the row FOR KEY SHARE, as admission does.
create unique index projects_tenant_name on projects (tenant_id, name);
comment on table projects is 'Groups of jobs inside a tenant; every tenant has one named default.';
comment on column projects.id is 'UUIDv7.';
comment on column projects.tenant_id is 'The owner.';
comment on column projects.name is 'Unique in the tenant.';
comment on column projects.created_at is 'When it was made.';

create table api_keys (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    name text not null,
    key_hash bytea not null,
    is_operator boolean not null default false,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    constraint api_keys_hash_is_sha256 check (octet_length(key_hash) = 32)
);
create unique index api_keys_hash on api_keys (key_hash);
create index api_keys_tenant on api_keys (tenant_id);
comment on table api_keys is 'Keys with which producers and people identify themselves.';
comment on column api_keys.id is 'UUIDv7.';
comment on column api_keys.tenant_id is 'The tenant for which the key speaks.';
comment on column api_keys.name is 'What the key is for.';
comment on column api_keys.key_hash is 'SHA-256 of the key, which has 256 random bits and is stored nowhere.';
comment on column api_keys.is_operator is 'Whether the key may also manage hosts.';
comment on column api_keys.created_at is 'When it was made.';
comment on column api_keys.revoked_at is 'From when it is refused.';

-- The API role cannot read api_keys: it asks this function, with the hash of what the caller sent.
create function gantry_authenticate(hash bytea)
    returns table (key_id uuid, tenant_id uuid, is_operator boolean)
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$ select k.id, k.tenant_id, k.is_operator from public.api_keys k where k.key_hash = hash and k.revoked_at is null $$;
comment on function gantry_authenticate(bytea) is 'The key with this hash, unless revoked.';
revoke execute on function gantry_authenticate(bytea) from public;
grant execute on function gantry_authenticate(bytea) to gantry_api, gantry_fleet;

-- Places --------------------------------------------------------------------------------------------------------
create table executor_hosts (
    id uuid primary key,
    tenant_id uuid references tenants,
    name text not null,
    executor_type executor_type not null,
    connection_config jsonb not null default '{}',
    executor_config jsonb not null default '{}',
    is_active boolean not null default true,
    state host_state not null default 'active',
    moves boolean not null default false,
    weight double precision not null default 1,
    labels jsonb not null default '{}',
    engine_identity text,
    max_concurrent_jobs integer not null default 10,
    current_job_count integer not null default 0,
    cost_per_hour numeric not null default 0,
    cost_per_job numeric not null default 0,
    average_startup_time double precision,
    average_slot_time double precision,
    last_health_check timestamptz,
    health_check_failures integer not null default 0,
    created_at timestamptz not null default now(),
    constraint executor_hosts_name_length check (char_length(name) between 1 and 255),
    constraint executor_hosts_configs_are_objects check (jsonb_typeof(connection_config) = 'object' and jsonb_typeof(executor_config) = 'object' and jsonb_typeof(labels) = 'object'),
    constraint executor_hosts_moves_when_draining check (not moves or state = 'draining'),
    constraint executor_hosts_weight_positive check (weight > 0),
    constraint executor_hosts_limit_not_negative check (max_concurrent_jobs >= 0),
    constraint executor_hosts_count_not_negative check (current_job_count >= 0),
    constraint executor_hosts_prices_range check (cost_per_hour between 0 and 1000000000 and cost_per_job between 0 and 1000000000)
) with (fillfactor = 50);
create unique index executor_hosts_owner_name on executor_hosts (tenant_id, name) nulls not distinct;
create index executor_hosts_type_active on executor_hosts (executor_type, is_active);
comment on table executor_hosts is 'Places that run containers. A claim locks the row, so it is never above its limit.';
comment on column executor_hosts.id is 'UUIDv7.';
comment on column executor_hosts.tenant_id is 'The owner; null for a host that all tenants share.';
comment on column executor_hosts.name is 'Unique per owner.';
comment on column executor_hosts.executor_type is 'Kind of backend.';
comment on column executor_hosts.connection_config is 'How to reach it; the shape is the executor''s. References to credentials, never values.';
comment on column executor_hosts.executor_config is 'How to run things there; the shape is the executor''s.';
comment on column executor_hosts.is_active is 'Whether it takes part at all.';
comment on column executor_hosts.state is 'What an operator allows on it.';
comment on column executor_hosts.moves is 'Draining: whether what runs there is stopped and tried again elsewhere; else it runs to its end.';
comment on column executor_hosts.weight is 'Its share of jobs beside other hosts.';
comment on column executor_hosts.labels is 'Labels, text by text.';
comment on column executor_hosts.engine_identity is 'What the engine called itself when it was first reached; a worker that finds another engine there does not serve the host.';
comment on column executor_hosts.max_concurrent_jobs is 'Slots. May be lowered below current_job_count: then no job is placed until enough have ended.';
comment on column executor_hosts.current_job_count is 'Attempts with slot_held; moves only together with that column.';
comment on column executor_hosts.cost_per_hour is 'Price of an hour of one container.';
comment on column executor_hosts.cost_per_job is 'Price of one start.';
comment on column executor_hosts.average_startup_time is 'Seconds from the launch request to running, as a moving average of real starts.';
comment on column executor_hosts.average_slot_time is 'Seconds from claim to recorded end, as a moving average of real ends: with the slots it tells how fast a line moves.';
comment on column executor_hosts.last_health_check is 'When a worker last asked it.';
comment on column executor_hosts.health_check_failures is 'Failed checks in a row, whoever made them.';
comment on column executor_hosts.created_at is 'When it was made.';

create table workers (
    id uuid primary key,
    executor_type executor_type not null,
    name text not null,
    version text not null,
    reads_version integer not null,
    state worker_state not null default 'alive',
    lease_seconds integer not null,
    started_at timestamptz not null default now(),
    last_beat_at timestamptz not null default now(),
    ended_at timestamptz,
    constraint workers_lease_positive check (lease_seconds > 0),
    constraint workers_end_is_dated check ((state = 'alive') = (ended_at is null))
) with (fillfactor = 50);
-- Without last_beat_at, so that a beat is a HOT update.
create index workers_alive on workers (executor_type) where state = 'alive';
comment on table workers is 'One run of a worker process. The row is its lease: every write transaction of the worker locks it FOR KEY SHARE where state is alive, and whoever ends the worker locks it FOR UPDATE.';
comment on column workers.id is 'UUIDv7, new with every process start.';
comment on column workers.executor_type is 'Whose queue it consumes.';
comment on column workers.name is 'Host name and process id, for people.';
comment on column workers.version is 'Version of the program.';
comment on column workers.reads_version is 'Highest version of fleet messages that it reads.';
comment on column workers.state is 'alive until it hands over or is declared dead.';
comment on column workers.lease_seconds is 'How long after a beat others may declare it dead.';
comment on column workers.started_at is 'When it registered.';
comment on column workers.last_beat_at is 'Its last beat, by the clock of the database.';
comment on column workers.ended_at is 'When it handed over or was declared dead.';

create table worker_hosts (
    worker_id uuid not null references workers on delete cascade,
    executor_host_id uuid not null references executor_hosts on delete cascade,
    healthy boolean not null,
    failures integer not null default 0,
    detail text not null default '',
    unhealthy_since timestamptz,
    checked_at timestamptz not null default now(),
    primary key (worker_id, executor_host_id),
    constraint worker_hosts_unhealthy_is_dated check (healthy = (unhealthy_since is null))
);
create index worker_hosts_host on worker_hosts (executor_host_id);
comment on table worker_hosts is 'Which worker reaches which host: health is a property of the pair.';
comment on column worker_hosts.worker_id is 'The worker.';
comment on column worker_hosts.executor_host_id is 'The host.';
comment on column worker_hosts.healthy is 'Whether the worker serves the host: it answered, and its identity matched.';
comment on column worker_hosts.failures is 'Failed checks in a row.';
comment on column worker_hosts.detail is 'What the last check said.';
comment on column worker_hosts.unhealthy_since is 'Since when the worker has not served it; null while it does.';
comment on column worker_hosts.checked_at is 'When it was last checked.';

-- Not for everyone: it may name addresses of other tenants' hosts.
create function gantry_host_detail(worker uuid, host uuid) returns text
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$
        select wh.detail from public.worker_hosts wh join public.executor_hosts h on h.id = wh.executor_host_id
        where wh.worker_id = worker and wh.executor_host_id = host
          and (public.gantry_is_operator() or h.tenant_id = public.gantry_tenant())
    $$;
comment on function gantry_host_detail(uuid, uuid) is 'What the last check of a worker said of a host, for an operator or the owner of the host.';
revoke execute on function gantry_host_detail(uuid, uuid) from public;
grant execute on function gantry_host_detail(uuid, uuid) to gantry_api, gantry_fleet;

-- Limits --------------------------------------------------------------------------------------------------------
create table limits (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    kind limit_kind not null,
    name text not null,
    max_running integer,
    running integer not null default 0,
    created_at timestamptz not null default now(),
    constraint limits_name_length check (char_length(name) <= 255 and (kind = 'tenant') = (name = '')),
    constraint limits_max_not_negative check (max_running >= 0),
    constraint limits_running_not_negative check (running >= 0)
) with (fillfactor = 50);
create unique index limits_subject on limits (tenant_id, kind, name);
comment on table limits is 'How many jobs of one kind may run at once. A claim locks the row, so it is never above its limit.';
comment on column limits.id is 'UUIDv7.';
comment on column limits.tenant_id is 'The owner.';
comment on column limits.kind is 'What it counts.';
comment on column limits.name is 'The concurrency key, or the id of the template; empty for the tenant as a whole.';
comment on column limits.max_running is 'The most that may run; null for any number. May be lowered below running: then no job is claimed until enough have ended.';
comment on column limits.running is 'Attempts that count against it (container_executions.limits) and hold their slot; moves only together with slot_held.';
comment on column limits.created_at is 'When it was made.';

-- What to run ---------------------------------------------------------------------------------------------------
create table environment_variable_templates (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    name text not null,
    description text not null default '',
    environment_variables_text text not null default '',
    created_by text not null,
    created_at timestamptz not null default now(),
    constraint environment_variable_templates_name_length check (char_length(name) between 1 and 255)
);
create unique index environment_variable_templates_tenant_name on environment_variable_templates (tenant_id, name);
create unique index environment_variable_templates_id_tenant on environment_variable_templates (id, tenant_id);
comment on table environment_variable_templates is 'Sets of environment variables that container templates build on.';
comment on column environment_variable_templates.id is 'UUIDv7.';
comment on column environment_variable_templates.tenant_id is 'The owner.';
comment on column environment_variable_templates.name is 'Unique in the tenant.';
comment on column environment_variable_templates.description is 'For people.';
comment on column environment_variable_templates.environment_variables_text is 'KEY=value a line.';
comment on column environment_variable_templates.created_by is 'Who made it.';
comment on column environment_variable_templates.created_at is 'When it was made.';

create table container_templates (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    name text not null,
    description text not null default '',
    docker_image text not null,
    command text[],
    working_dir text,
    environment_variables_text text not null default '',
    environment_template uuid,
    cpu_limit numeric(6, 2),
    memory_limit_mb integer,
    timeout_seconds integer not null default 3600,
    supported_executors executor_type[] not null default '{}',
    retry_policy jsonb not null default '{}',
    on_lost jsonb not null default '{}',
    created_by text not null,
    created_at timestamptz not null default now(),
    constraint container_templates_environment foreign key (environment_template, tenant_id) references environment_variable_templates (id, tenant_id),
    constraint container_templates_name_length check (char_length(name) between 1 and 255),
    constraint container_templates_cpu_positive check (cpu_limit > 0),
    constraint container_templates_memory_minimum check (memory_limit_mb >= 6),
    constraint container_templates_timeout_range check (timeout_seconds between 1 and 604800),
    constraint container_templates_policies_are_objects check (jsonb_typeof(retry_policy) = 'object' and jsonb_typeof(on_lost) = 'object')
);
create unique index container_templates_tenant_name on container_templates (tenant_id, name);
create unique index container_templates_id_tenant on container_templates (id, tenant_id);
comment on table container_templates is 'Containers that jobs run by name.';
comment on column container_templates.id is 'UUIDv7.';
comment on column container_templates.tenant_id is 'The owner.';
comment on column container_templates.name is 'Unique in the tenant.';
comment on column container_templates.description is 'For people.';
comment on column container_templates.docker_image is 'Image reference.';
comment on column container_templates.command is 'The words of the command; null for the image''s own.';
comment on column container_templates.working_dir is 'Absolute path; null for the image''s own.';
comment on column container_templates.environment_variables_text is 'KEY=value a line, laid over the environment template.';
comment on column container_templates.environment_template is 'The environment template below.';
comment on column container_templates.cpu_limit is 'CPUs; null for no limit.';
comment on column container_templates.memory_limit_mb is 'MiB; null for no limit.';
comment on column container_templates.timeout_seconds is 'Run deadline.';
comment on column container_templates.supported_executors is 'Where it may run, in order of preference; empty for anywhere.';
comment on column container_templates.retry_policy is 'The user''s retry policy.';
comment on column container_templates.on_lost is 'What to do when the host of a job does not come back.';
comment on column container_templates.created_by is 'Who made it.';
comment on column container_templates.created_at is 'When it was made.';

-- Whoever inserts jobs has locked their projects, each once, and found them to be of the same tenant: a foreign key would be
-- checked for every job. That the tenant exists, the project's own key says.
create table container_jobs (
    id uuid primary key,
    tenant_id uuid not null,
    project_id uuid not null,
    status job_status not null default 'pending',
    executor_type executor_type not null,
    preferred_executor executor_type,
    priority smallint not null default 0,
    attempt integer not null default 0,
    dispatch_sequence integer not null default 0,
    publishes smallint not null default 0,
    user_retries smallint not null default 0,
    infrastructure_retries smallint not null default 0,
    waiting_reason waiting_reason,
    exit_code integer,
    failure_class failure_class,
    created_at timestamptz not null default now(),
    parked_until timestamptz,
    dispatched_at timestamptz,
    published_at timestamptz,
    queue_deadline_at timestamptz,
    cancel_requested_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    executor_host_id uuid,
    limit_id uuid,
    schedule_id uuid,
    template uuid,
    concurrency_key text,
    name text not null,
    routing_reason text not null,
    idempotency_key text,
    created_by text not null,
    execution_id text,
    estimated_cost numeric,
    actual_cost numeric,
    error_message text,
    waiting_detail jsonb,
    error_details jsonb,
    executor_metadata jsonb,
    override_command text[],
    override_environment jsonb,
    constraint container_jobs_template foreign key (template, tenant_id) references container_templates (id, tenant_id),
    constraint container_jobs_name_length check (char_length(name) between 1 and 255),
    constraint container_jobs_key_length check (char_length(concurrency_key) between 1 and 255),
    constraint container_jobs_priority_range check (priority between -100 and 100),
    constraint container_jobs_counts check (attempt >= 0 and dispatch_sequence >= 0 and publishes >= 0 and user_retries >= 0 and infrastructure_retries >= 0),
    constraint container_jobs_execution_id_length check (char_length(execution_id) <= 255),
    constraint container_jobs_running_is_placed check (status <> 'running' or (attempt > 0 and executor_host_id is not null)),
    constraint container_jobs_end_is_dated check ((status in ('pending', 'running')) = (completed_at is null)),
    constraint container_jobs_completed_has_no_failure check (status <> 'completed' or (failure_class is null and exit_code = 0)),
    constraint container_jobs_end_has_failure check (status not in ('failed', 'timeout', 'cancelled') or failure_class is not null),
    constraint container_jobs_only_pending_waits check (status = 'pending' or (waiting_reason is null and parked_until is null and dispatched_at is null)),
    constraint container_jobs_parked_or_dispatched check (parked_until is null or (dispatched_at is null and waiting_reason is not null)),
    constraint container_jobs_limited_is_parked check (limit_id is null or parked_until is not null)
) with (fillfactor = 70);
-- For people who look for what went wrong. Not of what completed, which is nearly all, nor of what waits or runs, which has
-- indexes of its own: a job that completes never writes it.
create index container_jobs_status_created on container_jobs (status, created_at) where status in ('failed', 'timeout', 'cancelled');
-- Of those that run: where an ended job ran, its attempts know, and they are not written again.
create index container_jobs_host_status on container_jobs (executor_host_id, status) where status = 'running';
create index container_jobs_execution_id on container_jobs (execution_id) where execution_id is not null;
create index container_jobs_line on container_jobs (executor_type, tenant_id, priority, id) where status = 'pending' and dispatched_at is null and parked_until is null;
create index container_jobs_limited on container_jobs (limit_id, priority desc, id) where status = 'pending' and limit_id is not null;
-- By time, because what looks at the windows again and again begins where something can be new. With the tenant behind it, so
-- that who counts one tenant's jobs passes the entries of others without their rows. It is no index for index-only scans: the
-- pages of these rows have always just been written.
create index container_jobs_window on container_jobs (executor_type, published_at, tenant_id) where status = 'pending' and dispatched_at is not null;
create index container_jobs_parked on container_jobs (executor_type, waiting_reason, priority desc, id) where status = 'pending' and parked_until is not null;
create index container_jobs_parked_until on container_jobs (parked_until) where status = 'pending' and parked_until is not null;
create index container_jobs_queue_deadline on container_jobs (queue_deadline_at) where status = 'pending' and queue_deadline_at is not null;
create index container_jobs_schedule_open on container_jobs (schedule_id) where schedule_id is not null and status in ('pending', 'running');
-- Written once, with the end, whose update changes indexed columns anyway: no update that was HOT becomes another.
create index container_jobs_ended on container_jobs (tenant_id, completed_at) where completed_at is not null;
-- By text, so that only the statements that count a backlog use it: to the planner every other index of the tenant looks
-- as good as the one of the lines, as long as its statistics are older than the backlog. And of num_nulls, so that those
-- statements are planned with no other index of what is parked, which has that of all tenants. Written where a job is parked,
-- which is never a HOT update; one that goes right from its line through the window never writes it.
create index container_jobs_waiting on container_jobs ((tenant_id::text), executor_type, waiting_reason) where status = 'pending' and num_nulls(parked_until) = 0;
comment on table container_jobs is 'A job and where it stands. Narrow: what is written once is in container_job_specs, what is large in container_executions.';
comment on column container_jobs.id is 'UUIDv7: sorts by admission.';
comment on column container_jobs.tenant_id is 'The owner.';
comment on column container_jobs.project_id is 'The project, of the same tenant.';
comment on column container_jobs.status is 'Where it stands.';
comment on column container_jobs.executor_type is 'Where it was routed.';
comment on column container_jobs.preferred_executor is 'What the producer asked for.';
comment on column container_jobs.priority is '-100 to 100; higher goes first.';
comment on column container_jobs.attempt is 'The last attempt that was created; 0 before the first.';
comment on column container_jobs.dispatch_sequence is 'Moves when the row enters the window and when it is released; a work message with another one is stale.';
comment on column container_jobs.publishes is 'How often the present sequence was published.';
comment on column container_jobs.user_retries is 'Retries that the user''s policy paid for.';
comment on column container_jobs.infrastructure_retries is 'Retries that the infrastructure budget paid for.';
comment on column container_jobs.waiting_reason is 'Stored while the row is parked, else computed when read.';
comment on column container_jobs.exit_code is 'Of the last attempt; null if there was none.';
comment on column container_jobs.failure_class is 'Why it did not complete.';
comment on column container_jobs.created_at is 'When it was accepted.';
comment on column container_jobs.parked_until is 'Not to be dispatched before; null when it may be.';
comment on column container_jobs.dispatched_at is 'Since when it is in the window; null outside.';
comment on column container_jobs.published_at is 'When its work message was last sent.';
comment on column container_jobs.queue_deadline_at is 'When waiting ends it.';
comment on column container_jobs.cancel_requested_at is 'When its end was asked for.';
comment on column container_jobs.started_at is 'When the container of the last attempt started.';
comment on column container_jobs.completed_at is 'When its end was recorded.';
comment on column container_jobs.executor_host_id is 'The host of the last attempt.';
comment on column container_jobs.limit_id is 'The limit for which it is parked.';
comment on column container_jobs.schedule_id is 'The schedule that made it; kept when that is gone.';
comment on column container_jobs.concurrency_key is 'Jobs of the tenant with the same key share a limit.';
comment on column container_jobs.template is 'The template it was made from; null for an inline spec.';
comment on column container_jobs.name is 'For people.';
comment on column container_jobs.routing_reason is 'Why it went to this executor type.';
comment on column container_jobs.idempotency_key is 'The key that the producer gave, if any.';
comment on column container_jobs.created_by is 'Who submitted it.';
comment on column container_jobs.execution_id is 'The backend''s identifier of the last attempt''s container.';
comment on column container_jobs.estimated_cost is 'What one run was expected to cost when it was last routed: the lowest price among the active hosts of its executor type over the mean time of its template''s latest completed runs, else over its timeout; null where there was no such host.';
comment on column container_jobs.actual_cost is 'Sum over its attempts, as far as their costs are known; null while none is.';
comment on column container_jobs.error_message is 'Why it did not complete, in words.';
comment on column container_jobs.waiting_detail is 'Detail of waiting_reason.';
comment on column container_jobs.error_details is 'Detail of the failure, as the executor gave it.';
comment on column container_jobs.executor_metadata is 'What the executor wants kept with the job.';
comment on column container_jobs.override_command is 'The command that replaced the template''s.';
comment on column container_jobs.override_environment is 'The variables laid over the template''s.';

-- By tenant first, so that a tenant's jobs are listed by this key, in the order of their ids. Here, because this row is written
-- once: on the job's own row each change of its state would write an entry. Whoever looks a spec up names its tenant too.
-- As json, not jsonb: it is written and read as a whole for every job, and looked into for few. To take it apart and put it
-- together again takes twice as long as to check it, and more room.
create table container_job_specs (
    job_id uuid not null,
    tenant_id uuid not null,
    spec json not null,
    routing json not null default '{}',
    primary key (tenant_id, job_id),
    constraint container_job_specs_routing_is_object check (json_typeof(routing) = 'object')
);
comment on table container_job_specs is 'The resolved spec of each job as submitted, written once, and its way, written again only when a place refuses it.';
comment on column container_job_specs.job_id is 'The job.';
comment on column container_job_specs.tenant_id is 'The owner.';
comment on column container_job_specs.spec is 'Template, layers and defaults resolved.';
comment on column container_job_specs.routing is 'Where it may ever run, who refused it in this round or for ever, and every decision with its candidates.';

create table idempotency_keys (
    tenant_id uuid not null,
    source idempotency_source not null,
    key text not null,
    body_hash bytea not null,
    job_id uuid not null,
    expires_at timestamptz not null,
    primary key (tenant_id, source, key)
);
create index idempotency_keys_expiry on idempotency_keys (expires_at);
comment on table idempotency_keys is 'Which submission made which job. Outlives the job.';
comment on column idempotency_keys.tenant_id is 'The tenant.';
comment on column idempotency_keys.source is 'Where the key came from.';
comment on column idempotency_keys.key is 'The key.';
comment on column idempotency_keys.body_hash is 'SHA-256 of the submission as received, as canonical JSON.';
comment on column idempotency_keys.job_id is 'The job it made; kept when the job is gone.';
comment on column idempotency_keys.expires_at is 'When the key may be used again.';

-- What ran ------------------------------------------------------------------------------------------------------
-- The length of a name is checked apart from its letters: a regular expression that counts costs thirteen times as much.
create table container_executions (
    job_id uuid not null,
    attempt integer not null,
    tenant_id uuid not null,
    epoch integer not null default 1,
    executor_host_id uuid not null,
    worker_id uuid not null,
    slot_held boolean not null default true,
    limits uuid[] not null default '{}',
    external_name text not null,
    execution_id text,
    claimed_at timestamptz not null default now(),
    prepare_began_at timestamptz,
    prepare_ended_at timestamptz,
    launch_sent_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    stop_reason stop_reason,
    abandoned_at timestamptz,
    abandoned_by text,
    abandoned_as abandon,
    exit_code integer,
    failure_class failure_class,
    retried_by retry_budget,
    error_message text,
    run_millis bigint,
    startup_millis bigint,
    max_memory_usage bigint,
    cpu_usage_percent double precision,
    cost numeric,
    logs_incomplete boolean not null default false,
    logs_expired_at timestamptz,
    logs_removed_at timestamptz,
    log_cursor text,
    log_sequence integer not null default 0,
    stdout_bytes bigint not null default 0,
    stderr_bytes bigint not null default 0,
    stdout_log text,
    stderr_log text,
    docker_log text,
    clean_output text,
    parsed_output jsonb,
    primary key (job_id, attempt),
    constraint container_executions_attempt_positive check (attempt > 0 and epoch > 0),
    constraint container_executions_name_shape check (external_name ~ '^[a-z][a-z0-9-]*$' and char_length(external_name) <= 48),
    constraint container_executions_execution_id_length check (char_length(execution_id) <= 255),
    constraint container_executions_prepare_began check (prepare_ended_at is null or prepare_began_at is not null),
    constraint container_executions_logs_leave_in_order check (logs_removed_at is null or (logs_expired_at is not null and ended_at is not null)),
    constraint container_executions_over_holds_nothing check (ended_at is null or not slot_held),
    constraint container_executions_abandoned_is_told check ((abandoned_at is null) = (abandoned_by is null) and (abandoned_at is null) = (abandoned_as is null))
) with (fillfactor = 70);
create index container_executions_owned on container_executions (worker_id) where ended_at is null;
create index container_executions_slots on container_executions (executor_host_id) where slot_held;
create index container_executions_abandoned on container_executions (abandoned_at) where abandoned_at is not null and ended_at is null;
create index container_executions_logs on container_executions (tenant_id, ended_at) where ended_at is not null and logs_removed_at is null;
comment on table container_executions is 'One try of a job. (job_id, attempt, epoch) is the fencing token of whoever runs it.';
comment on column container_executions.job_id is 'The job.';
comment on column container_executions.attempt is 'From 1.';
comment on column container_executions.tenant_id is 'The owner.';
comment on column container_executions.epoch is 'Raised by every adoption; a write with another epoch changes nothing.';
comment on column container_executions.executor_host_id is 'Where it runs.';
comment on column container_executions.worker_id is 'Who runs it.';
comment on column container_executions.slot_held is 'Whether it holds a slot of its host; released once, together with current_job_count.';
comment on column container_executions.limits is 'The limits that count it, for as long as it holds its slot.';
comment on column container_executions.external_name is 'The name of its container, derived from (fleet, job, attempt) and stored before the launch.';
comment on column container_executions.execution_id is 'The backend''s identifier, stored after the launch.';
comment on column container_executions.claimed_at is 'When it was claimed.';
comment on column container_executions.prepare_began_at is 'Since when its image is pulled, or whatever else its backend needs; null if it took no time worth telling.';
comment on column container_executions.prepare_ended_at is 'Until when.';
comment on column container_executions.launch_sent_at is 'Stored before the launch is sent: null means that certainly nothing was.';
comment on column container_executions.started_at is 'When its container was seen running.';
comment on column container_executions.ended_at is 'When its end was recorded.';
comment on column container_executions.stop_reason is 'Why its container was stopped; stored before the stop is asked for.';
comment on column container_executions.abandoned_at is 'When it was given up because its end can never be confirmed. Its worker lets go of it, and the dispatcher reports its end.';
comment on column container_executions.abandoned_by is 'Who gave it up: key: and the id of an API key, host lost, or on_lost.';
comment on column container_executions.abandoned_as is 'Whether the job may be tried again.';
comment on column container_executions.exit_code is 'Exit code; null for a failure of the infrastructure.';
comment on column container_executions.failure_class is 'Why it failed.';
comment on column container_executions.retried_by is 'The budget that paid for the next attempt; null if there was none.';
comment on column container_executions.error_message is 'Why it failed, in words.';
comment on column container_executions.run_millis is 'How long the container ran, by the backend''s own times.';
comment on column container_executions.startup_millis is 'From the launch request to running.';
comment on column container_executions.max_memory_usage is 'Bytes; null where there was no sample.';
comment on column container_executions.cpu_usage_percent is 'Mean, in percent of one CPU; null where there was no sample.';
comment on column container_executions.cost is 'By the host''s prices when its end was recorded: 0 if its container never started, null if the backend told no times.';
comment on column container_executions.logs_incomplete is 'Whether part of the log could not be stored.';
comment on column container_executions.logs_expired_at is 'From when its log and the excerpts of it are not there any more, because their time was over.';
comment on column container_executions.logs_removed_at is 'When the last chunk of its log was removed.';
comment on column container_executions.log_cursor is 'The backend''s cursor after the last stored chunk.';
comment on column container_executions.log_sequence is 'Chunks stored so far.';
comment on column container_executions.stdout_bytes is 'Bytes of stdout stored so far.';
comment on column container_executions.stderr_bytes is 'Bytes of stderr stored so far.';
comment on column container_executions.stdout_log is 'Excerpt of stdout.';
comment on column container_executions.stderr_log is 'Excerpt of stderr.';
comment on column container_executions.docker_log is 'What the backend itself said.';
comment on column container_executions.clean_output is 'Excerpt of stdout without terminal escapes.';
comment on column container_executions.parsed_output is 'stdout as JSON, or its last JSON line.';

create table container_log_chunks (
    job_id uuid not null,
    attempt integer not null,
    stream log_stream not null,
    byte_offset bigint not null,
    sequence integer not null,
    tenant_id uuid not null,
    data bytea not null,
    omitted_bytes bigint not null default 0,
    created_at timestamptz not null default now(),
    primary key (job_id, attempt, stream, byte_offset),
    constraint container_log_chunks_execution foreign key (job_id, attempt) references container_executions on delete cascade,
    constraint container_log_chunks_offset_not_negative check (byte_offset >= 0 and omitted_bytes >= 0)
);
create unique index container_log_chunks_sequence on container_log_chunks (job_id, attempt, sequence);
comment on table container_log_chunks is 'The log, whole up to the cap.';
comment on column container_log_chunks.job_id is 'The job.';
comment on column container_log_chunks.attempt is 'The attempt.';
comment on column container_log_chunks.stream is 'Which stream.';
comment on column container_log_chunks.byte_offset is 'Where in the stream it begins, bytes that were left out included.';
comment on column container_log_chunks.sequence is 'Its place in the order of both streams, from 1.';
comment on column container_log_chunks.tenant_id is 'The owner.';
comment on column container_log_chunks.data is 'The bytes.';
comment on column container_log_chunks.omitted_bytes is 'Bytes left out right before this chunk because of the cap.';
comment on column container_log_chunks.created_at is 'When it was stored.';

-- What containers print is compressed with lz4: as small as by the default, for a sixth of its CPU. A server may have been
-- built without it.
do $$
begin
    if exists (select from pg_settings where name = 'default_toast_compression' and 'lz4' = any (enumvals)) then
        alter table container_log_chunks alter column data set compression lz4;
        alter table container_executions
            alter column stdout_log set compression lz4,
            alter column stderr_log set compression lz4,
            alter column docker_log set compression lz4,
            alter column clean_output set compression lz4;
    end if;
end $$;

create table job_events (
    job_id uuid not null,
    sequence integer not null,
    tenant_id uuid not null,
    executor_type executor_type not null,
    kind text not null,
    data json not null,
    created_at timestamptz not null default now(),
    primary key (job_id, sequence),
    constraint job_events_kinds check (kind in ('started', 'retrying', 'completed', 'failed', 'timeout', 'cancelled'))
);
create unique index job_events_one_end on job_events (job_id) where kind in ('completed', 'failed', 'timeout', 'cancelled');
comment on table job_events is 'Public events, written once, in the transaction that they tell of.';
comment on column job_events.job_id is 'The job.';
comment on column job_events.sequence is 'Attempt times four plus the kind: grows with the events of a job. The public id is derived from it.';
comment on column job_events.tenant_id is 'The owner.';
comment on column job_events.executor_type is 'Part of the routing key.';
comment on column job_events.kind is 'started, retrying, or the terminal status.';
comment on column job_events.data is 'The data of the event.';
comment on column job_events.created_at is 'When it was written.';

-- What the path of a job refers to it has locked, or written, in the same transaction: a foreign key would look each of these
-- rows up once more. What is left to guard is the other side, where rows go.
create function gantry_job_takes_along() returns trigger language plpgsql as $$
begin
    delete from container_executions using gone where job_id = gone.id;
    delete from container_job_specs s using gone where s.tenant_id = gone.tenant_id and s.job_id = gone.id;
    delete from job_events using gone where job_id = gone.id;
    return null;
end $$;
comment on function gantry_job_takes_along() is 'What goes with a job.';
create trigger container_jobs_take_along after delete on container_jobs referencing old table as gone
    for each statement execute function gantry_job_takes_along();

create function gantry_keeps_history() returns trigger language plpgsql as $$
begin
    if exists (select from container_executions where executor_host_id in (select id from gone) or worker_id in (select id from gone)) then
        raise foreign_key_violation using message = format('rows of %s cannot be deleted: attempts name them', tg_table_name),
            hint = 'Delete the jobs first, or leave it: a host that takes no part any more is is_active = false.';
    end if;
    return null;
end $$;
comment on function gantry_keeps_history() is 'A host or a worker that an attempt names stays.';
create trigger executor_hosts_keep_history after delete on executor_hosts referencing old table as gone
    for each statement execute function gantry_keeps_history();
create trigger workers_keep_history after delete on workers referencing old table as gone
    for each statement execute function gantry_keeps_history();

-- Whoever deletes a project, or gives it another id or tenant, has waited for those who insert its jobs, and finds here what they
-- left. All jobs are read, because none is found by its project. A snapshot from before the wait would not show them.
create function gantry_keeps_projects() returns trigger language plpgsql as $$
declare
    vanished uuid[];
begin
    vanished := array(select g.id from gone g
        where not exists (select from projects p where p.id = g.id and p.tenant_id = g.tenant_id));
    if cardinality(vanished) = 0 then
        return null;
    end if;
    if current_setting('transaction_isolation') <> 'read committed' then
        raise invalid_transaction_state using message = 'a project leaves its id or its tenant only in a transaction that is read committed';
    end if;
    if exists (select from container_jobs where project_id = any (vanished)) then
        raise foreign_key_violation using message = 'projects cannot be deleted, nor given another id or tenant: jobs name them',
            hint = 'Delete the jobs first.';
    end if;
    return null;
end $$;
comment on function gantry_keeps_projects() is 'A project that a job names stays, and keeps its id and its tenant.';
create trigger projects_stay after delete on projects referencing old table as gone
    for each statement execute function gantry_keeps_projects();
create trigger projects_keep_their_tenant after update on projects referencing old table as gone
    for each statement execute function gantry_keeps_projects();

-- A row for each transaction, not for each event: that an event was published costs its job nothing.
create table outbox (
    id uuid primary key,
    jobs uuid[] not null,
    sequences integer[] not null,
    created_at timestamptz not null default now(),
    constraint outbox_names_events check (cardinality(jobs) > 0 and cardinality(jobs) = cardinality(sequences)
        and array_position(jobs, null) is null and array_position(sequences, null) is null)
);
create index outbox_created on outbox (created_at);
comment on table outbox is 'The events of a transaction that RabbitMQ has not confirmed yet; gone once it has.';
comment on column outbox.id is 'UUIDv7.';
comment on column outbox.jobs is 'The jobs of the events.';
comment on column outbox.sequences is 'Their sequences, in the same order.';
comment on column outbox.created_at is 'When they were written.';

-- Costs ---------------------------------------------------------------------------------------------------------
-- One row for a day and what is paid for, so that the costs of the past outlive its jobs and are answered at once. All
-- batches that change a row hold the lock of its host already: it adds nothing that anybody waits for. Without foreign keys
-- to what was paid for: a template or a host that nobody uses any more may be deleted, and what it cost stays.
create table cost_days (
    day date not null,
    tenant_id uuid not null references tenants,
    template uuid,
    executor_host_id uuid not null,
    executor_type executor_type not null,
    runs bigint not null,
    completed bigint not null,
    measured bigint not null,
    untimed bigint not null,
    run_millis bigint not null,
    measured_millis bigint not null,
    cost numeric not null,
    failed_cost numeric not null,
    estimated_cost numeric not null,
    constraint cost_days_counts check (runs >= completed and completed >= measured and measured >= 0 and untimed between 0 and runs),
    constraint cost_days_sums check (run_millis >= measured_millis and measured_millis >= 0 and cost >= failed_cost and failed_cost >= 0 and estimated_cost >= 0)
) with (fillfactor = 50);
-- In this order it also finds the latest days of a template.
create unique index cost_days_key on cost_days (tenant_id, template, day, executor_host_id, executor_type) nulls not distinct;
create index cost_days_tenant on cost_days (tenant_id, day);
create index cost_days_day on cost_days (day);
comment on table cost_days is 'What the attempts that ended on a day came to, added up in the transactions that ended them. Never removed.';
comment on column cost_days.day is 'The day in UTC on which the ends were recorded.';
comment on column cost_days.tenant_id is 'The owner of the jobs.';
comment on column cost_days.template is 'Their template, kept when it is gone; null for inline specs.';
comment on column cost_days.executor_host_id is 'Where they ran; kept when it is gone.';
comment on column cost_days.executor_type is 'Where their jobs were routed.';
comment on column cost_days.runs is 'Attempts that ended.';
comment on column cost_days.completed is 'Those of them that completed.';
comment on column cost_days.measured is 'Those of the completed whose backend told how long they ran.';
comment on column cost_days.untimed is 'Attempts that were launched and whose backend told no times: no sum has them.';
comment on column cost_days.run_millis is 'How long the attempts ran together.';
comment on column cost_days.measured_millis is 'How long the measured ones ran together.';
comment on column cost_days.cost is 'What the attempts cost together.';
comment on column cost_days.failed_cost is 'The part of it that those cost which did not complete.';
comment on column cost_days.estimated_cost is 'What the jobs that ended with one of the attempts had been expected to cost.';

-- All tenants are for operators, who pay for the hosts: by tenant and host, and no finer. In two branches, of which one
-- is never run: a condition for both would read the days of everybody.
create function gantry_costs(everyone boolean, first_day date, last_day date)
    returns table (tenant uuid, tenant_name text, host uuid, host_name text, executor executor_type, runs bigint, completed bigint, untimed bigint, run_millis bigint, cost numeric, failed_cost numeric, estimated_cost numeric)
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$
        select t.id, t.name, c.executor_host_id, coalesce(h.name, ''), c.executor_type, c.runs, c.completed, c.untimed, c.run_millis, c.cost,
            c.failed_cost, c.estimated_cost
        from (
            select d.tenant_id, d.executor_host_id, d.executor_type, sum(d.runs)::bigint as runs,
                sum(d.completed)::bigint as completed, sum(d.untimed)::bigint as untimed,
                sum(d.run_millis)::bigint as run_millis, sum(d.cost) as cost, sum(d.failed_cost) as failed_cost,
                sum(d.estimated_cost) as estimated_cost
            from (
                select * from public.cost_days
                where tenant_id = public.gantry_tenant() and day between first_day and last_day and not everyone
                union all
                select * from public.cost_days
                where day between first_day and last_day and everyone and public.gantry_is_operator()
            ) d group by d.tenant_id, d.executor_host_id, d.executor_type
        ) c join public.tenants t on t.id = c.tenant_id left join public.executor_hosts h on h.id = c.executor_host_id
    $$;
comment on function gantry_costs(boolean, date, date) is 'Costs by tenant, host and executor type: of the tenant of this transaction, or for an operator of everyone.';
revoke execute on function gantry_costs(boolean, date, date) from public;
grant execute on function gantry_costs(boolean, date, date) to gantry_api, gantry_fleet;

-- What people decided -------------------------------------------------------------------------------------------
create table audit_log (
    id uuid primary key,
    tenant_id uuid not null references tenants,
    actor text not null,
    action text not null,
    subject text not null,
    detail jsonb not null default '{}',
    created_at timestamptz not null default now(),
    constraint audit_log_actions check (action in ('host_activated', 'host_cordoned', 'host_drained', 'host_lost', 'host_limited', 'limit_set', 'job_abandoned', 'letters_replayed', 'letters_dropped', 'bulk_started', 'bulk_stopped'))
);
create index audit_log_tenant on audit_log (tenant_id, id);
comment on table audit_log is 'What operators did that gives a promise up or steers the fleet: written in the transaction that did it, never changed.';
comment on column audit_log.id is 'UUIDv7.';
comment on column audit_log.tenant_id is 'The tenant of whoever did it.';
comment on column audit_log.actor is 'Who: key: and the id of the API key.';
comment on column audit_log.action is 'What.';
comment on column audit_log.subject is 'The id of the host or job, or of the request about dead letters.';
comment on column audit_log.detail is 'What else is worth knowing.';
comment on column audit_log.created_at is 'When.';

-- Schedules -------------------------------------------------------------------------------------------------------
-- Submissions that Gantry makes itself, when a calendar says so.

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

-- Dead letters ----------------------------------------------------------------------------------------------------
-- What could not be processed: taken out of the queue gantry.dead, kept until it is replayed, dropped or too old.

create type dead_letter_state as enum ('waiting', 'replaying', 'replayed', 'dropped');
comment on type dead_letter_state is 'waiting: for somebody to decide. replaying: asked for, and not done yet. replayed: handed over again. dropped: not wanted any more.';

create table dead_letters (
    id uuid primary key,
    letter_key bytea not null,
    tenant_id uuid references tenants,
    state dead_letter_state not null default 'waiting',
    origin text not null,
    queue text,
    reason text not null,
    detail text not null default '',
    message_id text,
    content_type text,
    headers jsonb not null default '{}',
    body bytea not null,
    body_bytes bigint not null,
    arrivals integer not null default 1,
    received_at timestamptz not null default now(),
    last_received_at timestamptz not null default now(),
    request_id uuid,
    replay_at timestamptz,
    replayed_by text,
    replays integer not null default 0,
    replayed_at timestamptz,
    replayed_as uuid,
    replay_problem text,
    dropped_at timestamptz,
    constraint dead_letters_key_is_sha256 check (octet_length(letter_key) = 32),
    constraint dead_letters_headers_are_an_object check (jsonb_typeof(headers) = 'object'),
    constraint dead_letters_body_is_bounded check (octet_length(body) <= 1048576 and body_bytes >= octet_length(body)),
    constraint dead_letters_counts check (arrivals > 0 and replays >= 0),
    constraint dead_letters_replaying_is_due check ((state = 'replaying') = (replay_at is not null)),
    constraint dead_letters_replaying_is_asked_for check (state <> 'replaying' or (replayed_by is not null and request_id is not null)),
    constraint dead_letters_replayed_is_dated check (state <> 'replayed' or replayed_at is not null),
    constraint dead_letters_dropped_is_dated check ((state = 'dropped') = (dropped_at is not null))
);
create unique index dead_letters_key on dead_letters (letter_key);
create index dead_letters_tenant on dead_letters (tenant_id, state, id);
create index dead_letters_due on dead_letters (replay_at) where state = 'replaying';
create index dead_letters_age on dead_letters (tenant_id, last_received_at);
create index dead_letters_request on dead_letters (request_id, id) where request_id is not null;
comment on table dead_letters is 'Messages that could not be processed, without credentials. The same message again is the same row.';
comment on column dead_letters.id is 'UUIDv7: sorts by first arrival.';
comment on column dead_letters.letter_key is 'SHA-256 of where it was, whose it is, its message_id and its body: what comes again is no second letter.';
comment on column dead_letters.tenant_id is 'Whose it is; null where that is not known, and then only operators see it.';
comment on column dead_letters.state is 'What has become of it.';
comment on column dead_letters.origin is 'The part that gave up on it, or rabbitmq.';
comment on column dead_letters.queue is 'The queue that it was in, without the fleet''s prefix; null where that is not known.';
comment on column dead_letters.reason is 'Why, for programs: the code of a problem, invalid_message, poison_report or delivery_limit. Of the last arrival.';
comment on column dead_letters.detail is 'Why, for people.';
comment on column dead_letters.message_id is 'Its property message_id.';
comment on column dead_letters.content_type is 'Its property content_type.';
comment on column dead_letters.headers is 'Its headers that are text or numbers, without credentials and without those that say the above.';
comment on column dead_letters.body is 'Its body, or the first MiB of it.';
comment on column dead_letters.body_bytes is 'Length of the whole body, in bytes.';
comment on column dead_letters.arrivals is 'How often it came.';
comment on column dead_letters.received_at is 'When it came first.';
comment on column dead_letters.last_received_at is 'When it came last.';
comment on column dead_letters.request_id is 'The last request to replay or drop it: the subject of its entry in audit_log.';
comment on column dead_letters.replay_at is 'When it is replayed; while somebody does that, when another may try.';
comment on column dead_letters.replayed_by is 'Who asked for its last replay: key: and the id of the API key.';
comment on column dead_letters.replays is 'How often it was replayed, refusals included.';
comment on column dead_letters.replayed_at is 'When it was last handed over.';
comment on column dead_letters.replayed_as is 'The job that it made or had made before; null for what is no submission.';
comment on column dead_letters.replay_problem is 'Why its last replay was refused; null if it was not.';
comment on column dead_letters.dropped_at is 'When it was dropped.';

-- Why -----------------------------------------------------------------------------------------------------------
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

-- Overview --------------------------------------------------------------------------------------------------------
-- What shows the whole of a tenant's work at a glance.


-- Bounded, whatever the length of the lines: of each executor type and reason at most most + 1 jobs are counted, and of the
-- windows, which are bounded, the entries of others are passed. Each part says the predicate of one index as it stands there,
-- and of no other. A function of the owner for the same reason as gantry_line.
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
                  and j.status = 'pending' and num_nulls(j.parked_until) = 0 limit most + 1) r)
            from unnest(enum_range(null::public.executor_type)) as e(e)
            cross join unnest(enum_range(null::public.waiting_reason)) as w(w)
        ) backlog (executor, reason, jobs)
        where jobs > 0 and own = coalesce(public.gantry_tenant(), own)
    $$;
comment on function gantry_backlog(uuid, integer) is 'How many jobs of a tenant wait, by executor type and by the reason that is stored: null for those in line, dispatching for those in the window. Of each at most one more than asked for.';
revoke execute on function gantry_backlog(uuid, integer) from public;
grant execute on function gantry_backlog(uuid, integer) to gantry_api, gantry_fleet;

-- The same as one number, for a tenant's cap: its pending jobs, and at most so many. Each of them is in line, parked or in the
-- window, and all three have an index anyway: one over all that is pending would be written with every job that comes and once
-- more when it enters the window. The window comes last: only there the entries of others are passed, and who has reached the
-- cap before needs none of it.
create function gantry_waiting(own uuid, most integer) returns bigint
    language sql stable security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off
    as $$
        select count(*) from (
            select 1 from unnest(enum_range(null::public.executor_type)) as e(e) cross join lateral (
                select 1 from public.container_jobs j
                where j.executor_type = e.e and j.tenant_id = own
                  and j.status = 'pending' and j.dispatched_at is null and j.parked_until is null limit most) r
            union all
            select 1 from (
                select 1 from public.container_jobs j
                where j.tenant_id::text = own::text and j.status = 'pending' and num_nulls(j.parked_until) = 0 limit most) r
            union all
            select 1 from unnest(enum_range(null::public.executor_type)) as e(e) cross join lateral (
                select 1 from public.container_jobs j
                where j.executor_type = e.e and j.tenant_id = own
                  and j.status = 'pending' and j.dispatched_at is not null limit most) r
            limit most
        ) waiting
        where own = coalesce(public.gantry_tenant(), own)
    $$;
comment on function gantry_waiting(uuid, integer) is 'How many jobs of a tenant wait, up to a number.';
revoke execute on function gantry_waiting(uuid, integer) from public;
grant execute on function gantry_waiting(uuid, integer) to gantry_api, gantry_fleet;

-- Who may see what ----------------------------------------------------------------------------------------------
grant usage on schema public to gantry_fleet, gantry_api;
grant execute on function gantry_tenant(), gantry_is_operator() to gantry_fleet, gantry_api;
grant select, insert, update, delete on all tables in schema public to gantry_fleet;
revoke insert, update, delete on fleet from gantry_fleet;
revoke update, delete on audit_log, bulk_changes from gantry_fleet;
revoke delete on cost_days from gantry_fleet;

grant select on fleet, tenants, projects, limits, executor_hosts, workers, environment_variable_templates, container_templates, container_jobs, container_job_specs, idempotency_keys, container_executions, container_log_chunks, job_events, audit_log, cost_days to gantry_api;
-- Not the detail: it may name addresses of other tenants' hosts.
grant select (worker_id, executor_host_id, healthy, failures, unhealthy_since) on worker_hosts to gantry_api;
grant insert, update on container_jobs, executor_hosts, limits, environment_variable_templates, container_templates to gantry_api;
-- For the lock on a job's project (for key share) alone: nothing of it is written.
grant update (created_at) on projects to gantry_api;
-- To give back the key of a submission that is refused after all.
grant delete on idempotency_keys to gantry_api;
-- To let a new limit count what runs already.
grant update (limits) on container_executions to gantry_api;
grant insert on container_job_specs, idempotency_keys, job_events, outbox, audit_log to gantry_api;
-- To give an attempt up, and nothing else.
grant update (epoch, abandoned_at, abandoned_by, abandoned_as) on container_executions to gantry_api;

alter table tenants enable row level security;
alter table tenants force row level security;
create policy fleet on tenants to gantry_fleet using (true) with check (true);
create policy tenant on tenants to gantry_api using (id = gantry_tenant());

alter table executor_hosts enable row level security;
alter table executor_hosts force row level security;
create policy fleet on executor_hosts to gantry_fleet using (true) with check (true);
create policy seen on executor_hosts for select to gantry_api using (tenant_id is null or tenant_id = gantry_tenant());
create policy managed on executor_hosts to gantry_api
    using (gantry_is_operator() and (tenant_id is null or tenant_id = gantry_tenant()))
    with check (gantry_is_operator() and (tenant_id is null or tenant_id = gantry_tenant()));

do $$
declare
    name text;
begin
    foreach name in array array['projects', 'limits', 'environment_variable_templates', 'container_templates', 'container_jobs',
        'container_job_specs', 'idempotency_keys', 'container_executions', 'container_log_chunks', 'job_events', 'audit_log',
        'schedules', 'schedule_runs', 'bulk_operations', 'bulk_changes', 'cost_days']
    loop
        execute format('alter table %I enable row level security', name);
        execute format('alter table %I force row level security', name);
        execute format('create policy fleet on %I to gantry_fleet using (true) with check (true)', name);
        execute format('create policy tenant on %I to gantry_api using (tenant_id = gantry_tenant()) with check (tenant_id = gantry_tenant())', name);
    end loop;
    -- Only the fleet reads keys; the API asks gantry_authenticate, which runs as the owner.
    execute 'alter table api_keys enable row level security';
    execute 'create policy fleet on api_keys to gantry_fleet using (true) with check (true)';
end $$;

-- Whatever a handler forgets: no job of the api's names another tenant's project.
create policy project on container_jobs as restrictive to gantry_api with check (exists (
    select from projects p where p.id = container_jobs.project_id and p.tenant_id = container_jobs.tenant_id));

-- Only the fleet reads it: it names jobs of all tenants. Whoever inserts a row must see the jobs that it names.
alter table outbox enable row level security;
alter table outbox force row level security;
create policy fleet on outbox to gantry_fleet using (true) with check (true);
create policy written on outbox for insert to gantry_api with check (not exists (
    select from unnest(jobs) as n(job_id)
    where not exists (select from container_jobs j where j.id = n.job_id and j.tenant_id = gantry_tenant())));

grant select, insert, delete on schedules, schedule_runs to gantry_api;
grant update (cron, time_zone, submission, missed, overlap, revision, paused_at, next_due_at, last_job_id, created_by, updated_at) on schedules to gantry_api;

grant select on dead_letters to gantry_api;
grant update (state, request_id, replay_at, replayed_by, replay_problem, dropped_at) on dead_letters to gantry_api;

alter table dead_letters enable row level security;
alter table dead_letters force row level security;
create policy fleet on dead_letters to gantry_fleet using (true) with check (true);
create policy tenant on dead_letters to gantry_api
    using (tenant_id = gantry_tenant() or (tenant_id is null and gantry_is_operator()))
    with check (tenant_id = gantry_tenant() or (tenant_id is null and gantry_is_operator()));

grant select, insert on bulk_operations to gantry_api;
-- To stop one, and nothing else.
grant update (state, finished_at) on bulk_operations to gantry_api;
grant select on bulk_changes to gantry_api;

-- The functions that tell of lines and hosts run as the owner of the schema, which row-level security holds too unless it
-- is a superuser.
create policy owner on tenants for select to current_user using (true);
create policy owner on container_jobs for select to current_user using (true);
-- For gantry_costs.
create policy owner on cost_days for select to current_user using (true);
-- For gantry_host_detail.
create policy owner on executor_hosts for select to current_user using (true);
-- For the guards of hosts and workers, whoever deletes them.
create policy owner on container_executions for select to current_user using (true);
