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

-- Who may see what ----------------------------------------------------------------------------------------------
grant select, insert, update, delete on dead_letters to gantry_fleet;
grant select on dead_letters to gantry_api;
grant update (state, request_id, replay_at, replayed_by, replay_problem, dropped_at) on dead_letters to gantry_api;

alter table dead_letters enable row level security;
alter table dead_letters force row level security;
create policy fleet on dead_letters to gantry_fleet using (true) with check (true);
create policy tenant on dead_letters to gantry_api
    using (tenant_id = gantry_tenant() or (tenant_id is null and gantry_is_operator()))
    with check (tenant_id = gantry_tenant() or (tenant_id is null and gantry_is_operator()));
