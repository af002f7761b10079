//! The lines in which ready jobs wait, and the statements that move their heads into the window.
//!
//! A line is what one tenant has waiting for one executor type at one priority, oldest first. Whose line is served
//! next is the dispatcher's to say (`gantry_core::fairness`); here each line is entered at the place where its last
//! look ended, so that what has left it is not passed again. The statements order by every column of the index, also by
//! those that have one value: under row-level security the planner does not see that they have.

use std::collections::{BTreeSet, HashMap};

use gantry_core::limits::{self, Book, Kind};
use gantry_core::message::WorkItem;
use gantry_core::{ExecutorType, JobId, LimitId, TenantId};
use uuid::Uuid;

use crate::error::Result;
use crate::tx::Store;

/// How long a job stays parked for a limit if nothing frees it sooner, in seconds: an end under the limit, a limit that
/// is raised, and a sweep of upkeep all do.
pub(crate) const LIMITED_SECONDS: f64 = 86_400.0;

/// A line that is not empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Whose.
    pub tenant: TenantId,
    /// The priority of its jobs.
    pub priority: i16,
    /// Its head.
    pub first: JobId,
    /// The tenant's share of starts.
    pub weight: f64,
    /// How many more jobs the tenant's own limit lets run; none for any number.
    pub room: Option<i32>,
}

impl Line {
    /// Where it begins.
    pub fn entrance(&self) -> Entrance {
        Entrance { tenant: self.tenant, priority: self.priority, from: self.first }
    }
}

/// The lines of an executor type. One step of an index for each, however long they are.
pub async fn standing(store: &Store, executor: ExecutorType) -> Result<Vec<Line>> {
    store.bounded("lines::standing", async {
        let mut tx = store.begin_in_line("lines::standing").await?;
        let rows = sqlx::query!(
                r#"/* lines::standing */
                with recursive line as (
                    (select tenant_id, priority, id from container_jobs
                     where executor_type = $1::text::executor_type and status = 'pending' and dispatched_at is null and parked_until is null
                     order by executor_type, tenant_id, priority, id limit 1)
                    union all
                    select n.tenant_id, n.priority, n.id from line cross join lateral (
                        select tenant_id, priority, id from container_jobs
                        where executor_type = $1::text::executor_type and status = 'pending' and dispatched_at is null and parked_until is null
                          and (tenant_id, priority) > (line.tenant_id, line.priority)
                        order by executor_type, tenant_id, priority, id limit 1) n
                )
                select line.tenant_id as "tenant_id!", line.priority as "priority!", line.id as "first!", t.weight,
                    case when l.max_running is not null then greatest(l.max_running - l.running, 0) end as room
                from line join tenants t on t.id = line.tenant_id
                left join limits l on l.tenant_id = line.tenant_id and l.kind = 'tenant' and l.name = ''"#,
                executor.as_str()
            )
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
    let lines = rows.into_iter().map(|row| Line {
        tenant: row.tenant_id.into(),
        priority: row.priority,
        first: row.first.into(),
        weight: row.weight,
        room: row.room,
    });
    Ok(lines.collect())
    }).await
}

/// A place in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance {
    /// Whose line.
    pub tenant: TenantId,
    /// Its priority.
    pub priority: i16,
    /// The job that stands or stood there.
    pub from: JobId,
}

