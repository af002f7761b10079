//! What is done at the due times of schedules.
//!
//! A dispatcher reads what is due, prepares the jobs without holding anything, and hands both in: one transaction locks
//! the schedules, drops what another dispatcher or an edit was faster with, writes what became of each due time, inserts
//! the jobs and advances the schedules. A due time is a key, so that it is decided about once. Locks: schedules, which
//! are never waited for, then whatever admission takes.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use gantry_core::schedule::{Outcome, Overlap, Skipped};
use gantry_core::{JobId, Problem, ScheduleId, TenantId};
use uuid::Uuid;

use crate::admission::{self, Inserted, NewJob};
use crate::error::{Result, parse};
use crate::tx::{Scope, Store, Tx};

/// Due times of one schedule that wait for an open job at most; further ones are skipped.
pub const MAX_WAITING: i32 = 100;

/// A due time and the job that it is to make, or why it cannot.
#[derive(Clone, Debug)]
pub struct Firing {
    /// The due time.
    pub at: DateTime<Utc>,
    /// Its job, or why there is none.
    pub job: Result<NewJob, Problem>,
}

/// What is to be done about a schedule that is due.
#[derive(Clone, Debug)]
pub struct Step {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The owner.
    pub tenant: TenantId,
    /// As it was read.
    pub revision: i32,
    /// The due time as it was read.
    pub from: DateTime<Utc>,
    /// The due times that are to make a job, oldest first.
    pub due: Vec<Firing>,
    /// Due times that were missed.
    pub skipped: Option<Skipped>,
    /// When it is due next.
    pub next: Option<DateTime<Utc>>,
}

/// What became of a due time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The due time.
    pub at: DateTime<Utc>,
    /// What became of it.
    pub outcome: Outcome,
    /// The job that it made.
    pub job: Option<JobId>,
    /// Why it made none.
    pub detail: Option<String>,
}

/// A decision with what it takes to store it.
struct Run {
    tenant: TenantId,
    decided: Decided,
    new: Option<NewJob>,
}

impl Run {
    fn new(
        schedule: ScheduleId,
        tenant: TenantId,
        at: DateTime<Utc>,
        outcome: Outcome,
        detail: Option<String>,
    ) -> Self {
        Self { tenant, decided: Decided { schedule, at, outcome, job: None, detail }, new: None }
    }

    fn of(schedule: ScheduleId, tenant: TenantId, firing: Firing) -> Self {
        match firing.job {
            Ok(new) => Self {
                new: Some(new.clone()),
                decided: Decided {
                    schedule,
                    at: firing.at,
                    outcome: Outcome::Submitted,
                    job: Some(new.id),
                    detail: None,
                },
                tenant,
            },
            Err(problem) => Self::new(schedule, tenant, firing.at, Outcome::Refused, Some(problem.to_string())),
        }
    }
}

/// Decides about the due times of these schedules and advances them, all or none; those that were changed meanwhile are
/// left as they are.
pub async fn fire(store: &Store, steps: &[Step]) -> Result<Vec<Decided>> {
    store
        .run("firing::fire", || async {
            let mut tx = store.begin_scoped("firing::fire", Scope::Fleet).await?;
            let locked = lock(&mut tx, steps).await?;
            let taken: Vec<&Step> = steps.iter().filter(|step| locked.contains_key(&step.schedule)).collect();
            if taken.is_empty() {
                return Ok(Vec::new());
            }
            let open =
                open(&mut tx, locked.iter().filter(|(_, l)| l.overlap != Overlap::Allow).map(|(id, _)| *id)).await?;
            let mut runs: Vec<Run> = taken
                .iter()
                .flat_map(|step| decide(step, &locked[&step.schedule], open.contains(&step.schedule)))
                .collect();
            insert_runs(&mut tx, &mut runs).await?;
            submit(&mut tx, &mut runs).await?;
            let advanced: Vec<(ScheduleId, Option<DateTime<Utc>>)> =
                taken.iter().map(|step| (step.schedule, step.next)).collect();
            advance(&mut tx, &advanced, &runs).await?;
            tx.commit().await?;
            Ok(runs.into_iter().map(|run| run.decided).collect())
        })
        .await
}

/// A due time that waited, and the job that it makes now.
#[derive(Clone, Debug)]
pub struct Release {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The owner.
    pub tenant: TenantId,
    /// As it was read.
    pub revision: i32,
    /// The due time and its job.
    pub firing: Firing,
}

