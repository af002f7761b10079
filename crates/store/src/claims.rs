//! The claim: one short transaction in which a worker takes dispatched jobs, under the locks of the hosts that run them.

mod hosts;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use gantry_core::limits::{Book, Kind, Traits};
use gantry_core::message::{Token, WorkItem};
use gantry_core::placement::{self, Candidate, Place, Unplaced};
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::{self, Event, Next};
use gantry_core::{
    ExecutorType, Failure, FailureClass, FleetId, HostId, JobId, LimitId, Status, TenantId, WorkerId, naming,
};
use serde_json::value::RawValue;
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::{Error, Result, parse};
use crate::queue::{self, Waiting};
use crate::tx::Store;
use crate::{limits, lines};

use hosts::Which;

/// How long a row stays parked if nothing frees it sooner, in seconds.
const PARK_SECONDS: f64 = 5.0;

/// Who claims what.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The claiming worker.
    pub worker: WorkerId,
    /// Its fleet, for the external names.
    pub fleet: FleetId,
    /// Its executor type.
    pub executor: ExecutorType,
    /// The hosts that it serves now.
    pub hosts: &'a [HostId],
    /// The work, best first.
    pub items: &'a [WorkItem],
    /// Whether no other worker takes work of this executor type, as far as is known: then nobody is expected to take what these
    /// hosts have free, and of many none is locked before it gets a job.
    pub alone: bool,
    /// Whether `launch_sent_at` is stored right here: cheaper, and harmless where a launch under one name is
    /// idempotent for as long as its container exists.
    pub launch_follows: bool,
}

/// A job that this worker owns now.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The fencing token.
    pub token: Token,
    /// Its tenant.
    pub tenant: TenantId,
    /// Where it goes.
    pub host: HostId,
    /// The name of its container.
    pub external_name: String,
    /// What to run.
    pub spec: ResolvedSpec,
}

/// How long a job waited for its claim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wait {
    /// Since it was accepted; none for a further attempt.
    pub since_submission: Option<Duration>,
    /// Since it entered the window.
    pub since_dispatch: Duration,
}

/// What a claim did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The jobs that are ours.
    pub claimed: Vec<Claimed>,
    /// How long each of them has waited.
    pub waits: Vec<Wait>,
    /// Rows that found no place: parked, or left for another live worker.
    pub unplaced: usize,
    /// Those of them that were parked, by reason.
    pub released: HashMap<String, usize>,
    /// Items that no row answers to any more: claimed by another, cancelled, released.
    pub stale: usize,
}

/// Claims what can be placed, in the order of the items, and releases the rest.
pub async fn claim(store: &Store, request: &Request<'_>) -> Result<Outcome> {
    let (mut which, mut with_limits) = (Which::Chosen, false);
    loop {
        match store.run("claims::claim", || claim_once(store, request, which, with_limits)).await? {
            Ok(outcome) => return Ok(outcome),
            // Rolled back: to lock more beside what it had would break the order of locks.
            Err(TooLittle::Hosts) => which = Which::All,
            Err(TooLittle::Limits) => with_limits = true,
        }
    }
}

/// What was not locked and should have been.
enum TooLittle {
    /// The chosen hosts are too few: only who holds all of them may say that they are full.
    Hosts,
    /// A job has a concurrency key, which is a limit, also while it has no row.
    Limits,
}

