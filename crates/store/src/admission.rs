//! The insert behind both doors: jobs, their specs and their idempotency keys in one transaction.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use gantry_core::env::Environment;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, JobId, ProjectId, TemplateId, TenantId};
use serde_json::Value;
use strum::{Display, EnumString, IntoStaticStr};
use uuid::Uuid;

use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// How long a key stays taken, in days. Longer than any job is kept.
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
    /// The command that replaced the template's.
    pub override_command: Option<Vec<String>>,
    /// The variables laid over the template's.
    pub override_environment: Environment,
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
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is durable now.
    New(JobId),
    /// The same submission had made this job before.
    Existing(JobId),
    /// The key is taken by a different submission.
    Conflict(JobId),
}

type Key = (TenantId, KeySource, String);

/// Inserts the jobs, all or none; decides for each in their order.
pub async fn insert(store: &Store, scope: Scope, jobs: &[NewJob]) -> Result<Vec<Inserted>> {
    store
        .run("admission::insert", || async {
            let mut tx = store.begin_scoped("admission::insert", scope).await?;
            let owners = reserve_keys(&mut tx, jobs).await?;
            let decided: Vec<Inserted> = jobs.iter().map(|job| decide(job, &owners)).collect();
            let new: Vec<&NewJob> = jobs
                .iter()
                .zip(&decided)
                .filter(|(job, got)| **got == Inserted::New(job.id))
                .map(|(job, _)| job)
                .collect();
            if !new.is_empty() {
                insert_rows(&mut tx, &new).await?;
            }
            tx.commit().await?;
            Ok(decided)
        })
        .await
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

async fn insert_rows(tx: &mut sqlx::PgConnection, jobs: &[&NewJob]) -> Result<()> {
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
    let specs: Vec<Value> = jobs.iter().map(|job| serde_json::json!(job.spec)).collect();
    sqlx::query!(
        r#"/* admission::insert_rows */
        with n as (
            select *, not_before > now() as later
            from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::text[],
                $9::jsonb[], $10::jsonb[], $11::int2[], $12::timestamptz[], $13::int[], $14::text[], $15::text[], $16::jsonb[])
                as n(id, tenant_id, project_id, name, template, executor, preferred, reason, command, environment,
                    priority, not_before, queue_timeout, key, created_by, spec)
        ), j as (
            insert into container_jobs (id, tenant_id, project_id, name, template, executor_type, preferred_executor,
                routing_reason, override_command, override_environment, priority, parked_until, waiting_reason,
                queue_deadline_at, idempotency_key, created_by)
            select id, tenant_id, project_id, name, template, executor::executor_type, preferred::executor_type, reason,
                case when command is not null then array(select jsonb_array_elements_text(command)) end, environment, priority,
                case when later then not_before end, case when later then 'not_before'::waiting_reason end,
                greatest(not_before, now()) + make_interval(secs => queue_timeout), key, created_by
            from n
        )
        insert into container_job_specs (job_id, tenant_id, spec) select id, tenant_id, spec from n"#,
        &ids,
        &tenants,
        &projects,
        &names,
        &templates as &[Option<Uuid>],
        &executors,
        &preferred as &[Option<String>],
        &reasons,
        &commands as &[Option<Value>],
        &environments as &[Option<Value>],
        &priorities,
        &not_before as &[Option<DateTime<Utc>>],
        &queue_timeouts as &[Option<i32>],
        &keys as &[Option<String>],
        &creators,
        &specs
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
