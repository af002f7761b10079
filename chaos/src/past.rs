//! What is over since long: jobs and logs that must leave, batch by batch, beside such as must stay. Nobody hands them in:
//! their rows are written as if they had run in another month.

use std::collections::BTreeMap;

use gantry_core::JobId;
use sqlx::PgPool;
use uuid::Uuid;

use crate::producer::Received;
use crate::verdict::Verdict;
use crate::workload;

/// Who made these jobs, as their rows say.
pub(crate) const MAKER: &str = "another month";
/// Rows of a job beside its log: its spec, one attempt, one event.
const PARTS: i64 = 3;
/// How far back a job's attempt is moved that is over while its job is not: longer than anything is kept.
const AGE_DAYS: i32 = 40;

/// What must become of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It leaves with all that belongs to it, when its end is told.
    Leaves,
    /// Its log leaves, and nothing else.
    LosesItsLog,
    Stays,
}

/// Jobs of one age.
struct Kind {
    name: &'static str,
    fate: Fate,
    jobs: usize,
    /// Lines of each one's log, a chunk each.
    lines: u32,
    /// How many days ago the attempt ended.
    days: i32,
    /// Whether the job is over too; else it waits for its next attempt.
    over: bool,
}

/// Jobs are kept for 30 days and logs for 7, where nobody says otherwise. More logs than one batch takes, in number and in
/// chunks.
static KINDS: [Kind; 5] = [
    Kind { name: "a month and more", fate: Fate::Leaves, jobs: 120, lines: 1, days: 40, over: true },
    Kind { name: "with a long log", fate: Fate::Leaves, jobs: 1, lines: 1_200, days: 40, over: true },
    Kind { name: "a week and more", fate: Fate::LosesItsLog, jobs: 3, lines: 5, days: 8, over: true },
    Kind { name: "some days", fate: Fate::Stays, jobs: 3, lines: 5, days: 6, over: true },
    Kind { name: "to be tried again", fate: Fate::Stays, jobs: 3, lines: 5, days: 40, over: false },
];

/// What is there of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
struct Rows {
    id: Uuid,
    job: bool,
    /// Specs, attempts and events.
    parts: i64,
    log: String,
}

/// What was made.
#[derive(Default)]
pub(crate) struct Past {
    jobs: Vec<(&'static Kind, JobId)>,
    /// Attempts that were moved back while their jobs were not over, with their output.
    aged: BTreeMap<(Uuid, i32), String>,
}

impl Past {
    /// Makes jobs of every kind; `sql` as the database's owner.
    pub(crate) async fn put(&mut self, sql: &PgPool) -> anyhow::Result<()> {
        for kind in &KINDS {
            let ids: Vec<JobId> = (0..kind.jobs).map(|_| JobId::new()).collect();
            insert(sql, kind, &ids).await?;
            self.jobs.extend(ids.into_iter().map(|id| (kind, id)));
        }
        Ok(())
    }

    /// Moves the attempts of `jobs` back that are over while their job is not.
    pub(crate) async fn age(&mut self, sql: &PgPool, jobs: &[Uuid]) -> anyhow::Result<()> {
        let aged: Vec<(Uuid, i32, String)> = sqlx::query_as(
            "update container_executions e set ended_at = e.ended_at - make_interval(days => $2)
             from container_jobs j
             where j.id = any($1) and e.job_id = j.id and j.completed_at is null and e.ended_at > now() - interval '1 day'
             returning e.job_id, e.attempt, (
                select coalesce(convert_from(string_agg(c.data, ''::bytea order by c.sequence), 'UTF8'), '')
                from container_log_chunks c where c.job_id = e.job_id and c.attempt = e.attempt)",
        )
        .bind(jobs)
        .bind(AGE_DAYS)
        .fetch_all(sql)
        .await?;
        self.aged.extend(aged.into_iter().map(|(job, attempt, log)| ((job, attempt), log)));
        Ok(())
    }

    /// All of them. None may run.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.jobs.iter().map(|(_, id)| *id)
    }

    /// Whether all that must leave has been told and has left.
    pub(crate) async fn has_left(&self, sql: &PgPool, received: &Received) -> anyhow::Result<bool> {
        let rows = self.rows(sql).await?;
        let mut verdict = Verdict::default();
        for (kind, id) in self.jobs.iter().filter(|(kind, _)| kind.fate != Fate::Stays) {
            judge(kind, *id, rows.get(id), received.ends(*id), &mut verdict);
        }
        Ok(verdict.total() == 0)
    }

