//! Schedules as people see and change them. What is done at a due time is in [`crate::firing`].

use chrono::{DateTime, Utc};
use gantry_core::schedule::{Calendar, Missed, Overlap};
use gantry_core::{JobId, Problem, ScheduleId, Status, TenantId};
use serde_json::Value;

use crate::admission::{self, NewJob};
use crate::error::{Error, Result, parse};
use crate::tx::{Scope, Store, Tx};

/// A schedule to be stored.
#[derive(Clone, Debug)]
pub struct NewSchedule<'a> {
    /// The owner.
    pub tenant: TenantId,
    /// Unique in the tenant.
    pub name: &'a str,
    /// The expression as it was written.
    pub cron: &'a str,
    /// The name of its time zone.
    pub time_zone: &'a str,
    /// The two of them, read.
    pub calendar: &'a Calendar,
    /// What is submitted at each due time.
    pub submission: &'a Value,
    /// What becomes of due times that were missed.
    pub missed: Missed,
    /// What becomes of due times while a job is open.
    pub overlap: Overlap,
    /// Who puts it.
    pub created_by: &'a str,
}

/// A schedule as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleView {
    /// The id.
    pub id: ScheduleId,
    /// The owner.
    pub tenant: TenantId,
    /// Unique in the tenant.
    pub name: String,
    /// The expression.
    pub cron: String,
    /// The time zone.
    pub time_zone: String,
    /// What is submitted.
    pub submission: Value,
    /// What becomes of due times that were missed.
    pub missed: Missed,
    /// What becomes of due times while a job is open.
    pub overlap: Overlap,
    /// Since when it is paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// When it is due next; none while paused, or never again.
    pub next_due_at: Option<DateTime<Utc>>,
    /// The last due time that was decided about.
    pub last_due_at: Option<DateTime<Utc>>,
    /// The last job that it made.
    pub last_job: Option<JobId>,
    /// Where that job stands; none if it is gone.
    pub last_job_status: Option<Status>,
    /// Why the last due time made no job.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<DateTime<Utc>>,
    /// Due times that wait for an open job to end.
    pub waiting: i32,
    /// Who put it last.
    pub created_by: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// The database's time of this reading.
    pub read_at: DateTime<Utc>,
}

/// Stores a schedule, or replaces the one of this name; says whether it is new. A schedule whose calendar stays the same
/// keeps the due time that it waits for, and one that is paused stays paused.
pub async fn put(store: &Store, scope: Scope, new: &NewSchedule<'_>) -> Result<bool> {
    store
        .run("schedules::put", || async {
            let mut tx = store.begin_scoped("schedules::put", scope).await?;
            // One of the two, unless somebody makes or deletes it in between.
            let created = loop {
                if insert(&mut tx, new).await? {
                    break true;
                }
                if replace(&mut tx, new).await? {
                    break false;
                }
            };
            tx.commit().await?;
            Ok(created)
        })
        .await
}

