//! What is due, and what became of each due time. The decision itself is [`crate::firing`].

use chrono::{DateTime, Utc};
use gantry_core::schedule::{Missed, Outcome};
use gantry_core::{JobId, ScheduleId, Status, TenantId};
use serde_json::Value;

use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// A schedule that something is to be done about.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The schedule.
    pub schedule: ScheduleId,
    /// The owner.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// Its expression.
    pub cron: String,
    /// Its time zone.
    pub time_zone: String,
    /// What is to be submitted.
    pub submission: Value,
    /// What becomes of due times that were missed.
    pub missed: Missed,
    /// Which edit of the schedule this is.
    pub revision: i32,
    /// The oldest due time that is not decided about; with [`waiting`] the oldest one that waits.
    pub due_at: DateTime<Utc>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

macro_rules! ready {
    ($rows:expr) => {
        $rows
            .into_iter()
            .map(|row| {
                Ok(Ready {
                    schedule: row.id.into(),
                    tenant: row.tenant_id.into(),
                    name: row.name,
                    cron: row.cron,
                    time_zone: row.time_zone,
                    submission: row.submission,
                    missed: parse("missed", &row.missed)?,
                    revision: row.revision,
                    due_at: row.due_at,
                    now: row.now,
                })
            })
            .collect()
    };
}

/// Schedules that are due, the most overdue first. Those that another dispatcher is just writing are left out.
pub async fn due(store: &Store, limit: i64) -> Result<Vec<Ready>> {
    let statement = sqlx::query!(
        r#"/* schedule_runs::due */
        select id, tenant_id, name, cron, time_zone, submission, missed::text as "missed!", revision,
            next_due_at as "due_at!", now() as "now!"
        from schedules where next_due_at <= now() order by next_due_at limit $1 for no key update skip locked"#,
        limit
    );
    let rows = store.read("schedule_runs::due", statement.fetch_all(store.pool())).await?;
    ready!(rows)
}

/// Schedules of which a due time waits for an open job, and none is open any more.
pub async fn waiting(store: &Store, limit: i64) -> Result<Vec<Ready>> {
    let statement = sqlx::query!(
        r#"/* schedule_runs::waiting */
        select s.id, s.tenant_id, s.name, s.cron, s.time_zone, s.submission, s.missed::text as "missed!", s.revision,
            r.due_at, now() as "now!"
        from schedules s cross join lateral (
            select due_at from schedule_runs r where r.schedule_id = s.id and r.outcome = 'queued_overlap'
            order by due_at limit 1) r
        where s.waiting > 0 and s.paused_at is null and not exists (
            select 1 from container_jobs j where j.schedule_id = s.id and j.status in ('pending', 'running'))
        order by r.due_at, s.id
        limit $1 for no key update of s skip locked"#,
        limit
    );
    let rows = store.read("schedule_runs::waiting", statement.fetch_all(store.pool())).await?;
    ready!(rows)
}

/// A due time of a schedule as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunView {
    /// The due time; for a run outside the calendar, when it was asked for.
    pub due_at: DateTime<Utc>,
    /// What became of it.
    pub outcome: Outcome,
    /// The job that it made.
    pub job: Option<JobId>,
    /// Where that job stands; none if it is gone.
    pub job_status: Option<Status>,
    /// Who asked for a run outside the calendar.
    pub triggered_by: Option<String>,
    /// Why it made no job.
    pub detail: Option<String>,
    /// When it was decided.
    pub created_at: DateTime<Utc>,
}

/// What became of the due times of a schedule, newest first, older than `before`.
pub async fn list(
    store: &Store,
    scope: Scope,
    schedule: ScheduleId,
    before: Option<DateTime<Utc>>,
    limit: i64,
) -> Result<Vec<RunView>> {
    store
        .bounded("schedule_runs::list", async {
            let mut tx = store.begin_scoped("schedule_runs::list", scope).await?;
            let rows = sqlx::query!(
                r#"/* schedule_runs::list */
                select r.due_at, r.outcome::text as "outcome!", r.job_id, j.status::text as job_status, r.triggered_by,
                    r.detail, r.created_at
                from schedule_runs r left join container_jobs j on j.id = r.job_id
                where r.schedule_id = $1 and ($2::timestamptz is null or r.due_at < $2)
                order by r.due_at desc limit $3"#,
                schedule.uuid(),
                before,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.into_iter()
                .map(|row| {
                    Ok(RunView {
                        due_at: row.due_at,
                        outcome: parse("outcome", &row.outcome)?,
                        job: row.job_id.map(Into::into),
                        job_status: row.job_status.map(|status| parse("status", &status)).transpose()?,
                        triggered_by: row.triggered_by,
                        detail: row.detail,
                        created_at: row.created_at,
                    })
                })
                .collect()
        })
        .await
}