async fn claim_once(
    store: &Store,
    request: &Request<'_>,
    which: Which,
    with_limits: bool,
) -> Result<std::result::Result<Outcome, TooLittle>> {
    let (mut tx, is_limited) = store.begin_claim("claims::claim", request.worker).await?;
    // Where there is none nobody looks for those of each job; one of a key may come into being right now, but only who has a key is
    // counted by it.
    let with_limits = with_limits || is_limited;
    let limits = if with_limits {
        limits::lock(&mut tx, &request.items.iter().map(|item| item.job.uuid()).collect::<Vec<_>>()).await?
    } else {
        Book::default()
    };
    let waiting = lock_jobs(&mut tx, request.executor, request.items).await?;
    if !with_limits && waiting.iter().any(|waits| waits.candidate.traits.key.is_some()) {
        tx.leave().await?;
        return Ok(Err(TooLittle::Limits));
    }
    let stale = request.items.len() - waiting.len();
    let (candidates, rest): (Vec<_>, Vec<_>) = waiting.into_iter().map(|w| (w.candidate, w.rest)).unzip();
    // Last: every claim and every end of a host waits for whoever has its row.
    let (slots, which) = hosts::lock(&mut tx, request, &candidates, &limits, which).await?;
    let places = placement::place(&candidates, &slots, which.spread(), limits);
    if which == Which::Chosen && candidates.iter().zip(&places).any(|(job, place)| is_makeshift(job, place)) {
        tx.leave().await?;
        return Ok(Err(TooLittle::Hosts));
    }

    let mut placed = Vec::with_capacity(places.len());
    let mut unplaced = Vec::new();
    let mut waits = Vec::with_capacity(places.len());
    let mut specs = Vec::with_capacity(places.len());
    let mut unreadable = Vec::new();
    for ((candidate, Rest { attempt, wait, spec }), place) in candidates.into_iter().zip(rest).zip(places) {
        match (place, spec) {
            (Ok(Place { host, limits }), Some(spec)) => {
                placed.push(Placed { job: candidate.id, tenant: candidate.traits.tenant, attempt, host, limits });
                waits.push(wait);
                specs.push(spec);
            }
            // It ends its job alone.
            (Ok(_), None) => unreadable.push(candidate.id.uuid()),
            (Err(why), _) => unplaced.push((candidate.id, why)),
        }
    }
    if !unreadable.is_empty() {
        end_unreadable(&mut tx, &unreadable).await?;
    }
    let Some(claimed) = take(&mut tx, request, &placed, specs).await? else {
        tx.leave().await?;
        return match which {
            Which::Chosen => Ok(Err(TooLittle::Hosts)),
            // They are as they were locked.
            Which::All => Err(Error::Corrupt { column: "executor_hosts", value: "a locked host without room".into() }),
        };
    };
    let released = if unplaced.is_empty() { HashMap::new() } else { release(&mut tx, request, &unplaced).await? };
    tx.commit().await?;
    Ok(Ok(Outcome { claimed, waits, unplaced: unplaced.len(), released, stale }))
}

/// Whether the job may have a better place among the hosts that were not chosen: it has none, or the one that it avoids.
fn is_makeshift(job: &Candidate, place: &std::result::Result<Place, Unplaced>) -> bool {
    match place {
        Ok(place) => job.avoid == Some(place.host),
        Err(Unplaced::Full | Unplaced::NoHost) => true,
        Err(Unplaced::Limited(..)) => false,
    }
}

/// A job that found its place.
struct Placed {
    job: JobId,
    tenant: TenantId,
    attempt: i32,
    host: HostId,
    limits: Vec<LimitId>,
}

/// A job that waits for its claim.
struct Waits {
    candidate: Candidate,
    rest: Rest,
}

/// What its placement does not ask for.
struct Rest {
    attempt: i32,
    wait: Wait,
    /// None if this version cannot read it.
    spec: Option<ResolvedSpec>,
}

/// The items whose row still waits for exactly this claim, in the order of the items.
async fn lock_jobs(tx: &mut sqlx::PgConnection, executor: ExecutorType, items: &[WorkItem]) -> Result<Vec<Waits>> {
    // In the order of their ids, each once: so they are locked.
    let sorted: BTreeSet<(Uuid, i32, i32)> =
        items.iter().map(|item| (item.job.uuid(), item.attempt, item.sequence)).collect();
    let ids: Vec<Uuid> = sorted.iter().map(|(id, ..)| *id).collect();
    let attempts: Vec<i32> = sorted.iter().map(|(_, attempt, _)| *attempt).collect();
    let sequences: Vec<i32> = sorted.iter().map(|(.., sequence)| *sequence).collect();
    // Of this executor type: a message that stayed in the queue of the place that refused its job claims nothing.
    // The status as text, so that no partial index of pending rows serves for it: statistics from a quiet hour call those
    // empty, and each claim would pass the whole window instead of looking its rows up by their ids. Row by row, jobs and specs:
    // a join may be planned as a read of the whole table, as long as that seems to be small. The name of the type is read once.
    let rows = sqlx::query!(
        r#"/* claims::lock_jobs */
        select j.id, j.tenant_id, extract(epoch from now() - j.created_at)::float8 as "submitted!",
            extract(epoch from now() - j.dispatched_at)::float8 as "dispatched!", j.executor_host_id, j.failure_class::text,
            j.template, j.concurrency_key, s.spec as "spec?: Json<Box<RawValue>>"
        from unnest($1::uuid[], $2::int[], $3::int[]) as w(id, attempt, sequence)
        cross join lateral (
            select id, tenant_id, created_at, dispatched_at, executor_host_id, failure_class, template, concurrency_key
            from container_jobs
            where id = w.id and status::text = 'pending' and dispatched_at is not null
              and attempt = w.attempt - 1 and dispatch_sequence = w.sequence and executor_type = (select $4::text::executor_type)
            for no key update) j
        left join lateral (
            select spec from container_job_specs where tenant_id = j.tenant_id and job_id = j.id offset 0) s on true"#,
        &ids,
        &attempts,
        &sequences,
        executor.as_str()
    )
    .fetch_all(&mut *tx)
    .await?;
    // A clock that was set back is no reason to fail.
    let ago = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let mut found: HashMap<JobId, (Candidate, Duration, Duration, Option<ResolvedSpec>)> = rows
        .into_iter()
        .map(|row| {
            // The class of the attempt before, and its host.
            let class = row.failure_class.as_deref().and_then(|class| class.parse::<FailureClass>().ok());
            let failed_there = class.is_some_and(FailureClass::is_infrastructure);
            let avoid = row.executor_host_id.filter(|_| failed_there).map(Into::into);
            let traits = Traits {
                tenant: row.tenant_id.into(),
                template: row.template.map(Into::into),
                key: row.concurrency_key,
            };
            let candidate = Candidate { id: row.id.into(), traits, avoid };
            let spec = row.spec.and_then(|spec| serde_json::from_str(spec.get()).ok());
            (candidate.id, (candidate, ago(row.submitted), ago(row.dispatched), spec))
        })
        .collect();
    // `remove`: an item that is listed twice is one candidate.
    Ok(items
        .iter()
        .filter_map(|item| {
            let (candidate, submitted, since_dispatch, spec) = found.remove(&item.job)?;
            let wait = Wait { since_submission: (item.attempt == 1).then_some(submitted), since_dispatch };
            Some(Waits { candidate, rest: Rest { attempt: item.attempt, wait, spec } })
        })
        .collect())
}