async fn insert(tx: &mut Tx, new: &NewSchedule<'_>) -> Result<bool> {
    let now = now(tx).await?;
    let done = sqlx::query!(
        "/* schedules::insert */
        insert into schedules (id, tenant_id, name, cron, time_zone, submission, missed, overlap, next_due_at, created_by)
        values ($1, $2, $3, $4, $5, $6, $7::text::schedule_missed, $8::text::schedule_overlap, $9, $10)
        on conflict (tenant_id, name) do nothing",
        ScheduleId::new().uuid(),
        new.tenant.uuid(),
        new.name,
        new.cron,
        new.time_zone,
        new.submission,
        new.missed.to_string(),
        new.overlap.to_string(),
        new.calendar.next_after(now),
        new.created_by
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

async fn replace(tx: &mut Tx, new: &NewSchedule<'_>) -> Result<bool> {
    let now = now(tx).await?;
    let done = sqlx::query!(
        "/* schedules::replace */
        update schedules set submission = $3, missed = $4::text::schedule_missed, overlap = $5::text::schedule_overlap,
            next_due_at = case when paused_at is not null then null
                when (cron, time_zone) = ($6, $7) then coalesce(next_due_at, $8) else $8 end,
            cron = $6, time_zone = $7, created_by = $9, updated_at = now(), revision = revision + 1
        where tenant_id = $1 and name = $2",
        new.tenant.uuid(),
        new.name,
        new.submission,
        new.missed.to_string(),
        new.overlap.to_string(),
        new.cron,
        new.time_zone,
        new.calendar.next_after(now),
        new.created_by
    )
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// By the clock that every dispatcher goes by.
async fn now(tx: &mut Tx) -> Result<DateTime<Utc>> {
    let row = sqlx::query!(r#"/* schedules::now */ select now() as "now!""#).fetch_one(&mut **tx).await?;
    Ok(row.now)
}

macro_rules! view {
    ($row:expr) => {{
        let row = $row;
        Ok(ScheduleView {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            name: row.name,
            cron: row.cron,
            time_zone: row.time_zone,
            submission: row.submission,
            missed: parse("missed", &row.missed)?,
            overlap: parse("overlap", &row.overlap)?,
            paused_at: row.paused_at,
            next_due_at: row.next_due_at,
            last_due_at: row.last_due_at,
            last_job: row.last_job_id.map(Into::into),
            last_job_status: row.last_job_status.map(|status| parse("status", &status)).transpose()?,
            last_error: row.last_error,
            last_error_at: row.last_error_at,
            waiting: row.waiting,
            created_by: row.created_by,
            created_at: row.created_at,
            updated_at: row.updated_at,
            read_at: row.read_at,
        })
    }};
}

/// The schedules of a tenant by name, behind `after`; with `only` just the one of that name.
pub async fn list(
    store: &Store,
    scope: Scope,
    only: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<ScheduleView>> {
    store
        .bounded("schedules::list", async {
            let mut tx = store.begin_scoped("schedules::list", scope).await?;
            let rows = sqlx::query!(
                r#"/* schedules::list */
                select s.id, s.tenant_id, s.name, s.cron, s.time_zone, s.submission, s.missed::text as "missed!",
                    s.overlap::text as "overlap!", s.paused_at, s.next_due_at, s.last_due_at, s.last_job_id,
                    j.status::text as last_job_status, s.last_error, s.last_error_at, s.waiting, s.created_by,
                    s.created_at, s.updated_at, now() as "read_at!"
                from schedules s left join container_jobs j on j.id = s.last_job_id
                where ($1::text is null or s.name = $1) and ($2::text is null or s.name > $2)
                order by s.name limit $3"#,
                only,
                after,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.into_iter().map(|row| view!(row)).collect()
        })
        .await
}

/// The schedule of this name.
pub async fn get(store: &Store, scope: Scope, name: &str) -> Result<Option<ScheduleView>> {
    Ok(list(store, scope, Some(name), None, 1).await?.pop())
}

/// Pauses a schedule, or lets it go on; false if there is none of this name. Due times of a pause are not made up for:
/// it goes on with the first one after it.
pub async fn set_paused(store: &Store, scope: Scope, name: &str, paused: bool) -> Result<bool> {
    store
        .run("schedules::set_paused", || async {
            let mut tx = store.begin_scoped("schedules::set_paused", scope).await?;
            let row = sqlx::query!(
                r#"/* schedules::set_paused */
                select id, cron, time_zone, paused_at is not null as "paused!", now() as "now!" from schedules
                where name = $1 for no key update"#,
                name
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(row) = row else { return Ok(false) };
            if row.paused == paused {
                return Ok(true);
            }
            let next = match paused {
                true => None,
                false => calendar(&row.cron, &row.time_zone)?.next_after(row.now),
            };
            sqlx::query!(
                "/* schedules::set_paused */
                update schedules set paused_at = case when $2 then now() end, next_due_at = $3, updated_at = now(),
                    revision = revision + 1 where id = $1",
                row.id,
                paused,
                next
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
}

fn calendar(cron: &str, time_zone: &str) -> Result<Calendar> {
    Calendar::parse(cron, time_zone)
        .map_err(|_| Error::Corrupt { column: "cron and time_zone", value: format!("{cron} in {time_zone}") })
}

/// Deletes a schedule and what waits of it; false if there is none of this name. Its jobs stay.
pub async fn delete(store: &Store, scope: Scope, name: &str) -> Result<bool> {
    store
        .run("schedules::delete", || async {
            let mut tx = store.begin_scoped("schedules::delete", scope).await?;
            let row = sqlx::query!("/* schedules::delete */ delete from schedules where name = $1 returning id", name)
                .fetch_optional(&mut *tx)
                .await?;
            let Some(row) = row else { return Ok(false) };
            sqlx::query!(
                "/* schedules::delete */ delete from schedule_runs where schedule_id = $1 and outcome = 'queued_overlap'",
                row.id
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
}

/// Makes a job of a schedule outside its calendar, whatever else of it is open; `at` is when that was asked for. None if
/// the schedule is gone.
pub async fn trigger(
    store: &Store,
    scope: Scope,
    schedule: ScheduleId,
    at: DateTime<Utc>,
    job: &NewJob,
    by: &str,
) -> Result<Option<Result<JobId, Problem>>> {
    store
        .run("schedules::trigger", || async {
            let mut tx = store.begin_scoped("schedules::trigger", scope).await?;
            // The schedule first, as at a due time.
            let locked = sqlx::query!(
                r#"/* schedules::trigger */ select 1 as "one!" from schedules where id = $1 for no key update"#,
                schedule.uuid()
            )
            .fetch_optional(&mut *tx)
            .await?;
            if locked.is_none() {
                return Ok(None);
            }
            let inserted = admission::insert_within(&mut tx, std::slice::from_ref(job)).await?;
            let made = match inserted.into_iter().next().map(admission::Inserted::job) {
                Some(Ok(made)) => made,
                Some(Err(problem)) => return Ok(Some(Err(problem))),
                None => return Ok(None),
            };
            sqlx::query!(
                "/* schedules::trigger */
                with run as (
                    insert into schedule_runs (schedule_id, due_at, tenant_id, outcome, job_id, triggered_by)
                    values ($1, $2, $3, 'submitted', $4, $5) on conflict do nothing)
                update schedules set last_job_id = $4 where id = $1",
                schedule.uuid(),
                at,
                job.tenant.uuid(),
                made.uuid(),
                by
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Some(Ok(made)))
        })
        .await
}
