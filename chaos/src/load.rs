//! The jobs of a fleet and their producer: handed in, cancelled or given up when their time has come, waited for. Beside
//! them what nobody hands in: schedules, a crowd that is changed at once, and what is over since long.

use std::collections::BTreeSet;

use gantry_core::JobId;
use gantry_core::lost::Abandon;
use gantry_store::audit::Actor;
use gantry_store::{Scope, jobs, lost};
use uuid::Uuid;

use crate::crowd::Crowd;
use crate::fleet::Fleet;
use crate::letters::Letters;
use crate::past::Past;
use crate::producer::Producer;
use crate::schedules;
use crate::workload::{self, AGED, Cancel, End, GIVEN_UP, IN_A_CROWD, Submitted};

/// What one producer has handed in.
pub(crate) struct Load {
    pub(crate) producer: Producer,
    pub(crate) jobs: Vec<Submitted>,
    /// What must be put aside.
    pub(crate) letters: Letters,
    /// What operations on many jobs are asked for.
    pub(crate) crowd: Crowd,
    /// What must leave.
    pub(crate) past: Past,
    cancelled: BTreeSet<JobId>,
}

impl Load {
    /// Before a part is started, see [`Letters::new`].
    pub(crate) async fn new(fleet: &Fleet) -> anyhow::Result<Self> {
        let producer = Producer::connect(&fleet.amqp).await?;
        let letters = Letters::new(&producer).await?;
        let crowd = Crowd::new(&fleet.sql).await?;
        Ok(Self { producer, jobs: Vec::new(), letters, crowd, past: Past::default(), cancelled: BTreeSet::new() })
    }

    /// Hands one job of every kind in, what must be put aside, a schedule, a crowd, and what must leave.
    pub(crate) async fn submit(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        schedules::put(&fleet.sql).await?;
        self.past.put(&fleet.sql).await?;
        let crowd = format!("crowd {}", Uuid::now_v7());
        // Before the jobs, so that the first ack of a dead letter is that of a submission past its limit.
        self.letters.send().await?;
        for job in workload::submit(&self.producer, &crowd).await? {
            if job.end.is_none() {
                self.letters.expect_refused(job.key.clone());
            }
            if job.name == IN_A_CROWD {
                self.crowd.put(&fleet.sql, &fleet.store, &crowd, &job.key).await?;
            }
            self.jobs.push(job);
        }
        Ok(())
    }

    /// The ledger: what was accepted, as the producer was told.
    pub(crate) fn accepted(&self) -> Vec<(&Submitted, &End, JobId)> {
        workload::accepted(&self.producer.received(), &self.jobs)
    }

    /// Cancels, gives up, replays and ages what is due.
    async fn tend(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        self.letters.replay(&fleet.sql).await?;
        self.crowd.cancel(&fleet.sql, &fleet.store, &self.producer.received()).await?;
        let aged: Vec<Uuid> =
            self.accepted().into_iter().filter(|(job, ..)| job.name == AGED).map(|(.., id)| id.uuid()).collect();
        self.past.age(&fleet.sql, &aged).await?;
        for (job, _, id) in self.accepted() {
            if job.name == GIVEN_UP && self.producer.ends(id) == 0 {
                give_up(fleet, id).await?;
            }
        }
        let due: Vec<(Cancel, JobId)> = self
            .accepted()
            .into_iter()
            .filter(|(job, _, id)| job.cancel != Cancel::Never && !self.cancelled.contains(id))
            .map(|(job, _, id)| (job.cancel, id))
            .collect();
        for (cancel, id) in due {
            let started: bool = sqlx::query_scalar(
                "select exists (select from container_executions where job_id = $1 and started_at is not null)",
            )
            .bind(id.uuid())
            .fetch_one(&fleet.sql)
            .await?;
            if cancel != Cancel::Running || started {
                jobs::cancel(&fleet.store, Scope::Fleet, id).await?;
                self.cancelled.insert(id);
            }
        }
        Ok(())
    }

    /// Does what is due; whether all is answered, over and told, put aside, or gone.
    pub(crate) async fn settled(&mut self, fleet: &Fleet) -> anyhow::Result<bool> {
        self.tend(fleet).await?;
        if self.jobs.iter().any(|job| self.producer.answers(&job.key).is_empty()) {
            return Ok(false);
        }
        let received = self.producer.received();
        if !self.letters.have_arrived(&fleet.sql).await?
            || !schedules::are_over(&fleet.sql, &received).await?
            || !self.crowd.is_done(&fleet.sql, &received).await?
            || !self.past.has_left(&fleet.sql, &received).await?
        {
            return Ok(false);
        }
        let accepted = self.accepted();
        if accepted.iter().any(|(_, _, id)| self.producer.ends(*id) == 0) {
            return Ok(false);
        }
        let ids: Vec<Uuid> = accepted.iter().map(|(_, _, id)| id.uuid()).collect();
        let open: i64 =
            sqlx::query_scalar("select count(*) from container_jobs where id = any($1) and completed_at is null")
                .bind(&ids)
                .fetch_one(&fleet.sql)
                .await?;
        Ok(open == 0)
    }
}

/// Gives a job's open attempt up, if it has one that nobody has given up yet.
async fn give_up(fleet: &Fleet, job: JobId) -> anyhow::Result<()> {
    let open: Option<(Uuid, i32)> = sqlx::query_as(
        "select j.tenant_id, e.attempt::integer from container_jobs j join container_executions e on e.job_id = j.id
         where j.id = $1 and e.ended_at is null and e.abandoned_at is null",
    )
    .bind(job.uuid())
    .fetch_optional(&fleet.sql)
    .await?;
    let Some((tenant, attempt)) = open else { return Ok(()) };
    let how = if attempt == 1 { Abandon::Retry } else { Abandon::Fail };
    let actor = Actor { tenant: tenant.into(), name: "chaos".to_owned() };
    lost::abandon(&fleet.store, Scope::Fleet, job, how, &actor).await?;
    Ok(())
}