/// Those of these lines that are not empty from their entrance on.
pub async fn heads(store: &Store, executor: ExecutorType, entrances: &[Entrance]) -> Result<Vec<Line>> {
    let tenants: Vec<Uuid> = entrances.iter().map(|entrance| entrance.tenant.uuid()).collect();
    let priorities: Vec<i16> = entrances.iter().map(|entrance| entrance.priority).collect();
    let from: Vec<Uuid> = entrances.iter().map(|entrance| entrance.from.uuid()).collect();
    store
        .bounded("lines::heads", async {
            let mut tx = store.begin_in_line("lines::heads").await?;
            let rows = sqlx::query!(
                r#"/* lines::heads */
                select a.tenant_id as "tenant_id!", a.priority as "priority!", c.id as "first!", t.weight,
                    case when l.max_running is not null then greatest(l.max_running - l.running, 0) end as room
                from unnest($2::uuid[], $3::int2[], $4::uuid[]) as a(tenant_id, priority, first)
                cross join lateral (
                    select id from container_jobs
                    where executor_type = $1::text::executor_type and tenant_id = a.tenant_id
                      and (priority, id) >= (a.priority, a.first) and priority <= a.priority
                      and status = 'pending' and dispatched_at is null and parked_until is null
                    order by executor_type, tenant_id, priority, id limit 1) c
                join tenants t on t.id = a.tenant_id
                left join limits l on l.tenant_id = a.tenant_id and l.kind = 'tenant' and l.name = ''"#,
                executor.as_str(),
                &tenants,
                &priorities,
                &from
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            let lines = rows.into_iter().map(|row| Line {
                tenant: row.tenant_id.into(),
                priority: row.priority,
                first: row.first.into(),
                weight: row.weight,
                room: row.room,
            });
            Ok(lines.collect())
        })
        .await
}

/// So many jobs of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Where it is entered: at this job or, if that has left, behind it.
    pub at: Entrance,
    /// How many of its jobs are to be moved.
    pub jobs: usize,
    /// How many are looked at for that, no fewer: some may be held back by a limit.
    pub look: usize,
}

/// What became of an [`Ask`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The jobs that are in the window now, in the order of their line.
    pub items: Vec<WorkItem>,
    /// Jobs that were parked, because a limit has no room for them.
    pub parked: usize,
    /// The last job that was moved or parked: the line goes on behind it.
    pub last: Option<JobId>,
    /// The line has no more jobs, or another dispatcher holds them.
    pub is_empty: bool,
}

/// Moves what is asked for into the window, and parks what a limit holds back; answers in the order of the asks, each for
/// a line of its own. Finds fewer where a line is shorter, or another dispatcher holds its rows. The caller publishes the
/// items afterwards; if it dies before, [`crate::queue::republishable`] finds them.
pub async fn dispatch(store: &Store, executor: ExecutorType, asks: &[Ask]) -> Result<Vec<Served>> {
    store.run("lines::dispatch", || dispatch_once(store, executor, asks)).await
}

async fn dispatch_once(store: &Store, executor: ExecutorType, asks: &[Ask]) -> Result<Vec<Served>> {
    let mut tx = store.begin_in_line("lines::dispatch").await?;
    let heads = enter_heads(&mut tx, executor, asks).await?;
    let book = limits_of(&mut tx, &heads).await?;
    let (mut served, moving, held_back) = decide(asks, &heads, book);
    let mut items = enter_window(&mut tx, &moving).await?;
    if !held_back.is_empty() {
        park(&mut tx, &held_back).await?;
    }
    tx.commit().await?;
    for head in heads {
        served[head.ask].items.extend(head.entered.or_else(|| items.remove(&head.job)));
    }
    Ok(served)
}

/// What became of those who were to enter at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entered {
    /// The jobs that are in the window now: line by line, in the order of each.
    pub items: Vec<WorkItem>,
    /// Whose jobs were found and are still in line, because a limit counts them.
    pub limited: BTreeSet<TenantId>,
}

/// Moves what is asked for into the window as [`dispatch`] does, but leaves in line what a limit counts, whether it has room
/// or not: others of that line may be parked for it, or have come back before the place where the line is entered.
pub async fn enter(store: &Store, executor: ExecutorType, asks: &[Ask]) -> Result<Entered> {
    store.run("lines::enter", || enter_once(store, executor, asks)).await
}

async fn enter_once(store: &Store, executor: ExecutorType, asks: &[Ask]) -> Result<Entered> {
    // Under the name of `dispatch`: what a crash leaves is the same.
    let mut tx = store.begin_in_line("lines::dispatch").await?;
    let heads = enter_heads(&mut tx, executor, asks).await?;
    tx.commit().await?;
    let mut entered = Entered::default();
    for head in heads {
        match head.entered {
            Some(item) => entered.items.push(item),
            None => {
                entered.limited.insert(head.traits.tenant);
            }
        }
    }
    Ok(entered)
}

/// The head of a line, locked.
struct Head {
    ask: usize,
    job: JobId,
    traits: limits::Traits,
    /// It is in the window already.
    entered: Option<WorkItem>,
}