/// Submits due times that waited, all or none; not where a job is open again, or somebody else was faster.
pub async fn release(store: &Store, releases: &[Release]) -> Result<Vec<Decided>> {
    store
        .run("firing::release", || async {
            let mut tx = store.begin_scoped("firing::release", Scope::Fleet).await?;
            let locked = lock_waiting(&mut tx, releases).await?;
            let open = open(&mut tx, locked.iter().copied()).await?;
            let mut runs: Vec<Run> = releases
                .iter()
                .filter(|release| locked.contains(&release.schedule) && !open.contains(&release.schedule))
                .map(|release| Run::of(release.schedule, release.tenant, release.firing.clone()))
                .collect();
            end_waiting(&mut tx, &mut runs).await?;
            submit(&mut tx, &mut runs).await?;
            count_down(&mut tx, &runs).await?;
            tx.commit().await?;
            Ok(runs.into_iter().map(|run| run.decided).collect())
        })
        .await
}

/// A schedule as it stands under its lock.
struct Locked {
    overlap: Overlap,
    waiting: i32,
}

async fn lock(tx: &mut Tx, steps: &[Step]) -> Result<HashMap<ScheduleId, Locked>> {
    let ids: Vec<Uuid> = steps.iter().map(|step| step.schedule.uuid()).collect();
    let revisions: Vec<i32> = steps.iter().map(|step| step.revision).collect();
    let due: Vec<DateTime<Utc>> = steps.iter().map(|step| step.from).collect();
    let rows = sqlx::query!(
        r#"/* firing::lock */
        select s.id, s.overlap::text as "overlap!", s.waiting
        from unnest($1::uuid[], $2::int[], $3::timestamptz[]) as w(id, revision, due_at)
        join schedules s on s.id = w.id and s.revision = w.revision and s.next_due_at = w.due_at
        for no key update of s skip locked"#,
        &ids,
        &revisions,
        &due
    )
    .fetch_all(&mut **tx)
    .await?;
    let locked =
        |row: (Uuid, String, i32)| Ok((row.0.into(), Locked { overlap: parse("overlap", &row.1)?, waiting: row.2 }));
    rows.into_iter().map(|row| locked((row.id, row.overlap, row.waiting))).collect()
}

async fn lock_waiting(tx: &mut Tx, releases: &[Release]) -> Result<HashSet<ScheduleId>> {
    let ids: Vec<Uuid> = releases.iter().map(|release| release.schedule.uuid()).collect();
    let revisions: Vec<i32> = releases.iter().map(|release| release.revision).collect();
    let rows = sqlx::query!(
        "/* firing::lock_waiting */
        select s.id from unnest($1::uuid[], $2::int[]) as w(id, revision)
        join schedules s on s.id = w.id and s.revision = w.revision
        where s.waiting > 0 and s.paused_at is null for no key update of s skip locked",
        &ids,
        &revisions
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|row| row.id.into()).collect())
}

