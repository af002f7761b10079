//! Schedules: submits what the calendars say is due.
//!
//! Any number of dispatchers may do this side by side: each leaves out what another one is just writing, and of two that
//! prepared the same due time the second finds it decided.

mod metrics;

use std::time::Duration;

use chrono::{DateTime, Utc};
use gantry_admission::{Incoming, Scheduled, prepare_all, refused_by_database};
use gantry_core::Problem;
use gantry_core::schedule::{Calendar, Outcome, Plan, plan};
use gantry_core::spec::Submission;
use gantry_runtime::Shutdown;
use gantry_store::admission::NewJob;
use gantry_store::firing::{self, Decided, Firing, Release, Step};
use gantry_store::schedule_runs::{self, Ready};
use gantry_store::{Error, Scope, Store};

use crate::Parts;

/// Schedules of one transaction at most; a full batch is followed by the next.
const BATCH: i64 = 500;
/// Jobs of one transaction at most, as far as one for each schedule allows.
const JOBS: usize = 1_000;
/// Due times of one schedule that are decided about in one transaction at most.
const PER_SCHEDULE: usize = 100;
/// Between two looks at what is due. Due times are whole seconds.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.requested() => return,
        }
        if let Err(error) = pass(parts).await {
            tracing::warn!(%error, "cannot look after schedules now, trying again");
        }
    }
}

async fn pass(parts: &Parts) -> Result<(), Error> {
    let store = &parts.store;
    loop {
        let ready = schedule_runs::due(store, BATCH).await?;
        let Some(now) = ready.first().map(|ready| ready.now) else { break };
        let full = ready.len() >= BATCH as usize;
        let steps = steps(store, ready).await?;
        let behind = steps.iter().any(|step| step.next.is_some_and(|next| next <= now));
        let decided = write(store, &steps).await?;
        tell(parts, now, &decided);
        if !full && (!behind || decided.is_empty()) {
            break;
        }
    }
    loop {
        let ready = schedule_runs::waiting(store, BATCH).await?;
        let Some(now) = ready.first().map(|ready| ready.now) else { return Ok(()) };
        let full = ready.len() >= BATCH as usize;
        let releases = releases(store, ready).await?;
        let decided = write(store, &releases).await?;
        tell(parts, now, &decided);
        if decided.is_empty() || !full {
            return Ok(());
        }
    }
}

fn tell(parts: &Parts, now: DateTime<Utc>, decided: &[Decided]) {
    for due in decided {
        metrics::decided(due.outcome, now - due.at);
        if let (Outcome::Refused, Some(detail)) = (due.outcome, &due.detail) {
            tracing::warn!(schedule.id = %due.schedule, schedule.due_at = %due.at, detail, "a schedule's job was refused");
        }
    }
    if decided.iter().any(|due| due.job.is_some()) {
        parts.nudge.notify_one();
    }
}

/// The work of schedules that are due: their due times, and the jobs of those.
async fn steps(store: &Store, ready: Vec<Ready>) -> Result<Vec<Step>, Error> {
    let limit = (JOBS / ready.len().max(1)).clamp(1, PER_SCHEDULE);
    let plans: Vec<Result<Plan, Problem>> = ready
        .iter()
        .map(|ready| {
            let calendar = Calendar::parse(&ready.cron, &ready.time_zone)?;
            Ok(plan(&calendar, ready.missed, ready.due_at, ready.now, limit))
        })
        .collect();
    let due: Vec<_> = ready
        .iter()
        .zip(&plans)
        .flat_map(|(ready, plan)| {
            let times = plan.as_ref().map(|plan| plan.due.as_slice()).unwrap_or_default();
            times.iter().map(move |at| (ready, *at))
        })
        .collect();
    let mut jobs = jobs(store, due).await?.into_iter();
    let step = |(ready, plan): (&Ready, Result<Plan, Problem>)| {
        let (due, skipped, next) = match plan {
            Ok(plan) => {
                let firings = plan.due.into_iter().zip(jobs.by_ref()).map(|(at, job)| Firing { at, job });
                (firings.collect(), plan.skipped, plan.next)
            }
            // Written by a version that knew more: it is told once, and due again when somebody puts it anew.
            Err(problem) => (vec![Firing { at: ready.due_at, job: Err(problem) }], None, None),
        };
        Step {
            schedule: ready.schedule,
            tenant: ready.tenant,
            revision: ready.revision,
            from: ready.due_at,
            due,
            skipped,
            next,
        }
    };
    Ok(ready.iter().zip(plans).map(step).collect())
}

