//! Schedules of the load: each is due twice when it is put, and makes two jobs that nobody handed in, the second when the
//! first has ended.

use gantry_core::JobId;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::producer::Received;
use crate::verdict::Verdict;

/// Due times that have passed when a schedule is put.
const DUE: i64 = 2;

/// What became of a schedule.
#[derive(Debug, Default, sqlx::FromRow)]
struct Fired {
    name: String,
    /// Due times that made a job.
    submitted: i64,
    /// Jobs that name it.
    jobs: Vec<Uuid>,
    /// Those of them that completed.
    completed: i64,
}

/// Puts a schedule for every tenant; `sql` as the database's owner.
pub(crate) async fn put(sql: &PgPool) -> anyhow::Result<()> {
    let submission = json!({
        "preferred_executor": "mock",
        "spec": { "image": "simulated" },
        "labels": { "mock.duration": "200ms" },
        "priority": 35,
    });
    // Of every New Year the last ones: the next is far away, whenever this is.
    sqlx::query(
        "insert into schedules (id, tenant_id, name, cron, time_zone, submission, missed, overlap, next_due_at, created_by)
         select gen_random_uuid(), id, gen_random_uuid()::text, '0 0 1 1 *', 'UTC', $1, 'all', 'queue',
             (date_trunc('year', now() at time zone 'UTC') - make_interval(years => $2 - 1)) at time zone 'UTC', 'chaos'
         from tenants",
    )
    .bind(submission)
    .bind(i32::try_from(DUE)?)
    .execute(sql)
    .await?;
    Ok(())
}

/// Whether all that is due has made its job, and that one is over and told.
pub(crate) async fn are_over(sql: &PgPool, received: &Received) -> anyhow::Result<bool> {
    let mut verdict = Verdict::default();
    judge(sql, received, &mut verdict).await?;
    Ok(verdict.lost == 0)
}

/// Counts what did not come of them, or twice.
pub(crate) async fn judge(sql: &PgPool, received: &Received, verdict: &mut Verdict) -> anyhow::Result<()> {
    let schedules: Vec<Fired> = sqlx::query_as(
        "select s.name,
             (select count(*) from schedule_runs r where r.schedule_id = s.id and r.outcome = 'submitted') as submitted,
             coalesce((select array_agg(j.id) from container_jobs j where j.schedule_id = s.id), '{}') as jobs,
             (select count(*) from container_jobs j where j.schedule_id = s.id and j.status = 'completed') as completed
         from schedules s",
    )
    .fetch_all(sql)
    .await?;
    for schedule in &schedules {
        fired(schedule, received, verdict);
    }
    Ok(())
}

fn fired(schedule: &Fired, received: &Received, verdict: &mut Verdict) {
    let Fired { name, submitted, jobs, completed } = schedule;
    let made = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
    if made > DUE {
        verdict.duplicate(format!("schedule {name} was due {DUE} times and made {made} jobs"));
    }
    if *submitted < DUE || made < DUE || *completed < DUE {
        verdict.lose(format!(
            "schedule {name} was due {DUE} times: {submitted} made a job, there are {made}, {completed} completed"
        ));
    }
    for job in jobs.iter().map(|id| JobId::from(*id)) {
        match received.ends(job) {
            0 => verdict.lose(format!("nobody was told of the end of {job}, which schedule {name} made")),
            1 => {}
            more => verdict.duplicate(format!("{job}, which schedule {name} made, has {more} ends")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_time_makes_one_job_and_no_more() {
        let counts = |submitted, made: usize, completed, told: usize| {
            let jobs: Vec<Uuid> = (0..made).map(|_| Uuid::now_v7()).collect();
            let mut received = Received::default();
            for job in jobs.iter().take(told) {
                let event = json!({ "id": job, "type": "gantry.job.completed", "subject": JobId::from(*job) });
                received.take(None, event.to_string().as_bytes());
            }
            let mut verdict = Verdict::default();
            fired(&Fired { name: "yearly".to_owned(), submitted, jobs, completed }, &received, &mut verdict);
            (verdict.lost, verdict.duplicated)
        };
        assert_eq!(counts(2, 2, 2, 2), (0, 0));
        assert_eq!(counts(1, 1, 1, 1), (1, 0), "the second is missing");
        assert_eq!(counts(2, 2, 1, 1), (2, 0), "the second is not over, and so not told");
        assert_eq!(counts(2, 3, 3, 3), (0, 1), "one too many");
    }
}