/// Those that have a job that has not ended. Asked under their locks, and in a statement of its own: only so it sees a
/// job that was made right before.
async fn open(tx: &mut Tx, schedules: impl Iterator<Item = ScheduleId>) -> Result<HashSet<ScheduleId>> {
    let ids: Vec<Uuid> = schedules.map(ScheduleId::uuid).collect();
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let rows = sqlx::query!(
        r#"/* firing::open */
        select w.id as "id!" from unnest($1::uuid[]) as w(id) where exists (
            select 1 from container_jobs j where j.schedule_id = w.id and j.status in ('pending', 'running'))"#,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|row| row.id.into()).collect())
}

/// What becomes of each due time of one schedule.
fn decide(step: &Step, locked: &Locked, mut open: bool) -> Vec<Run> {
    let mut waiting = locked.waiting;
    let run = |at, outcome, detail| Run::new(step.schedule, step.tenant, at, outcome, detail);
    let missed = step.skipped.map(|skipped| {
        let text = format!("every due time from this one on and before {} was missed", skipped.before.to_rfc3339());
        run(skipped.first, Outcome::SkippedMissed, Some(text))
    });
    let due = step.due.iter().map(|firing| match locked.overlap {
        Overlap::Skip if open => {
            run(firing.at, Outcome::SkippedOverlap, Some("a job of the schedule was pending or running".to_owned()))
        }
        Overlap::Queue if waiting >= MAX_WAITING => {
            run(firing.at, Outcome::SkippedOverlap, Some(format!("{MAX_WAITING} due times waited already")))
        }
        Overlap::Queue if open || waiting > 0 => {
            waiting += 1;
            run(firing.at, Outcome::QueuedOverlap, None)
        }
        Overlap::Allow | Overlap::Skip | Overlap::Queue => {
            open |= firing.job.is_ok();
            Run::of(step.schedule, step.tenant, firing.clone())
        }
    });
    missed.into_iter().chain(due).collect()
}

/// Writes the decisions, and forgets those about due times that were decided about before.
async fn insert_runs(tx: &mut Tx, runs: &mut Vec<Run>) -> Result<()> {
    let Columns { schedules, due, tenants, outcomes, jobs, details } = Columns::of(&*runs);
    let rows = sqlx::query!(
        "/* firing::insert_runs */
        insert into schedule_runs (schedule_id, due_at, tenant_id, outcome, job_id, detail)
        select schedule_id, due_at, tenant_id, outcome::schedule_outcome, job_id, detail
        from unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::uuid[], $6::text[])
            as n(schedule_id, due_at, tenant_id, outcome, job_id, detail)
        on conflict do nothing returning schedule_id, due_at",
        &schedules,
        &due,
        &tenants,
        &outcomes,
        &jobs as &[Option<Uuid>],
        &details as &[Option<String>]
    )
    .fetch_all(&mut **tx)
    .await?;
    let written: HashSet<(Uuid, DateTime<Utc>)> = rows.into_iter().map(|row| (row.schedule_id, row.due_at)).collect();
    runs.retain(|run| written.contains(&(run.decided.schedule.uuid(), run.decided.at)));
    Ok(())
}

/// Writes what becomes of due times that waited, and forgets those that do not wait any more.
async fn end_waiting(tx: &mut Tx, runs: &mut Vec<Run>) -> Result<()> {
    let Columns { schedules, due, outcomes, jobs, details, .. } = Columns::of(&*runs);
    let rows = sqlx::query!(
        "/* firing::end_waiting */
        update schedule_runs r set outcome = n.outcome::schedule_outcome, job_id = n.job_id, detail = n.detail
        from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[])
            as n(schedule_id, due_at, outcome, job_id, detail)
        where r.schedule_id = n.schedule_id and r.due_at = n.due_at and r.outcome = 'queued_overlap'
        returning r.schedule_id, r.due_at",
        &schedules,
        &due,
        &outcomes,
        &jobs as &[Option<Uuid>],
        &details as &[Option<String>]
    )
    .fetch_all(&mut **tx)
    .await?;
    let written: HashSet<(Uuid, DateTime<Utc>)> = rows.into_iter().map(|row| (row.schedule_id, row.due_at)).collect();
    runs.retain(|run| written.contains(&(run.decided.schedule.uuid(), run.decided.at)));
    Ok(())
}