async fn end_unreadable(tx: &mut sqlx::PgConnection, ids: &[Uuid]) -> Result<()> {
    let rows = sqlx::query!(
        r#"/* claims::end_unreadable */
        select id, tenant_id, name, executor_type::text as "executor_type!", attempt from container_jobs where id = any($1)"#,
        ids
    )
    .fetch_all(&mut *tx)
    .await?;
    let failure =
        Failure::new(FailureClass::InvalidSpec, "the stored spec cannot be read by this version of the worker");
    let mut ended = Vec::with_capacity(rows.len());
    for row in rows {
        let waiting = Waiting {
            job: row.id.into(),
            tenant: row.tenant_id.into(),
            name: row.name,
            executor: parse("executor_type", &row.executor_type)?,
            attempt: row.attempt,
        };
        if let Ok(Next::End { status, failure }) = state::next(Status::Pending, &Event::Unrunnable(failure.clone())) {
            ended.push(waiting.ended(status, failure));
        }
    }
    queue::end_pending(tx, &ended).await
}

/// Writes that the jobs run. None, and the transaction must be left, if a host has no room for what was placed there: it was not
/// locked, and is not any more what it was when it was read.
///
/// Whoever moves several hosts goes by their ids, here and in the recorder: from a sorted list each row is looked up by its key,
/// and nothing else can be planned, because an array of one is neither hashed nor merged, and a value is no condition of an index.
async fn take(
    tx: &mut sqlx::PgConnection,
    request: &Request<'_>,
    placed: &[Placed],
    specs: Vec<ResolvedSpec>,
) -> Result<Option<Vec<Claimed>>> {
    if placed.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let names: Vec<String> = placed.iter().map(|p| naming::external_name(request.fleet, p.job, p.attempt)).collect();
    let ids: Vec<Uuid> = placed.iter().map(|p| p.job.uuid()).collect();
    let attempts: Vec<i32> = placed.iter().map(|p| p.attempt).collect();
    let hosts: Vec<Uuid> = placed.iter().map(|p| p.host.uuid()).collect();
    // An array of arrays must be rectangular: one row for each pair.
    let (counted, limits): (Vec<Uuid>, Vec<Uuid>) =
        placed.iter().flat_map(|p| p.limits.iter().map(|limit| (p.job.uuid(), limit.uuid()))).unzip();
    let taken = sqlx::query!(
        "/* claims::take */
        with p as (
            select * from unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[]) as p(id, attempt, host, name)
        ), c as (
            select * from unnest($7::uuid[], $8::uuid[]) as c(id, limit_id)
        ), j as (
            update container_jobs c
            set status = 'running', attempt = p.attempt, executor_host_id = p.host,
                dispatched_at = null, published_at = null, publishes = 0, waiting_reason = null, waiting_detail = null,
                queue_deadline_at = null, execution_id = null, started_at = null, exit_code = null,
                failure_class = null, error_message = null
            from p where c.id = p.id returning c.id, c.tenant_id, p.attempt, p.host, p.name
        ), e as (
            insert into container_executions (job_id, attempt, tenant_id, executor_host_id, worker_id, external_name, launch_sent_at, limits)
            select j.id, j.attempt, j.tenant_id, j.host, $5, j.name, case when $6 then now() end,
                array(select c.limit_id from c where c.id = j.id)
            from j
        ), l as (
            update limits l set running = l.running + n.jobs
            from (select limit_id, count(*)::int as jobs from c group by limit_id) n where l.id = n.limit_id
        )
        update executor_hosts h set current_job_count = h.current_job_count + n.jobs
        from (select host, count(*)::int as jobs from p group by host order by host offset 0) n
        where h.id = any(array[n.host]) and (h.is_active and h.state = 'active') is true
          and h.current_job_count + n.jobs <= h.max_concurrent_jobs",
        &ids,
        &attempts,
        &hosts,
        &names,
        request.worker.uuid(),
        request.launch_follows,
        &counted,
        &limits
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let hosts: HashSet<HostId> = placed.iter().map(|p| p.host).collect();
    if taken < hosts.len() as u64 {
        return Ok(None);
    }
    let claimed = placed.iter().zip(names).zip(specs).map(|((placed, external_name), spec)| Claimed {
        token: Token { job: placed.job, attempt: placed.attempt, epoch: 1 },
        tenant: placed.tenant,
        host: placed.host,
        external_name,
        spec,
    });
    Ok(Some(claimed.collect()))
}

