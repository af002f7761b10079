//! Many jobs at once: a crowd that has failed is submitted anew by one operation, and the new jobs are cancelled by
//! another, with one that runs; each takes several batches.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use gantry_core::bulk::{Deed, Filter};
use gantry_core::{BulkId, JobId, TenantId};
use gantry_store::audit::Actor;
use gantry_store::{Scope, Store, bulk};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::producer::Received;
use crate::verdict::Verdict;

/// Who made the crowd and asked for the operations, as the rows say.
pub(crate) const MAKER: &str = "crowd";
/// A full batch, and some more.
const JOBS: usize = 600;

/// All that was asked for.
pub(crate) struct Crowd {
    tenant: TenantId,
    rounds: Vec<Round>,
}

/// Two operations on one crowd.
struct Round {
    /// Of each job of it, and of nobody else.
    name: String,
    failed: BTreeSet<JobId>,
    /// The key of the one that runs.
    runs: String,
    retry: BulkId,
    /// When it is due.
    cancel: Option<BulkId>,
}

/// What Gantry's rows say of a round.
#[derive(Clone, Debug, Default)]
struct Found {
    retry: Operation,
    cancel: Operation,
    /// The status of each job of this name.
    jobs: BTreeMap<JobId, String>,
    /// What the first operation wrote down: at most once for a job.
    retried: BTreeMap<JobId, Value>,
    /// What the second one was done to.
    cancelled: BTreeSet<JobId>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
struct Operation {
    state: String,
    changed: i64,
    skipped: i64,
}

impl Crowd {
    /// Of the one tenant that there is; `sql` as the database's owner.
    pub(crate) async fn new(sql: &PgPool) -> anyhow::Result<Self> {
        let tenant: Uuid = sqlx::query_scalar("select id from tenants").fetch_one(sql).await?;
        Ok(Self { tenant: tenant.into(), rounds: Vec::new() })
    }

    /// Makes a crowd of this name and asks for it to be retried. The job under the key `runs` has the name too and runs
    /// for ever.
    pub(crate) async fn put(&mut self, sql: &PgPool, store: &Store, name: &str, runs: &str) -> anyhow::Result<()> {
        let failed: BTreeSet<JobId> = (0..JOBS).map(|_| JobId::new()).collect();
        let ids: Vec<Uuid> = failed.iter().map(|id| id.uuid()).collect();
        // Nobody here has an account there: what is retried waits until it is cancelled.
        sqlx::query(
            "with jobs as (
                insert into container_jobs (id, tenant_id, project_id, status, executor_type, failure_class, name,
                    routing_reason, created_by, completed_at)
                select o.id, p.tenant_id, p.id, 'failed', 'fargate', 'no_capacity', $2, $3, $3, now()
                from projects p, unnest($1::uuid[]) as o(id)
            )
            insert into container_job_specs (job_id, tenant_id, spec)
            select o.id, p.tenant_id, '{\"image\": \"simulated\", \"timeout_seconds\": 60, \"labels\": {}}'
            from projects p, unnest($1::uuid[]) as o(id)",
        )
        .bind(&ids)
        .bind(name)
        .bind(MAKER)
        .execute(sql)
        .await?;
        let retry = self.ask(store, Deed::Retry, name).await?;
        let (name, runs) = (name.to_owned(), runs.to_owned());
        self.rounds.push(Round { name, failed, runs, retry, cancel: None });
        Ok(())
    }

    async fn ask(&self, store: &Store, deed: Deed, name: &str) -> anyhow::Result<BulkId> {
        let actor = Actor { tenant: self.tenant, name: MAKER.to_owned() };
        let filter = Filter { name_prefix: Some(name.to_owned()), ..Filter::default() };
        Ok(bulk::put(store, Scope::Fleet, &actor, deed, &filter).await?)
    }

    /// Asks for the cancel of a crowd that is retried, when its one job runs.
    pub(crate) async fn cancel(&mut self, sql: &PgPool, store: &Store, received: &Received) -> anyhow::Result<()> {
        for at in 0..self.rounds.len() {
            let round = &self.rounds[at];
            let (None, Some(runs)) = (round.cancel, received.accepted(&round.runs)) else { continue };
            let is_due: bool = sqlx::query_scalar(
                "select exists (select from bulk_operations where id = $1 and state = 'done')
                    and exists (select from container_executions where job_id = $2 and started_at is not null)",
            )
            .bind(round.retry.uuid())
            .bind(runs.uuid())
            .fetch_one(sql)
            .await?;
            if is_due {
                let cancel = self.ask(store, Deed::Cancel, &round.name).await?;
                self.rounds[at].cancel = Some(cancel);
            }
        }
        Ok(())
    }

