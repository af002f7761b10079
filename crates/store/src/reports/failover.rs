//! Jobs that their place refused: read and moved within the recorder's transaction.

use std::collections::{BTreeSet, HashMap};

use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome};
use gantry_core::routing::failover::{Reach, Refusal, Rerouted, Routing};
use gantry_core::{ExecutorType, FailureClass, JobId, TenantId};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Locked;
use crate::error::Result;
use crate::hosts;

/// That a job went on to another executor type, or began its round again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failover {
    /// Who refused it.
    pub from: ExecutorType,
    /// Where it goes.
    pub to: ExecutorType,
    /// Why.
    pub class: FailureClass,
}

/// What refused jobs can do next.
#[derive(Default)]
pub(super) struct Ways {
    routings: HashMap<JobId, Routing>,
    hosts: Vec<(Option<TenantId>, ExecutorType, bool)>,
}

/// The refusal that an end is: of an attempt that was certainly never launched, and that nobody had stopped or given up.
fn refusal(report: &Report, ended: &Ended, row: &Locked) -> Option<Refusal> {
    let certain = ended.not_launched && ended.execution_id.is_none() && row.never_ran;
    let undecided = row.stop_reason.is_none() && row.abandoned_as.is_none() && !row.cancel_requested;
    match &ended.outcome {
        ReportedOutcome::Failed(failure) if certain && undecided => {
            Refusal::of(row.executor, report.token.attempt, failure)
        }
        _ => None,
    }
}

/// Reads the ways of the refused jobs of a batch, whose rows are locked: two statements for all of them, none if there is
/// none.
pub(super) async fn read_ways(
    tx: &mut sqlx::PgConnection,
    reports: &[Report],
    locked: &HashMap<(JobId, i32), Locked>,
) -> Result<Ways> {
    let refused: HashMap<JobId, (TenantId, ExecutorType)> = reports
        .iter()
        .filter_map(|report| {
            let ReportKind::Ended(ended) = &report.kind else { return None };
            let row = locked.get(&(report.token.job, report.token.attempt))?;
            refusal(report, ended, row).map(|_| (report.token.job, (row.tenant, row.executor)))
        })
        .collect();
    if refused.is_empty() {
        return Ok(Ways::default());
    }
    let rows = sqlx::query!(
        "/* reports::read_ways */ select job_id, routing from container_job_specs where job_id = any($1)",
        &refused.keys().map(|job| job.uuid()).collect::<Vec<_>>()
    )
    .fetch_all(&mut *tx)
    .await?;
    // A way that this version cannot read leads nowhere: the job is tried again where it was.
    let read = |row: serde_json::Value| Routing::deserialize(row).unwrap_or_default();
    let mut routings: HashMap<JobId, Routing> =
        rows.into_iter().map(|row| (row.job_id.into(), read(row.routing))).collect();
    routings.retain(|job, routing| refused.get(job).is_some_and(|(_, present)| routing.has_others(*present)));
    if routings.is_empty() {
        return Ok(Ways::default());
    }
    let tenants: BTreeSet<TenantId> =
        routings.keys().filter_map(|job| refused.get(job)).map(|(tenant, _)| *tenant).collect();
    Ok(Ways { routings, hosts: hosts::reach_within(tx, &Vec::from_iter(tenants)).await? })
}

impl Ways {
    /// Where a job goes on whose attempt ended like this; none if it does not.
    pub(super) fn next(&self, report: &Report, ended: &Ended, row: &Locked) -> Option<Rerouted> {
        let routing = self.routings.get(&report.token.job)?;
        routing.refused(refusal(report, ended, row)?, &self.reach(row.tenant))
    }

    fn reach(&self, tenant: TenantId) -> Reach {
        let own = self.hosts.iter().filter(|(owner, ..)| owner.is_none_or(|owner| owner == tenant));
        Reach {
            active: own.clone().map(|(_, executor, _)| *executor).collect(),
            served: own.filter(|(.., served)| *served).map(|(_, executor, _)| *executor).collect(),
        }
    }
}

/// Moves jobs whose ends were written as retries.
pub(super) async fn hand_on(tx: &mut sqlx::PgConnection, moves: &[(JobId, &Rerouted)]) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let jobs: Vec<Uuid> = moves.iter().map(|(job, _)| job.uuid()).collect();
    let executors: Vec<&str> = moves.iter().map(|(_, next)| next.executor.as_str()).collect();
    let reasons: Vec<&str> = moves.iter().map(|(_, next)| next.reason.as_str()).collect();
    let routings: Vec<serde_json::Value> = moves.iter().map(|(_, next)| json!(next.routing)).collect();
    sqlx::query!(
        "/* reports::hand_on */
        with m as (
            select * from unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[]) as m(job_id, executor, reason, routing)
        ), s as (
            update container_job_specs s set routing = m.routing from m where s.job_id = m.job_id
        )
        update container_jobs j set executor_type = m.executor::executor_type, routing_reason = m.reason
        from m where j.id = m.job_id",
        &jobs,
        &executors as &[&str],
        &reasons as &[&str],
        &routings
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