/// Locks the heads of the lines that are asked for, and moves into the window what no limit counts: in one statement, because
/// a job that comes alone waits for each. A key is a limit, also while it has no row. Of a line of which more is looked at
/// than is wanted nothing enters here. Returns the heads in the order of the asks, and of their lines.
///
/// The names of limits are read once for each line, those of the kinds before `key`: a row of a limit is one of many versions
/// while somebody holds a snapshot, and of keys a tenant has any number. What enters is named by an array and not joined, so
/// that it is found by its key whatever the plan takes for its number.
async fn enter_heads(tx: &mut sqlx::PgConnection, executor: ExecutorType, asks: &[Ask]) -> Result<Vec<Head>> {
    let tenants: Vec<Uuid> = asks.iter().map(|ask| ask.at.tenant.uuid()).collect();
    let priorities: Vec<i16> = asks.iter().map(|ask| ask.at.priority).collect();
    let from: Vec<Uuid> = asks.iter().map(|ask| ask.at.from.uuid()).collect();
    let jobs: Vec<i64> = asks.iter().map(|ask| i64::try_from(ask.jobs.max(ask.look)).unwrap_or(i64::MAX)).collect();
    let all_wanted: Vec<bool> = asks.iter().map(|ask| ask.look <= ask.jobs).collect();
    let rows = sqlx::query!(
        r#"/* lines::enter_heads */
        with line as materialized (
            select *, array(select l.name from limits l where l.tenant_id = a.tenant_id and l.kind < 'key') as limited
            from unnest($2::uuid[], $3::int2[], $4::uuid[], $5::int8[], $6::bool[]) as a(tenant_id, priority, first, jobs, all_wanted)
        ), head as (
            select c.*, line.all_wanted and c.concurrency_key is null
                and not (line.limited && array['', c.template::text]) as enters
            from line cross join lateral (
                select id, tenant_id, priority, template, concurrency_key from container_jobs
                where executor_type = $1::text::executor_type and tenant_id = line.tenant_id
                  and (priority, id) >= (line.priority, line.first) and priority <= line.priority
                  and status = 'pending' and dispatched_at is null and parked_until is null
                order by executor_type, tenant_id, priority, id limit line.jobs for no key update skip locked) c
        ), entered as (
            update container_jobs
            set dispatched_at = now(), published_at = now(), publishes = 1, dispatch_sequence = dispatch_sequence + 1
            where id = any(array(select id from head where enters))
            returning id, tenant_id, priority, template, concurrency_key, attempt, dispatch_sequence
        )
        select id as "id!", tenant_id as "tenant_id!", priority as "priority!", template as "template?",
            concurrency_key as "concurrency_key?", null::int4 as "attempt?", null::int4 as "sequence?"
        from head where not enters
        union all
        select id, tenant_id, priority, template, concurrency_key, attempt, dispatch_sequence from entered"#,
        executor.as_str(),
        &tenants,
        &priorities,
        &from,
        &jobs,
        &all_wanted
    )
    .fetch_all(&mut *tx)
    .await?;
    let places: HashMap<(TenantId, i16), usize> =
        asks.iter().enumerate().map(|(place, ask)| ((ask.at.tenant, ask.at.priority), place)).collect();
    let heads = rows.into_iter().filter_map(|row| {
        let (job, tenant): (JobId, TenantId) = (row.id.into(), row.tenant_id.into());
        Some(Head {
            // Of no other line.
            ask: *places.get(&(tenant, row.priority))?,
            job,
            traits: limits::Traits { tenant, template: row.template.map(Into::into), key: row.concurrency_key },
            entered: row.attempt.zip(row.sequence).map(|(attempt, sequence)| item(job, attempt, sequence)),
        })
    });
    let mut heads: Vec<Head> = heads.collect();
    heads.sort_unstable_by_key(|head| (head.ask, head.job));
    Ok(heads)
}

/// The limits that count those who did not enter yet.
async fn limits_of(tx: &mut sqlx::PgConnection, heads: &[Head]) -> Result<Book> {
    let waiting = heads.iter().filter(|head| head.entered.is_none());
    let subjects: BTreeSet<limits::Subject> = waiting.flat_map(|head| head.traits.subjects()).collect();
    if subjects.is_empty() { Ok(Book::default()) } else { crate::limits::read(tx, &subjects).await }
}