    /// The jobs that were over before anybody asked for anything.
    pub(crate) fn failed(&self) -> impl Iterator<Item = JobId> {
        self.rounds.iter().flat_map(|round| round.failed.iter().copied())
    }

    /// Whether all is asked for, done and told.
    pub(crate) async fn is_done(&self, sql: &PgPool, received: &Received) -> anyhow::Result<bool> {
        let running = "select count(*) from bulk_operations where state = 'running'";
        if self.rounds.iter().any(|round| round.cancel.is_none())
            || sqlx::query_scalar::<_, i64>(running).fetch_one(sql).await? > 0
        {
            return Ok(false);
        }
        let mut verdict = Verdict::default();
        self.judge(sql, received, &mut verdict).await?;
        Ok(verdict.lost == 0)
    }

    /// Counts what was not done, done twice, or done to others.
    pub(crate) async fn judge(&self, sql: &PgPool, received: &Received, verdict: &mut Verdict) -> anyhow::Result<()> {
        for round in &self.rounds {
            round.judge(&round.found(sql).await?, received, verdict);
        }
        Ok(())
    }
}

impl Round {
    async fn found(&self, sql: &PgPool) -> anyhow::Result<Found> {
        let jobs: Vec<(Uuid, String)> = sqlx::query_as("select id, status::text from container_jobs where name = $1")
            .bind(&self.name)
            .fetch_all(sql)
            .await?;
        let mut found = Found {
            retry: operation(sql, self.retry).await?,
            jobs: jobs.into_iter().map(|(id, status)| (id.into(), status)).collect(),
            retried: changes(sql, self.retry).await?,
            ..Found::default()
        };
        if let Some(cancel) = self.cancel {
            found.cancel = operation(sql, cancel).await?;
            found.cancelled = changes(sql, cancel).await?.into_keys().collect();
        }
        Ok(found)
    }

    fn judge(&self, found: &Found, received: &Received, verdict: &mut Verdict) {
        let running = received.accepted(&self.runs);
        let mut anew = BTreeMap::<JobId, usize>::new();
        let mut to_cancel: BTreeSet<JobId> = running.into_iter().collect();
        for (id, status) in found.jobs.iter().filter(|(id, _)| !self.failed.contains(id) && Some(**id) != running) {
            let origin = found.retried.get(id).and_then(|detail| job(&detail["retry_of"]));
            match origin.filter(|origin| self.failed.contains(origin)) {
                Some(origin) => *anew.entry(origin).or_default() += 1,
                None => verdict.duplicate(format!("{id} ({status}) is a retry of nothing")),
            }
            to_cancel.insert(*id);
        }
        for id in &self.failed {
            match anew.get(id) {
                None => verdict.lose(format!("{id} was to be retried, and there is no new job")),
                Some(1) => {}
                Some(more) => verdict.duplicate(format!("{id} was retried as {more} jobs")),
            }
            let told = found.retried.get(id).and_then(|detail| job(&detail["retried_as"]));
            if found.jobs.get(id).is_none_or(|status| status != "failed")
                || told.is_none_or(|new| found.retried.get(&new).is_none_or(|of| job(&of["retry_of"]) != Some(*id)))
            {
                verdict.wrong(format!("{id} must stay failed and name its retry: {:?}", found.retried.get(id)));
            }
        }
        for id in &to_cancel {
            let (asked, status) = (found.cancelled.contains(id), found.jobs.get(id));
            if !asked || status.is_none_or(|status| status != "cancelled") {
                verdict.lose(format!("{id} was to be cancelled: asked for is {asked}, it is {status:?}"));
            }
            match received.ends(*id) {
                0 => verdict.lose(format!("nobody was told of the end of {id}, which was to be cancelled")),
                1 => {}
                more => verdict.duplicate(format!("{id}, which was cancelled, has {more} ends")),
            }
        }
        for id in found.cancelled.difference(&to_cancel) {
            verdict.wrong(format!("{id} was cancelled with a crowd that it is not of"));
        }
        let (jobs, runs) = (self.failed.len(), usize::from(running.is_some()));
        for (name, operation, jobs) in [("retry", &found.retry, jobs), ("cancel", &found.cancel, jobs + runs)] {
            let Operation { state, changed, skipped } = operation;
            if state != "done" {
                verdict.lose(format!("the {name} of {jobs} jobs is not done: {operation:?}"));
            } else if usize::try_from(*changed).ok() != Some(jobs) || *skipped > 0 {
                verdict.wrong(format!("the {name} of {jobs} jobs says otherwise: {operation:?}"));
            }
        }
    }
}