/// Parks what a limit holds back, and what no other live worker can serve either; what one can stays dispatched for it.
/// Returns how many it parked for which reason.
async fn release(
    tx: &mut sqlx::PgConnection,
    request: &Request<'_>,
    unplaced: &[(JobId, Unplaced)],
) -> Result<HashMap<String, usize>> {
    let ids: Vec<Uuid> = unplaced.iter().map(|(job, _)| job.uuid()).collect();
    let full: Vec<bool> = unplaced.iter().map(|(_, why)| *why == Unplaced::Full).collect();
    let limited = |why: &Unplaced| match why {
        Unplaced::Limited(kind, limit) => Some((*kind, *limit)),
        Unplaced::Full | Unplaced::NoHost => None,
    };
    let limits: Vec<Option<Uuid>> = unplaced.iter().map(|(_, why)| limited(why).map(|(_, id)| id.uuid())).collect();
    let reasons: Vec<Option<String>> =
        unplaced.iter().map(|(_, why)| limited(why).map(|(kind, _)| reason(kind))).collect();
    let served: Vec<Uuid> = request.hosts.iter().map(|host| host.uuid()).collect();
    let rows = sqlx::query!(
        r#"/* claims::release */
        update container_jobs j
        set dispatched_at = null, published_at = null, publishes = 0, dispatch_sequence = dispatch_sequence + 1,
            parked_until = now() + make_interval(secs => case when u.limit_id is null then $5::float8 else $8::float8 end),
            limit_id = u.limit_id,
            waiting_reason = case
                when u.limit_id is not null then u.reason::waiting_reason
                when u.is_full then 'host_full'::waiting_reason
                when not exists (select 1 from executor_hosts h where h.executor_type = j.executor_type
                    and (h.tenant_id is null or h.tenant_id = j.tenant_id)) then 'no_host'
                when not exists (select 1 from executor_hosts h where h.executor_type = j.executor_type
                    and (h.tenant_id is null or h.tenant_id = j.tenant_id) and h.is_active and h.state = 'active') then 'host_unavailable'
                else 'no_worker' end
        from unnest($1::uuid[], $2::bool[], $6::uuid[], $7::text[]) as u(id, is_full, limit_id, reason)
        where j.id = u.id and (u.limit_id is not null or not exists (
            select 1 from executor_hosts h
            join worker_hosts wh on wh.executor_host_id = h.id and wh.healthy
            join workers w on w.id = wh.worker_id and w.state = 'alive'
                and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)
            where w.id <> $3 and h.executor_type = j.executor_type and not (h.id = any($4))
              and h.is_active and h.state = 'active' and h.current_job_count < h.max_concurrent_jobs
              and (h.tenant_id is null or h.tenant_id = j.tenant_id)))
        returning j.waiting_reason::text as "reason!""#,
        &ids,
        &full,
        request.worker.uuid(),
        &served,
        PARK_SECONDS,
        &limits as &[Option<Uuid>],
        &reasons as &[Option<String>],
        lines::LIMITED_SECONDS
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut released = HashMap::new();
    for row in rows {
        *released.entry(row.reason).or_default() += 1;
    }
    Ok(released)
}

fn reason(kind: Kind) -> String {
    kind.waiting_reason().to_string()
}