    /// Counts what stayed and must not, and what left and should not have.
    pub(crate) async fn judge(&self, sql: &PgPool, received: &Received, verdict: &mut Verdict) -> anyhow::Result<()> {
        let rows = self.rows(sql).await?;
        for (kind, id) in &self.jobs {
            judge(kind, *id, rows.get(id), received.ends(*id), verdict);
        }
        for ((job, attempt), log) in &self.aged {
            let found: Option<String> = sqlx::query_scalar(
                "select (select coalesce(convert_from(string_agg(c.data, ''::bytea order by c.sequence), 'UTF8'), '')
                         from container_log_chunks c where c.job_id = e.job_id and c.attempt = e.attempt)
                 from container_executions e
                 where e.job_id = $1 and e.attempt = $2 and e.logs_expired_at is null and e.logs_removed_at is null",
            )
            .bind(job)
            .bind(attempt)
            .fetch_optional(sql)
            .await?;
            if found.as_ref() != Some(log) {
                verdict.lose(format!("attempt {attempt} of {job}, which was not over, was touched: {found:?}"));
            }
        }
        Ok(())
    }

    async fn rows(&self, sql: &PgPool) -> anyhow::Result<BTreeMap<JobId, Rows>> {
        let ids: Vec<Uuid> = self.jobs.iter().map(|(_, id)| id.uuid()).collect();
        let rows: Vec<Rows> = sqlx::query_as(
            "select o.id, exists (select from container_jobs j where j.id = o.id) as job,
                 (select count(*) from tenants t join container_job_specs s on s.tenant_id = t.id and s.job_id = o.id)
                 + (select count(*) from container_executions e where e.job_id = o.id)
                 + (select count(*) from job_events v where v.job_id = o.id) as parts,
                 (select coalesce(convert_from(string_agg(c.data, ''::bytea order by c.sequence), 'UTF8'), '')
                  from container_log_chunks c where c.job_id = o.id) as log
             from unnest($1::uuid[]) as o(id)",
        )
        .bind(&ids)
        .fetch_all(sql)
        .await?;
        Ok(rows.into_iter().map(|row| (row.id.into(), row)).collect())
    }
}

fn judge(kind: &Kind, id: JobId, rows: Option<&Rows>, told: usize, verdict: &mut Verdict) {
    let Some(Rows { job, parts, log, .. }) = rows else {
        return verdict.lose(format!("nobody looked at {id}"));
    };
    let name = kind.name;
    let found = format!("{job}, {parts} of {PARTS} rows beside it, {} bytes of its log", log.len());
    if kind.fate == Fate::Leaves {
        if *job || *parts > 0 || !log.is_empty() {
            verdict.wrong(format!("{name} ({id}) must have left: {found}"));
        }
        match told {
            0 => verdict.lose(format!("nobody was told of the end of {name} ({id})")),
            1 => {}
            more => verdict.duplicate(format!("{name} ({id}) has {more} ends")),
        }
        return;
    }
    if !job || *parts != PARTS {
        verdict.lose(format!("{name} ({id}) must be there: {found}"));
    }
    let whole = *log == workload::lines(kind.lines);
    match kind.fate {
        Fate::LosesItsLog if !log.is_empty() => {
            verdict.wrong(format!("the log of {name} ({id}) must have left: {found}"))
        }
        Fate::Stays if !whole => verdict.lose(format!("the log of {name} ({id}) must be there: {found}")),
        _ => {}
    }
}

