//! Admission of a batch.

use std::collections::{BTreeMap, BTreeSet};

use gantry_core::message::{Newcomer, WorkItem};
use gantry_core::problem::{Code, Problem};
use gantry_core::routing::failover::Routing;
use gantry_core::routing::{self, Question};
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::admission::{self as rows, Inserted, NewJob};
use gantry_store::names::{self, Names};
use gantry_store::tenants::DEFAULT_PROJECT;
use gantry_store::{Error, Scope, Store};

use crate::incoming::Incoming;
use crate::resolve::resolve;

/// A job that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its id.
    pub job: JobId,
    /// Whether the same submission had made it before.
    pub existing: bool,
    /// Where it was routed.
    pub executor: ExecutorType,
    /// What the caller publishes now: it is in the window already.
    pub dispatched: Option<WorkItem>,
    /// Whether it is new, ready and in line.
    pub in_line: bool,
    /// What dispatchers are told of it, if it is in line: see [`NewJob::newcomer`].
    pub newcomer: Option<Newcomer>,
}

/// Admits a batch, deciding for each item in its order. A refusal hurts only its own item; an error is
/// Postgres's and about the whole batch: nothing of it is durable then, and it may be tried again.
pub async fn admit(store: &Store, scope: Scope, batch: &[Incoming]) -> Result<Vec<Result<Admitted, Problem>>, Error> {
    admit_and_dispatch(store, scope, batch, |_, _| false).await
}

/// The same, for who publishes what enters the window at once. `room` takes so many places of an executor type's window, if
/// it has them and nobody stands in line: there is a place for all that are ready, or none enters, so that never the order
/// of a batch decides. What a limit counts stands in line all the same.
pub async fn admit_and_dispatch(
    store: &Store,
    scope: Scope,
    batch: &[Incoming],
    mut room: impl FnMut(ExecutorType, usize) -> bool,
) -> Result<Vec<Result<Admitted, Problem>>, Error> {
    let mut prepared = prepare_all(store, scope, batch).await?;
    let mut ready: BTreeMap<ExecutorType, usize> = BTreeMap::new();
    for job in prepared.iter().flatten().filter(|job| job.not_before.is_none()) {
        *ready.entry(job.executor_type).or_default() += 1;
    }
    ready.retain(|executor, jobs| room(*executor, *jobs));
    for job in prepared.iter_mut().flatten() {
        job.at_once = ready.contains_key(&job.executor_type);
    }
    let mut jobs: Vec<NewJob> = Vec::with_capacity(prepared.len());
    let prepared: Vec<Result<usize, Problem>> = prepared
        .into_iter()
        .map(|job| {
            job.map(|job| {
                jobs.push(job);
                jobs.len() - 1
            })
        })
        .collect();
    let mut inserted = insert(store, scope, &jobs).await?.into_iter();
    let verdicts = prepared.into_iter().map(|job| {
        let job = &jobs[job?];
        // One verdict for each prepared job, in their order.
        inserted.next().unwrap_or_else(|| Err(refused_by_database())).and_then(|inserted| verdict(job, inserted))
    });
    Ok(verdicts.collect())
}

/// What admission makes of a batch up to the insert: the jobs as they would be stored, in its order. For who stores
/// them together with something else.
pub async fn prepare_all(
    store: &Store,
    scope: Scope,
    batch: &[Incoming],
) -> Result<Vec<Result<NewJob, Problem>>, Error> {
    let catalog = Catalog::load(store, scope, batch).await?;
    Ok(batch.iter().map(|incoming| prepare(incoming, &catalog)).collect())
}

fn verdict(job: &NewJob, inserted: Inserted) -> Result<Admitted, Problem> {
    let id = inserted.job()?;
    let dispatched = match inserted {
        Inserted::Dispatched(item) => Some(item),
        _ => None,
    };
    let existing = matches!(inserted, Inserted::Existing(_));
    let is_new = matches!(inserted, Inserted::New(_));
    let in_line = is_new && job.not_before.is_none();
    let newcomer = job.newcomer().filter(|_| is_new);
    Ok(Admitted { job: id, existing, executor: job.executor_type, dispatched, in_line, newcomer })
}

