//! The insert behind both doors: jobs, their specs and their idempotency keys in one transaction.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use gantry_core::env::Environment;
use gantry_core::limits::{Book, Traits};
use gantry_core::message::{Newcomer, WorkItem};
use gantry_core::problem::{Code, Problem};
use gantry_core::routing::failover::Routing;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, JobId, ProjectId, ScheduleId, TemplateId, TenantId};
use rust_decimal::Decimal;
use serde_json::Value;
use strum::{Display, EnumString, IntoStaticStr};
use uuid::Uuid;

use crate::columns::{self, sparse};
use crate::costs::{self, Routed};
use crate::error::{Error, Result, parse};
use crate::limits;
use crate::tx::{Scope, Store};

/// How long a key stays taken, in days: by default three times as long as its job is kept.
pub const IDEMPOTENCY_DAYS: i32 = 90;

/// Where an idempotency key came from. The same text from two sources is two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum KeySource {
    /// `idempotency_key` of the submission.
    Key,
    /// `message_id` of the AMQP message.
    Message,
}

/// An idempotency key and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// Where it came from.
    pub source: KeySource,
    /// The key.
    pub key: String,
    /// SHA-256 of the submission as received.
    pub body_hash: [u8; 32],
}

/// A job that passed validation, template and routing.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: JobId,
    /// The owner.
    pub tenant: TenantId,
    /// The project.
    pub project: ProjectId,
    /// For people.
    pub name: String,
    /// The template, if any.
    pub template: Option<TemplateId>,
    /// What to run.
    pub spec: ResolvedSpec,
    /// Where it was routed.
    pub executor_type: ExecutorType,
    /// What the producer asked for.
    pub preferred_executor: Option<ExecutorType>,
    /// Why it went there.
    pub routing_reason: String,
    /// Where it may go on, and how it was decided.
    pub routing: Routing,
    /// The command that replaced the template's.
    pub override_command: Option<Vec<String>>,
    /// The variables laid over the template's.
    pub override_environment: Environment,
    /// Jobs of the tenant with the same key share a limit.
    pub concurrency_key: Option<String>,
    /// Higher goes first.
    pub priority: i16,
    /// Not to be started before.
    pub not_before: Option<DateTime<Utc>>,
    /// How long it may wait once it may start.
    pub queue_timeout_seconds: Option<u32>,
    /// Its key; over HTTP it may have none.
    pub idempotency: Option<Idempotency>,
    /// Who submitted it.
    pub created_by: String,
    /// The schedule that it is of, if any.
    pub schedule: Option<ScheduleId>,
    /// Whether there is a place for it in the window, and nobody stands in line: it enters at once, unless it is to start
    /// later or a limit counts it.
    pub at_once: bool,
}

impl NewJob {
    fn traits(&self) -> Traits {
        Traits { tenant: self.tenant, template: self.template, key: self.concurrency_key.clone() }
    }

    /// What dispatchers are told of it once it is stored: where it stands in line. Not of one that is to start later, nor of
    /// one with a key: that a limit counts it is known without a look.
    pub fn newcomer(&self) -> Option<Newcomer> {
        let is_told = self.not_before.is_none() && self.concurrency_key.is_none();
        let Self { id: job, tenant, executor_type: executor, priority, .. } = *self;
        is_told.then_some(Newcomer { job, tenant, executor, priority })
    }

    /// Whether it enters the window at once where no limit counts it. A key is a limit, also while it has no row.
    fn may_enter(&self) -> bool {
        self.at_once && self.not_before.is_none() && self.concurrency_key.is_none()
    }
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is durable now.
    New(JobId),
    /// It is durable, and in the window: this is what the caller publishes now. If it dies before,
    /// [`crate::queue::republishable`] finds it.
    Dispatched(WorkItem),
    /// The same submission had made this job before.
    Existing(JobId),
    /// The key is taken by a different submission.
    Conflict(JobId),
    /// As many jobs of the tenant wait as may: nothing was stored, and the key is still free.
    Full {
        /// The tenant's cap.
        cap: i32,
    },
}