/// Which heads are to move yet, and which are parked because a limit has no room for them, whatever goes before them. The
/// latter is advice, so that no worker is sent for nothing: the claim decides, under its locks.
fn decide(asks: &[Ask], heads: &[Head], mut book: Book) -> (Vec<Served>, Vec<Uuid>, Vec<HeldBack>) {
    let mut served = vec![Served::default(); asks.len()];
    let (mut moving, mut held_back): (Vec<Uuid>, Vec<HeldBack>) = (Vec::new(), Vec::new());
    let (mut found, mut moved) = (vec![0; asks.len()], vec![0; asks.len()]);
    for head in heads {
        found[head.ask] += 1;
        let waits = head.entered.is_none();
        if waits && moved[head.ask] == asks[head.ask].jobs {
            // Not needed: it stays in line.
            continue;
        }
        served[head.ask].last = Some(head.job);
        if waits && let Some((kind, limit)) = book.holds_back(&head.traits) {
            served[head.ask].parked += 1;
            held_back.push(HeldBack { job: head.job, kind, limit });
            continue;
        }
        book.count(&head.traits);
        moved[head.ask] += 1;
        if waits {
            moving.push(head.job.uuid());
        }
    }
    for (index, (served, ask)) in served.iter_mut().zip(asks).enumerate() {
        served.is_empty = found[index] < ask.look.max(ask.jobs) && moved[index] < ask.jobs;
    }
    (served, moving, held_back)
}

struct HeldBack {
    job: JobId,
    kind: Kind,
    limit: LimitId,
}

/// Moves those who were decided about.
async fn enter_window(tx: &mut sqlx::PgConnection, jobs: &[Uuid]) -> Result<HashMap<JobId, WorkItem>> {
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "/* lines::enter_window */
        update container_jobs
        set dispatched_at = now(), published_at = now(), publishes = 1, dispatch_sequence = dispatch_sequence + 1
        where id = any($1) returning id, attempt, dispatch_sequence",
        jobs
    )
    .fetch_all(&mut *tx)
    .await?;
    let moved = rows.into_iter().map(|row| {
        let job = row.id.into();
        (job, item(job, row.attempt, row.dispatch_sequence))
    });
    Ok(moved.collect())
}

/// What is published of a job that is in the window: it will be claimed for its next attempt.
fn item(job: JobId, attempt: i32, sequence: i32) -> WorkItem {
    WorkItem { job, attempt: attempt + 1, sequence }
}

async fn park(tx: &mut sqlx::PgConnection, held_back: &[HeldBack]) -> Result<()> {
    let ids: Vec<Uuid> = held_back.iter().map(|held| held.job.uuid()).collect();
    let limits: Vec<Uuid> = held_back.iter().map(|held| held.limit.uuid()).collect();
    let reasons: Vec<&str> = held_back.iter().map(|held| held.kind.waiting_reason().as_str()).collect();
    sqlx::query!(
        "/* lines::park */
        update container_jobs j set parked_until = now() + make_interval(secs => $4), limit_id = p.limit_id,
            waiting_reason = p.reason::waiting_reason
        from unnest($1::uuid[], $2::uuid[], $3::text[]) as p(id, limit_id, reason) where j.id = p.id",
        &ids,
        &limits,
        &reasons as &[&str],
        LIMITED_SECONDS
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Puts up to `limit` jobs back in line that wait for a full host, best first: a slot is free now. Of one tenant, for
/// slots that only it may use. Returns how many.
pub async fn unpark_full(store: &Store, executor: ExecutorType, tenant: Option<TenantId>, limit: i64) -> Result<u64> {
    let done = store
        .single(
            "lines::unpark_full",
            sqlx::query!(
                "/* lines::unpark_full */
                update container_jobs set parked_until = null, waiting_reason = null, waiting_detail = null
                where id in (
                    select id from container_jobs
                    where executor_type = $1::text::executor_type and waiting_reason = 'host_full'
                      and status = 'pending' and parked_until is not null and ($3::uuid is null or tenant_id = $3)
                    order by executor_type, waiting_reason, priority desc, id limit $2 for no key update skip locked)",
                executor.as_str(),
                limit,
                tenant.map(TenantId::uuid)
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(done.rows_affected())
}