fn job(id: &Value) -> Option<JobId> {
    id.as_str()?.parse().ok()
}

async fn operation(sql: &PgPool, id: BulkId) -> anyhow::Result<Operation> {
    let operation = sqlx::query_as("select state::text, changed, skipped from bulk_operations where id = $1");
    operation.bind(id.uuid()).fetch_optional(sql).await?.context("an operation is gone")
}

/// What an operation wrote down, by job.
async fn changes(sql: &PgPool, id: BulkId) -> anyhow::Result<BTreeMap<JobId, Value>> {
    let rows: Vec<(Uuid, Value)> = sqlx::query_as("select job_id, detail from bulk_changes where operation_id = $1")
        .bind(id.uuid())
        .fetch_all(sql)
        .await?;
    Ok(rows.into_iter().map(|(job, detail)| (job.into(), detail)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A round that went as it must: one job retried, its retry cancelled with one that ran.
    fn good() -> (Round, Found, Received) {
        let [old, new, runs] = [JobId::new(), JobId::new(), JobId::new()];
        let round = Round {
            name: "crowd".to_owned(),
            failed: BTreeSet::from([old]),
            runs: "key".to_owned(),
            retry: BulkId::new(),
            cancel: Some(BulkId::new()),
        };
        let done = |changed| Operation { state: "done".to_owned(), changed, skipped: 0 };
        let found = Found {
            retry: done(1),
            cancel: done(2),
            jobs: [(old, "failed"), (new, "cancelled"), (runs, "cancelled")].map(|(id, s)| (id, s.to_owned())).into(),
            retried: BTreeMap::from([(old, json!({ "retried_as": new })), (new, json!({ "retry_of": old }))]),
            cancelled: BTreeSet::from([new, runs]),
        };
        let mut received = Received::default();
        received.answer("key", json!({ "result": "accepted", "job_id": runs }));
        for job in [new, runs] {
            received.take(None, end(job).as_bytes());
        }
        (round, found, received)
    }

    fn end(job: JobId) -> String {
        json!({ "id": Uuid::now_v7(), "type": "gantry.job.cancelled", "subject": job }).to_string()
    }

    #[test]
    fn a_crowd_is_retried_and_cancelled_once_each_and_nobody_else() {
        let counts = |tamper: &dyn Fn(&mut Found, &mut Received, JobId)| {
            let (round, mut found, mut received) = good();
            let new =
                found.retried.iter().find_map(|(id, detail)| detail.get("retry_of").map(|_| *id)).expect("a retry");
            tamper(&mut found, &mut received, new);
            let mut verdict = Verdict::default();
            round.judge(&found, &received, &mut verdict);
            (verdict.lost, verdict.duplicated, verdict.wrong_result)
        };
        assert_eq!(counts(&|_, _, _| {}), (0, 0, 0));
        let never = |found: &mut Found, _: &mut Received, new| {
            found.retried.clear();
            found.jobs.remove(&new);
            found.cancelled.remove(&new);
            (found.retry.changed, found.cancel.changed) = (0, 1);
        };
        assert_eq!(counts(&never), (1, 0, 3), "passed over by both operations, which say so, and it names no retry");
        let twice = |found: &mut Found, received: &mut Received, new: JobId| {
            let again = JobId::new();
            found.retried.insert(again, found.retried[&new].clone());
            found.jobs.insert(again, "cancelled".to_owned());
            found.cancelled.insert(again);
            received.take(None, end(again).as_bytes());
        };
        assert_eq!(counts(&twice), (0, 1, 0));
        let unwritten = |found: &mut Found, _: &mut Received, new| drop(found.retried.remove(&new));
        assert_eq!(counts(&unwritten), (1, 1, 1), "a job that nothing tells of");
        let still_there = |found: &mut Found, _: &mut Received, new| drop(found.jobs.insert(new, "pending".to_owned()));
        assert_eq!(counts(&still_there), (1, 0, 0));
        let not_asked = |found: &mut Found, _: &mut Received, new| found.cancelled.retain(|id| *id != new);
        assert_eq!(counts(&not_asked), (1, 0, 0));
        let another = |found: &mut Found, _: &mut Received, _| found.cancelled.extend([JobId::new()]);
        assert_eq!(counts(&another), (0, 0, 1), "somebody else");
        assert_eq!(counts(&|_, received, new| received.take(None, end(new).as_bytes())), (0, 1, 0), "told twice");
        assert_eq!(counts(&|found, _, _| found.cancel.state = "running".to_owned()), (1, 0, 0));
        assert_eq!(counts(&|found, _, _| found.retry.skipped = 1), (0, 0, 1));
    }
}