impl Inserted {
    /// The job that stands for the submission, or why none does.
    pub fn job(self) -> std::result::Result<JobId, Problem> {
        match self {
            Self::New(job) | Self::Existing(job) => Ok(job),
            Self::Dispatched(item) => Ok(item.job),
            Self::Conflict(job) => {
                let message =
                    format!("the key was used before, for a different submission that made job {job}; use a new key");
                Err(Problem::field(Code::IdempotencyConflict, "idempotency_key", message))
            }
            Self::Full { cap } => {
                let message = format!(
                    "{cap} jobs of this tenant wait, and no more may; send it again when some have started, or have an operator raise the cap (`gantry tenant set NAME --max-pending N`)"
                );
                Err(Problem::new(Code::BacklogFull, message))
            }
        }
    }
}

type Key = (TenantId, KeySource, String);

/// Inserts the jobs, all or none; decides for each in their order.
pub async fn insert(store: &Store, scope: Scope, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    store
        .run("admission::insert", || async {
            let mut tx = store.begin_scoped_kept("admission::insert", scope).await?;
            let decided = insert_within(&mut tx, jobs).await?;
            tx.commit().await?;
            Ok(decided)
        })
        .await
}

/// The same inside a transaction, for what must be stored together with its jobs.
pub(crate) async fn insert_within(tx: &mut sqlx::PgConnection, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    let owners = reserve_keys(tx, jobs).await?;
    let mut decided: Vec<Inserted> = jobs.iter().map(|job| decide(job, &owners)).collect();
    let tenants = tenants(tx, jobs).await?;
    refuse_surplus(tx, jobs, &tenants, &mut decided).await?;
    let is_new = |(job, got): &(&NewJob, &Inserted)| **got == Inserted::New(job.id);
    let new: Vec<&NewJob> = jobs.iter().zip(&decided).filter(is_new).map(|(job, _)| job).collect();
    if new.is_empty() {
        return Ok(decided);
    }
    let routed: Vec<Routed> = new.iter().map(|job| Routed::from(*job)).collect();
    let estimates = costs::estimates(tx, &routed).await?;
    let at_once = at_once(tx, &new, tenants.are_limited).await?;
    insert_rows(tx, &new, &at_once, &estimates).await?;
    let mut dispatched = at_once.into_iter();
    for decided in &mut decided {
        if let Inserted::New(job) = *decided
            && dispatched.next() == Some(true)
        {
            *decided = Inserted::Dispatched(WorkItem { job, attempt: 1, sequence: 1 });
        }
    }
    Ok(decided)
}

/// Which of the jobs enter the window: none that anything limits. What a limit counts is served in its order, from its line.
async fn at_once(tx: &mut sqlx::PgConnection, jobs: &[&NewJob], are_limited: bool) -> Result<Vec<bool>> {
    let subjects: BTreeSet<_> =
        jobs.iter().filter(|job| job.may_enter()).flat_map(|job| Vec::from_iter(job.traits().subjects())).collect();
    let mut book =
        if subjects.is_empty() || !are_limited { Book::default() } else { limits::read(tx, &subjects).await? };
    let enters = |job: &&NewJob| job.may_enter() && book.count(&job.traits()).is_empty();
    Ok(jobs.iter().map(enters).collect())
}

fn decide(job: &NewJob, owners: &HashMap<Key, (JobId, Vec<u8>)>) -> Inserted {
    let Some(key) = &job.idempotency else { return Inserted::New(job.id) };
    match owners.get(&(job.tenant, key.source, key.key.clone())) {
        Some((owner, _)) if *owner == job.id => Inserted::New(job.id),
        Some((owner, hash)) if hash[..] == key.body_hash[..] => Inserted::Existing(*owner),
        Some((owner, _)) => Inserted::Conflict(*owner),
        // Not reserved and not found: its owner's row expired between the two statements. The key is free
        // again only for the next submission; this one is told apart from nothing, so it is new.
        None => Inserted::New(job.id),
    }
}