async fn releases(store: &Store, ready: Vec<Ready>) -> Result<Vec<Release>, Error> {
    let due = ready.iter().map(|ready| (ready, ready.due_at)).collect();
    let jobs = jobs(store, due).await?;
    let release = |(ready, job): (&Ready, _)| Release {
        schedule: ready.schedule,
        tenant: ready.tenant,
        revision: ready.revision,
        firing: Firing { at: ready.due_at, job },
    };
    Ok(ready.iter().zip(jobs).map(release).collect())
}

/// The jobs of these due times, or why there is none, in their order.
async fn jobs(store: &Store, due: Vec<(&Ready, DateTime<Utc>)>) -> Result<Vec<Result<NewJob, Problem>>, Error> {
    let mut incoming = Vec::new();
    let read: Vec<Result<(), Problem>> = due
        .into_iter()
        .map(|(ready, due)| {
            let submission = Submission::from_value(ready.submission.clone())?;
            let scheduled = Scheduled { schedule: ready.schedule, name: ready.name.clone(), due };
            incoming.push(Incoming::scheduled(ready.tenant, submission, scheduled));
            Ok(())
        })
        .collect();
    let mut prepared = prepare_all(store, Scope::Fleet, &incoming).await?.into_iter();
    // One for each that could be read, in their order.
    let jobs =
        read.into_iter().map(|read| read.and_then(|()| prepared.next().unwrap_or_else(|| Err(refused_by_database()))));
    Ok(jobs.collect())
}

/// Something that is written in batches, and that can be written without its jobs.
trait Batched: Clone + Send + Sync {
    fn write(store: &Store, items: &[Self]) -> impl Future<Output = Result<Vec<Decided>, Error>> + Send;

    fn refused(&self) -> Self;
}

impl Batched for Step {
    async fn write(store: &Store, items: &[Self]) -> Result<Vec<Decided>, Error> {
        firing::fire(store, items).await
    }

    fn refused(&self) -> Self {
        let due = self.due.iter().map(|firing| Firing { at: firing.at, job: Err(refused_by_database()) });
        Self { due: due.collect(), ..self.clone() }
    }
}

impl Batched for Release {
    async fn write(store: &Store, items: &[Self]) -> Result<Vec<Decided>, Error> {
        firing::release(store, items).await
    }

    fn refused(&self) -> Self {
        Self { firing: Firing { at: self.firing.at, job: Err(refused_by_database()) }, ..self.clone() }
    }
}

/// Writes all; if Postgres refuses them for their content, halves them until the one bad item stands alone, whose jobs
/// are then refused. One bad schedule stops no other.
async fn write<T: Batched>(store: &Store, items: &[T]) -> Result<Vec<Decided>, Error> {
    let mut decided = Vec::new();
    let mut parts = vec![items];
    while let Some(part) = parts.pop() {
        match T::write(store, part).await {
            Ok(some) => decided.extend(some),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) if part.len() <= 1 => {
                tracing::error!(%error, "Postgres refused the jobs of a schedule that admission let through");
                let refused: Vec<T> = part.iter().map(Batched::refused).collect();
                match T::write(store, &refused).await {
                    Ok(some) => decided.extend(some),
                    Err(error) => tracing::error!(%error, "Postgres does not even store that they were refused"),
                }
            }
            Err(_) => {
                let (left, right) = part.split_at(part.len() / 2);
                parts.extend([right, left]);
            }
        }
    }
    Ok(decided)
}
