//! The jobs of a fleet and their producer: handed in, cancelled when their time has come, waited for.

use std::collections::BTreeSet;

use gantry_core::JobId;
use gantry_store::{Scope, jobs};
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::producer::Producer;
use crate::workload::{self, Cancel, End, Submitted};

/// What one producer has handed in.
pub(crate) struct Load {
    pub(crate) producer: Producer,
    pub(crate) jobs: Vec<Submitted>,
    cancelled: BTreeSet<JobId>,
}

impl Load {
    pub(crate) async fn new(fleet: &Fleet) -> anyhow::Result<Self> {
        let producer = Producer::connect(&fleet.amqp).await?;
        Ok(Self { producer, jobs: Vec::new(), cancelled: BTreeSet::new() })
    }

    /// Hands one job of every kind in.
    pub(crate) async fn submit(&mut self) -> anyhow::Result<()> {
        self.jobs.extend(workload::submit(&self.producer).await?);
        Ok(())
    }

    /// The ledger: what was accepted, as the producer was told.
    pub(crate) fn accepted(&self) -> Vec<(&Submitted, &End, JobId)> {
        workload::accepted(&self.producer.received(), &self.jobs)
    }

    /// Cancels what is due.
    async fn tend(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
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

    /// Cancels what is due; whether all is answered, over and told.
    pub(crate) async fn settled(&mut self, fleet: &Fleet) -> anyhow::Result<bool> {
        self.tend(fleet).await?;
        if self.jobs.iter().any(|job| self.producer.answers(&job.key).is_empty()) {
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