/// Takes the keys that are free; returns for every key who has it, and for which body.
async fn reserve_keys(tx: &mut sqlx::PgConnection, jobs: &[NewJob]) -> Result<HashMap<Key, (JobId, Vec<u8>)>> {
    let mut keyed: Vec<(&NewJob, &Idempotency)> =
        jobs.iter().filter_map(|job| job.idempotency.as_ref().map(|key| (job, key))).collect();
    if keyed.is_empty() {
        return Ok(HashMap::new());
    }
    // Sorted, so that two batches with the same keys wait for each other instead of deadlocking.
    keyed.sort_by(|(a, x), (b, y)| (a.tenant, x.source, &x.key).cmp(&(b.tenant, y.source, &y.key)));
    let tenants: Vec<Uuid> = keyed.iter().map(|(job, _)| job.tenant.uuid()).collect();
    let sources: Vec<String> = keyed.iter().map(|(_, key)| key.source.to_string()).collect();
    let keys: Vec<String> = keyed.iter().map(|(_, key)| key.key.clone()).collect();
    let hashes: Vec<Vec<u8>> = keyed.iter().map(|(_, key)| key.body_hash.to_vec()).collect();
    let ids: Vec<Uuid> = keyed.iter().map(|(job, _)| job.id.uuid()).collect();
    let taken = sqlx::query!(
        "/* admission::reserve_keys */
        insert into idempotency_keys (tenant_id, source, key, body_hash, job_id, expires_at)
        select tenant_id, source::idempotency_source, key, body_hash, job_id, now() + make_interval(days => $6)
        from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::uuid[])
            with ordinality as k(tenant_id, source, key, body_hash, job_id, place)
        order by place on conflict do nothing returning job_id",
        &tenants,
        &sources,
        &keys,
        &hashes,
        &ids,
        IDEMPOTENCY_DAYS
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut owners: HashMap<Key, (JobId, Vec<u8>)> = HashMap::with_capacity(keyed.len());
    let taken: std::collections::HashSet<Uuid> = taken.into_iter().map(|row| row.job_id).collect();
    for (job, key) in keyed.iter().filter(|(job, _)| taken.contains(&job.id.uuid())) {
        owners.insert((job.tenant, key.source, key.key.clone()), (job.id, key.body_hash.to_vec()));
    }
    if taken.len() < keyed.len() {
        // A second statement: only it sees a row whose transaction the first one had to wait for.
        let rows = sqlx::query!(
            r#"/* admission::reserve_keys */
            select i.tenant_id, i.source::text as "source!", i.key, i.body_hash, i.job_id
            from unnest($1::uuid[], $2::text[], $3::text[]) as k(tenant_id, source, key)
            join idempotency_keys i on i.tenant_id = k.tenant_id and i.source = k.source::idempotency_source and i.key = k.key"#,
            &tenants,
            &sources,
            &keys
        )
        .fetch_all(&mut *tx)
        .await?;
        for row in rows {
            let key = (row.tenant_id.into(), parse("source", &row.source)?, row.key);
            owners.entry(key).or_insert((row.job_id.into(), row.body_hash));
        }
    }
    Ok(owners)
}

/// What holds for the tenants of a batch.
struct Tenants {
    /// The caps on how many of their jobs may wait.
    caps: Vec<(TenantId, i32)>,
    /// Whether any of them has limits on what runs.
    are_limited: bool,
}

async fn tenants(tx: &mut sqlx::PgConnection, jobs: &[NewJob]) -> Result<Tenants> {
    let tenants: BTreeSet<Uuid> = jobs.iter().map(|job| job.tenant.uuid()).collect();
    // A row also where nobody has a cap.
    let rows = sqlx::query!(
        r#"/* admission::tenants */
        select (select exists (select from limits where tenant_id = any($1))) as "are_limited!", t.id as "id?", t.max_pending as "cap?"
        from (values (1)) as one left join tenants t on t.id = any($1) and t.max_pending is not null
        order by t.id"#,
        &Vec::from_iter(tenants)
    )
    .fetch_all(&mut *tx)
    .await?;
    let are_limited = rows.iter().any(|row| row.are_limited);
    Ok(Tenants { caps: rows.into_iter().filter_map(|row| Some((row.id?.into(), row.cap?))).collect(), are_limited })
}

