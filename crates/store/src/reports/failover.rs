//! Jobs that their place refused: read and moved within the recorder's transaction.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome};
use gantry_core::routing::failover::{Reach, Refusal, Rerouted, Routing};
use gantry_core::{ExecutorType, FailureClass, JobId, TenantId};
use rust_decimal::Decimal;
use serde::Deserialize;
use uuid::Uuid;

use super::Locked;
use crate::columns;
use crate::costs::{self, Routed};
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
    ways: HashMap<JobId, Way>,
    hosts: Vec<(Option<TenantId>, ExecutorType, bool)>,
}

/// Where a job may run, and for how long.
struct Way {
    routing: Routing,
    timeout: Duration,
}

/// Where a job goes on, and what its estimate there depends on.
pub(super) struct Move {
    pub(super) to: Rerouted,
    routed: Routed,
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
    let (tenants, jobs): (Vec<Uuid>, Vec<Uuid>) =
        refused.iter().map(|(job, (tenant, _))| (tenant.uuid(), job.uuid())).unzip();
    let rows = sqlx::query!(
        "/* reports::read_ways */
        select s.job_id, s.routing, s.spec->'timeout_seconds' as timeout
        from unnest($1::uuid[], $2::uuid[]) as r(tenant_id, job_id)
        join container_job_specs s on s.tenant_id = r.tenant_id and s.job_id = r.job_id",
        &tenants,
        &jobs
    )
    .fetch_all(&mut *tx)
    .await?;
    // A way that this version cannot read leads nowhere: the job is tried again where it was.
    let read = |row: serde_json::Value| Routing::deserialize(row).unwrap_or_default();
    let mut ways: HashMap<JobId, Way> = rows
        .into_iter()
        .map(|row| (row.job_id.into(), Way { routing: read(row.routing), timeout: costs::timeout(row.timeout) }))
        .collect();
    ways.retain(|job, way| refused.get(job).is_some_and(|(_, present)| way.routing.has_others(*present)));
    if ways.is_empty() {
        return Ok(Ways::default());
    }
    let tenants: BTreeSet<TenantId> =
        ways.keys().filter_map(|job| refused.get(job)).map(|(tenant, _)| *tenant).collect();
    Ok(Ways { ways, hosts: hosts::reach_within(tx, &Vec::from_iter(tenants)).await? })
}

impl Ways {
    /// Where a job goes on whose attempt ended like this; none if it does not.
    pub(super) fn next(&self, report: &Report, ended: &Ended, row: &Locked) -> Option<Move> {
        let way = self.ways.get(&report.token.job)?;
        let to = way.routing.refused(refusal(report, ended, row)?, &self.reach(row.tenant))?;
        let routed = Routed { tenant: row.tenant, template: row.template, executor: to.executor, timeout: way.timeout };
        Some(Move { to, routed })
    }

    fn reach(&self, tenant: TenantId) -> Reach {
        let own = self.hosts.iter().filter(|(owner, ..)| owner.is_none_or(|owner| owner == tenant));
        Reach {
            active: own.clone().map(|(_, executor, _)| *executor).collect(),
            served: own.filter(|(.., served)| *served).map(|(_, executor, _)| *executor).collect(),
        }
    }
}

/// Moves jobs whose ends were written as retries. What was expected of the place that refused them is no measure for the
/// next: they are estimated anew.
pub(super) async fn hand_on(tx: &mut sqlx::PgConnection, moves: &[(JobId, &Move)]) -> Result<()> {
    if moves.is_empty() {
        return Ok(());
    }
    let routed: Vec<Routed> = moves.iter().map(|(_, next)| next.routed).collect();
    let estimates = costs::estimates(tx, &routed).await?;
    let jobs: Vec<Uuid> = moves.iter().map(|(job, _)| job.uuid()).collect();
    let tenants: Vec<Uuid> = moves.iter().map(|(_, next)| next.routed.tenant.uuid()).collect();
    let executors: Vec<&str> = moves.iter().map(|(_, next)| next.to.executor.as_str()).collect();
    let reasons: Vec<&str> = moves.iter().map(|(_, next)| next.to.reason.as_str()).collect();
    let routings = columns::json(moves.iter().map(|(_, next)| &next.to.routing))?;
    sqlx::query!(
        "/* reports::hand_on */
        with m as (
            select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::numeric[], $6::uuid[])
                as m(job_id, executor, reason, routing, estimate, tenant_id)
        ), s as (
            update container_job_specs s set routing = m.routing::json from m where s.tenant_id = m.tenant_id and s.job_id = m.job_id
        )
        update container_jobs j
        set executor_type = m.executor::executor_type, routing_reason = m.reason, estimated_cost = m.estimate
        from m where j.id = m.job_id",
        &jobs,
        &executors as &[&str],
        &reasons as &[&str],
        &routings,
        &estimates as &[Option<Decimal>],
        &tenants
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