/// Writes jobs with all that belongs to them. The ends of those that leave are not told yet.
async fn insert(sql: &PgPool, kind: &Kind, ids: &[JobId]) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    sqlx::query(
        "with place as (
            select t.id as tenant, p.id as project, h.id as host, gen_random_uuid() as worker,
                now() - make_interval(days => $2) as ended
            from tenants t join projects p on p.tenant_id = t.id
            cross join (select id from executor_hosts order by id limit 1) h
        ), workers as (
            insert into workers (id, executor_type, name, version, reads_version, state, lease_seconds, started_at, last_beat_at,
                ended_at)
            select worker, 'mock', $3, '0', 1, 'handed_over', 6, ended, ended, ended from place
        ), jobs as (
            insert into container_jobs (id, tenant_id, project_id, status, executor_type, attempt, exit_code, executor_host_id,
                name, routing_reason, created_by, created_at, started_at, completed_at, waiting_reason, parked_until)
            select id, tenant, project, case when $4 then 'completed' else 'pending' end::job_status, 'mock', 1,
                case when $4 then 0 end, host, $5, $3, $3, ended, ended, case when $4 then ended end,
                case when not $4 then 'not_before' end::waiting_reason,
                case when not $4 then timestamptz '2999-01-01' end
            from place, unnest($1::uuid[]) as o(id)
        ), specs as (
            insert into container_job_specs (job_id, tenant_id, spec)
            select id, tenant, '{\"image\": \"simulated\", \"timeout_seconds\": 60, \"labels\": {}}'
            from place, unnest($1::uuid[]) as o(id)
        ), attempts as (
            insert into container_executions (job_id, attempt, tenant_id, executor_host_id, worker_id, slot_held, external_name,
                claimed_at, launch_sent_at, started_at, ended_at, exit_code, log_sequence)
            select id, 1, tenant, host, worker, false, 'past', ended, ended, ended, ended, 0, $6
            from place, unnest($1::uuid[]) as o(id)
        ), chunks as (
            insert into container_log_chunks (job_id, attempt, stream, byte_offset, sequence, tenant_id, data)
            select id, 1, 'stdout', n, n, tenant, convert_to('line ' || n || chr(10), 'UTF8')
            from place, unnest($1::uuid[]) as o(id), generate_series(1, $6) as n
        ), untold as (
            insert into outbox (id, jobs, sequences, created_at)
            select gen_random_uuid(), array[id], array[7], ended from place, unnest($1::uuid[]) as o(id) where $7
        )
        insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data, created_at)
        select id, 7, tenant, 'mock', case when $4 then 'completed' else 'retrying' end,
            jsonb_build_object('job_id', id, 'tenant_id', tenant, 'name', $5, 'executor_type', 'mock', 'attempt', 1,
                'sequence', 7, 'status', case when $4 then 'completed' else 'pending' end),
            ended
        from place, unnest($1::uuid[]) as o(id)",
    )
    .bind(&ids)
    .bind(kind.days)
    .bind(MAKER)
    .bind(kind.over)
    .bind(kind.name)
    .bind(i32::try_from(kind.lines)?)
    .bind(kind.fate == Fate::Leaves)
    .execute(sql)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fate_is_told_from_the_others() {
        let counts = |fate, rows: &Rows, told| {
            let kind = KINDS.iter().find(|kind| kind.fate == fate).expect("a kind");
            let mut verdict = Verdict::default();
            judge(kind, JobId::new(), Some(rows), told, &mut verdict);
            (verdict.lost, verdict.duplicated, verdict.wrong_result)
        };
        let gone = Rows::default();
        let without_log = Rows { job: true, parts: PARTS, ..Rows::default() };
        let whole = Rows { log: workload::lines(5), ..without_log.clone() };
        assert_eq!(counts(Fate::Leaves, &gone, 1), (0, 0, 0));
        assert_eq!(counts(Fate::Leaves, &gone, 0), (1, 0, 0), "it left before anybody was told");
        assert_eq!(counts(Fate::Leaves, &gone, 2), (0, 1, 0));
        assert_eq!(counts(Fate::Leaves, &without_log, 1), (0, 0, 1));
        assert_eq!(counts(Fate::Leaves, &Rows { parts: 1, ..Rows::default() }, 1), (0, 0, 1), "a row without its job");
        assert_eq!(counts(Fate::LosesItsLog, &without_log, 0), (0, 0, 0));
        assert_eq!(counts(Fate::LosesItsLog, &whole, 0), (0, 0, 1));
        assert_eq!(counts(Fate::LosesItsLog, &gone, 0), (1, 0, 0));
        assert_eq!(counts(Fate::Stays, &whole, 0), (0, 0, 0));
        assert_eq!(counts(Fate::Stays, &without_log, 0), (1, 0, 0));
        assert_eq!(counts(Fate::Stays, &Rows { parts: PARTS - 1, ..whole }, 0), (1, 0, 0), "its spec is missing");
        assert_eq!(counts(Fate::Stays, &gone, 0), (2, 0, 0));
    }
}