/// Inserts the jobs. What admission decides otherwise than expected, because of a key or a cap, is set right.
async fn submit(tx: &mut Tx, runs: &mut [Run]) -> Result<()> {
    let mut submitted: Vec<&mut Run> = runs.iter_mut().filter(|run| run.new.is_some()).collect();
    let jobs: Vec<NewJob> = submitted.iter_mut().filter_map(|run| run.new.take()).collect();
    let inserted = admission::insert_within(tx, &jobs).await?;
    let mut changed = Vec::new();
    for (run, inserted) in submitted.into_iter().zip(inserted) {
        if matches!(inserted, Inserted::New(_)) {
            continue;
        }
        let decided = &mut run.decided;
        match inserted.job() {
            Ok(job) => decided.job = Some(job),
            Err(problem) => {
                (decided.job, decided.outcome, decided.detail) = (None, Outcome::Refused, Some(problem.to_string()));
            }
        }
        changed.push(&*run);
    }
    if changed.is_empty() {
        return Ok(());
    }
    let Columns { schedules, due, outcomes, jobs, details, .. } = Columns::of(changed);
    sqlx::query!(
        "/* firing::submit */
        update schedule_runs r set outcome = n.outcome::schedule_outcome, job_id = n.job_id, detail = n.detail
        from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::text[])
            as n(schedule_id, due_at, outcome, job_id, detail)
        where r.schedule_id = n.schedule_id and r.due_at = n.due_at",
        &schedules,
        &due,
        &outcomes,
        &jobs as &[Option<Uuid>],
        &details as &[Option<String>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What the runs of one schedule change of its row.
#[derive(Default)]
struct Change {
    last_due: Option<DateTime<Utc>>,
    last_job: Option<JobId>,
    waits: i32,
    /// Of the last due time that made a job or was refused; none if there was none.
    error: Option<Option<String>>,
}

fn changes(runs: &[Run]) -> HashMap<ScheduleId, Change> {
    let mut changes: HashMap<ScheduleId, Change> = HashMap::new();
    for decided in runs.iter().map(|run| &run.decided) {
        let change = changes.entry(decided.schedule).or_default();
        change.last_due = change.last_due.max(Some(decided.at));
        change.last_job = decided.job.or(change.last_job);
        match decided.outcome {
            Outcome::Submitted => change.error = Some(None),
            Outcome::Refused => change.error = Some(decided.detail.clone()),
            Outcome::QueuedOverlap => change.waits += 1,
            Outcome::SkippedMissed | Outcome::SkippedOverlap => {}
        }
    }
    changes
}

async fn advance(tx: &mut Tx, steps: &[(ScheduleId, Option<DateTime<Utc>>)], runs: &[Run]) -> Result<()> {
    let mut changes = changes(runs);
    let changes: Vec<Change> = steps.iter().map(|(id, _)| changes.remove(id).unwrap_or_default()).collect();
    let ids: Vec<Uuid> = steps.iter().map(|(id, _)| id.uuid()).collect();
    let next: Vec<Option<DateTime<Utc>>> = steps.iter().map(|(_, next)| *next).collect();
    let last_due: Vec<Option<DateTime<Utc>>> = changes.iter().map(|change| change.last_due).collect();
    let last_job: Vec<Option<Uuid>> = changes.iter().map(|change| change.last_job.map(JobId::uuid)).collect();
    let waits: Vec<i32> = changes.iter().map(|change| change.waits).collect();
    let tried: Vec<bool> = changes.iter().map(|change| change.error.is_some()).collect();
    let errors: Vec<Option<String>> = changes.into_iter().map(|change| change.error.flatten()).collect();
    sqlx::query!(
        "/* firing::advance */
        update schedules s set next_due_at = n.next, last_due_at = coalesce(n.last_due, s.last_due_at),
            last_job_id = coalesce(n.last_job, s.last_job_id), waiting = s.waiting + n.waits,
            last_error = case when n.tried then n.error else s.last_error end,
            last_error_at = case when not n.tried then s.last_error_at when n.error is not null then now() end
        from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::uuid[], $5::int[], $6::bool[], $7::text[])
            as n(id, next, last_due, last_job, waits, tried, error)
        where s.id = n.id",
        &ids,
        &next as &[Option<DateTime<Utc>>],
        &last_due as &[Option<DateTime<Utc>>],
        &last_job as &[Option<Uuid>],
        &waits,
        &tried,
        &errors as &[Option<String>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The same for due times that waited: they were last due long before.
async fn count_down(tx: &mut Tx, runs: &[Run]) -> Result<()> {
    let ids: Vec<Uuid> = runs.iter().map(|run| run.decided.schedule.uuid()).collect();
    let jobs: Vec<Option<Uuid>> = runs.iter().map(|run| run.decided.job.map(JobId::uuid)).collect();
    let errors: Vec<Option<String>> = runs.iter().map(|run| run.decided.detail.clone()).collect();
    sqlx::query!(
        "/* firing::count_down */
        update schedules s set last_job_id = coalesce(n.job, s.last_job_id), waiting = s.waiting - 1,
            last_error = n.error, last_error_at = case when n.error is not null then now() end
        from unnest($1::uuid[], $2::uuid[], $3::text[]) as n(id, job, error) where s.id = n.id",
        &ids,
        &jobs as &[Option<Uuid>],
        &errors as &[Option<String>]
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Runs, column by column.
#[derive(Default)]
struct Columns {
    schedules: Vec<Uuid>,
    due: Vec<DateTime<Utc>>,
    tenants: Vec<Uuid>,
    outcomes: Vec<String>,
    jobs: Vec<Option<Uuid>>,
    details: Vec<Option<String>>,
}

impl Columns {
    fn of<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Self {
        let mut columns = Self::default();
        for Run { tenant, decided, .. } in runs {
            columns.schedules.push(decided.schedule.uuid());
            columns.due.push(decided.at);
            columns.tenants.push(tenant.uuid());
            columns.outcomes.push(decided.outcome.to_string());
            columns.jobs.push(decided.job.map(JobId::uuid));
            columns.details.push(decided.detail.clone());
        }
        columns
    }
}