/// Inserts all; if Postgres refuses the batch for its content, halves it until the one bad item stands alone.
async fn insert(store: &Store, scope: Scope, jobs: &[NewJob]) -> Result<Vec<Result<Inserted, Problem>>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    match rows::insert(store, scope, jobs).await {
        Ok(inserted) => Ok(inserted.into_iter().map(Ok).collect()),
        Err(error) if error.is_transient() => Err(error),
        Err(error) if jobs.len() == 1 => {
            tracing::error!(job.id = %jobs[0].id, tenant.id = %jobs[0].tenant, %error, "Postgres refused a job that admission let through");
            Ok(vec![Err(refused_by_database())])
        }
        Err(_) => {
            let (left, right) = jobs.split_at(jobs.len() / 2);
            let mut inserted = Box::pin(insert(store, scope, left)).await?;
            inserted.extend(Box::pin(insert(store, scope, right)).await?);
            Ok(inserted)
        }
    }
}

/// The refusal for what Postgres will not store, though nothing here knows why.
pub fn refused_by_database() -> Problem {
    Problem::new(
        Code::Internal,
        "the database refused this submission; nothing was stored, and the cause is in Gantry's log",
    )
}

/// What the database knows of the names in a batch: read once, whatever the batch's size.
struct Catalog(Names);

impl Catalog {
    async fn load(store: &Store, scope: Scope, batch: &[Incoming]) -> Result<Self, Error> {
        let tenants: BTreeSet<TenantId> = batch.iter().map(|incoming| incoming.tenant).collect();
        let templates: BTreeSet<(TenantId, String)> =
            batch.iter().filter_map(|i| i.submission.template.clone().map(|template| (i.tenant, template))).collect();
        let projects: BTreeSet<(TenantId, String)> =
            batch.iter().map(|incoming| (incoming.tenant, project_name(incoming).to_owned())).collect();
        let (templates, projects) = (Vec::from_iter(templates), Vec::from_iter(projects));
        Ok(Self(names::read(store, scope, &templates, &projects, &Vec::from_iter(tenants)).await?))
    }

    fn with_active_host(&self, tenant: TenantId) -> Vec<ExecutorType> {
        self.0.active.iter().filter(|(owner, _)| owner.is_none_or(|owner| owner == tenant)).map(|(_, e)| *e).collect()
    }
}

fn project_name(incoming: &Incoming) -> &str {
    incoming.submission.project.as_deref().unwrap_or(DEFAULT_PROJECT)
}

fn prepare(incoming: &Incoming, catalog: &Catalog) -> Result<NewJob, Problem> {
    let Incoming { tenant, created_by, submission, idempotency, traceparent, scheduled } = incoming;
    let project = catalog.0.projects.get(&(*tenant, project_name(incoming).to_owned())).ok_or_else(|| {
        Problem::field(Code::UnknownProject, "project", format!("there is no project `{}`", project_name(incoming)))
    })?;
    let template = submission
        .template
        .as_ref()
        .map(|name| {
            catalog.0.templates.get(&(*tenant, name.clone())).ok_or_else(|| {
                Problem::field(Code::UnknownTemplate, "template", format!("there is no template `{name}`"))
            })
        })
        .transpose()?;
    let mut spec = resolve(submission, template, traceparent.as_deref())?;
    if let Some(scheduled) = scheduled {
        // Behind the checks, which keep these names for Gantry.
        spec.container.environment.extend(scheduled.environment());
    }
    let route = routing::route(&Question {
        preferred: submission.preferred_executor,
        supported: template.map_or(&[], |template| &template.supported_executors),
        with_active_host: &catalog.with_active_host(*tenant),
    })?;
    let name = submission
        .name
        .clone()
        .or_else(|| scheduled.as_ref().map(|scheduled| scheduled.name.clone()))
        .or_else(|| template.map(|template| template.name.clone()))
        .unwrap_or_else(|| spec.container.image.clone());
    Ok(NewJob {
        id: JobId::new(),
        tenant: *tenant,
        project: *project,
        name,
        template: template.map(|template| template.id),
        spec,
        executor_type: route.executor,
        preferred_executor: submission.preferred_executor,
        routing: Routing::begin(&route),
        routing_reason: route.reason,
        override_command: submission.override_command.clone(),
        override_environment: submission.override_environment.clone(),
        concurrency_key: submission.concurrency_key.clone(),
        priority: submission.priority,
        not_before: submission.not_before,
        queue_timeout_seconds: submission.queue_timeout_seconds,
        idempotency: idempotency.clone(),
        created_by: created_by.clone(),
        schedule: scheduled.as_ref().map(|scheduled| scheduled.schedule),
        at_once: false,
    })
}