/// Refuses what goes beyond the cap of its tenant, the last first, and gives its key back.
async fn refuse_surplus(
    tx: &mut sqlx::PgConnection,
    jobs: &[NewJob],
    tenants: &Tenants,
    decided: &mut [Inserted],
) -> Result<()> {
    let mut room = rooms(tx, &tenants.caps).await?;
    if room.is_empty() {
        return Ok(());
    }
    let mut refused: BTreeSet<JobId> = BTreeSet::new();
    for (job, decided) in jobs.iter().zip(decided) {
        let Some((cap, room)) = room.get_mut(&job.tenant) else { continue };
        match *decided {
            Inserted::New(_) if *room > 0 => *room -= 1,
            Inserted::New(id) => {
                *decided = Inserted::Full { cap: *cap };
                refused.insert(id);
            }
            // The same key came twice in this batch, and the job that it stood for is not made.
            Inserted::Existing(id) | Inserted::Conflict(id) if refused.contains(&id) => {
                *decided = Inserted::Full { cap: *cap };
            }
            Inserted::Existing(_) | Inserted::Conflict(_) | Inserted::Full { .. } | Inserted::Dispatched(_) => {}
        }
    }
    if !refused.is_empty() {
        let keys: Vec<(&NewJob, &Idempotency)> = jobs
            .iter()
            .filter(|job| refused.contains(&job.id))
            .filter_map(|job| job.idempotency.as_ref().map(|key| (job, key)))
            .collect();
        sqlx::query!(
            "/* admission::refuse_surplus */
            delete from idempotency_keys i
            using unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) as k(tenant_id, source, key, job_id)
            where i.tenant_id = k.tenant_id and i.source = k.source::idempotency_source and i.key = k.key
              and i.job_id = k.job_id",
            &keys.iter().map(|(job, _)| job.tenant.uuid()).collect::<Vec<_>>(),
            &keys.iter().map(|(_, key)| key.source.to_string()).collect::<Vec<_>>(),
            &keys.iter().map(|(_, key)| key.key.clone()).collect::<Vec<_>>(),
            &keys.iter().map(|(job, _)| job.id.uuid()).collect::<Vec<_>>()
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// For each of the tenants that has a cap: the cap, and how many more jobs may wait. The count holds until the
/// transaction ends, because each admission to such a tenant goes through the same lock.
async fn rooms(tx: &mut sqlx::PgConnection, caps: &[(TenantId, i32)]) -> Result<HashMap<TenantId, (i32, i64)>> {
    let mut rooms = HashMap::with_capacity(caps.len());
    for (tenant, cap) in caps {
        sqlx::query!(
            "/* admission::rooms */ select pg_advisory_xact_lock(hashtextextended($1, 0))",
            format!("gantry backlog {tenant}")
        )
        .execute(&mut *tx)
        .await?;
        // A second statement: only it sees what was admitted while the first one waited.
        let waiting = sqlx::query_scalar!(
            r#"/* admission::rooms */ select gantry_waiting($1, $2) as "waiting!""#,
            tenant.uuid(),
            cap
        )
        .fetch_one(&mut *tx)
        .await?;
        rooms.insert(*tenant, (*cap, i64::from(*cap) - waiting));
    }
    Ok(rooms)
}

/// Stores the jobs with their specs. Their projects are locked until the transaction ends, so that nobody deletes one, or gives
/// it to another tenant, meanwhile; one that is gone already, or another tenant's, is an error.
async fn insert_rows(
    tx: &mut sqlx::PgConnection,
    jobs: &[&NewJob],
    at_once: &[bool],
    estimates: &[Option<Decimal>],
) -> Result<()> {
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.uuid()).collect();
    let tenants: Vec<Uuid> = jobs.iter().map(|job| job.tenant.uuid()).collect();
    let projects: Vec<Uuid> = jobs.iter().map(|job| job.project.uuid()).collect();
    let names: Vec<String> = jobs.iter().map(|job| job.name.clone()).collect();
    let templates: Vec<Option<Uuid>> = jobs.iter().map(|job| job.template.map(TemplateId::uuid)).collect();
    let executors: Vec<String> = jobs.iter().map(|job| job.executor_type.to_string()).collect();
    let preferred: Vec<Option<String>> = jobs.iter().map(|job| job.preferred_executor.map(|e| e.to_string())).collect();
    let reasons: Vec<String> = jobs.iter().map(|job| job.routing_reason.clone()).collect();
    // An array of arrays must be rectangular, so the words travel as JSON.
    let commands: Vec<Option<Value>> =
        jobs.iter().map(|job| job.override_command.as_ref().map(|words| Value::from(words.clone()))).collect();
    let environments: Vec<Option<Value>> = jobs
        .iter()
        .map(|job| (!job.override_environment.is_empty()).then(|| serde_json::json!(job.override_environment)))
        .collect();
    let priorities: Vec<i16> = jobs.iter().map(|job| job.priority).collect();
    let not_before: Vec<Option<DateTime<Utc>>> = jobs.iter().map(|job| job.not_before).collect();
    let queue_timeouts: Vec<Option<i32>> = jobs
        .iter()
        .map(|job| job.queue_timeout_seconds.map(|seconds| i32::try_from(seconds).unwrap_or(i32::MAX)))
        .collect();
    let keys: Vec<Option<String>> = jobs
        .iter()
        .map(|job| job.idempotency.as_ref().filter(|key| key.source == KeySource::Key).map(|key| key.key.clone()))
        .collect();
    let creators: Vec<String> = jobs.iter().map(|job| job.created_by.clone()).collect();
    let schedules: Vec<Option<Uuid>> = jobs.iter().map(|job| job.schedule.map(ScheduleId::uuid)).collect();
    let concurrency: Vec<Option<String>> = jobs.iter().map(|job| job.concurrency_key.clone()).collect();
    let specs = columns::json(jobs.iter().map(|job| &job.spec))?;
    let routings = columns::json(jobs.iter().map(|job| &job.routing))?;
    // Each once: a lock holds it for all of its jobs.
    let locked: BTreeSet<Uuid> = projects.iter().copied().collect();
    let stored = sqlx::query!(
        r#"/* admission::insert_rows */
        with p as materialized (
            select id, tenant_id from projects where id = any($22) order by id for key share
        ), n as (
            select n.*, n.not_before > now() as later
            from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
                $9::jsonb[], $10::jsonb[], $11::int2[], $12::timestamptz[], $13::int[], $14::text[], $15::text[], $16::text[],
                $17::uuid[], $18::text[], $19::numeric[], $20::text[], $21::bool[])
                as n(id, tenant_id, project_id, name, template, executor, preferred, reason, command, environment,
                    priority, not_before, queue_timeout, key, created_by, spec, schedule_id, concurrency_key, estimate, routing,
                    at_once)
            join p on p.id = n.project_id and p.tenant_id = n.tenant_id
        ), j as (
            insert into container_jobs (id, tenant_id, project_id, name, template, executor_type, preferred_executor,
                routing_reason, override_command, override_environment, priority, parked_until, waiting_reason,
                queue_deadline_at, idempotency_key, created_by, schedule_id, concurrency_key, estimated_cost,
                dispatched_at, published_at, publishes, dispatch_sequence)
            select id, tenant_id, project_id, name, template, executor::executor_type, preferred::executor_type, reason,
                case when command is not null then array(select jsonb_array_elements_text(command)) end, environment, priority,
                case when later then not_before end, case when later then 'not_before'::waiting_reason end,
                greatest(not_before, now()) + make_interval(secs => queue_timeout), key, created_by,
                schedule_id, concurrency_key, estimate,
                case when at_once then now() end, case when at_once then now() end, at_once::int, at_once::int
            from n
        )
        insert into container_job_specs (job_id, tenant_id, spec, routing) select id, tenant_id, spec::json, routing::json from n"#,
        &ids,
        &tenants,
        &projects,
        &names,
        &sparse(templates) as &[Option<Uuid>],
        &executors,
        &sparse(preferred) as &[Option<String>],
        &reasons,
        &sparse(commands) as &[Option<Value>],
        &sparse(environments) as &[Option<Value>],
        &priorities,
        &sparse(not_before) as &[Option<DateTime<Utc>>],
        &sparse(queue_timeouts) as &[Option<i32>],
        &sparse(keys) as &[Option<String>],
        &creators,
        &specs,
        &sparse(schedules) as &[Option<Uuid>],
        &sparse(concurrency) as &[Option<String>],
        estimates as &[Option<Decimal>],
        &routings,
        at_once,
        &Vec::from_iter(locked)
    )
    .execute(&mut *tx)
    .await?
    .rows_affected();
    let missing = jobs.len().saturating_sub(usize::try_from(stored).unwrap_or(usize::MAX));
    if missing == 0 { Ok(()) } else { Err(Error::NoProject(missing)) }
}
