//! Tenants with long lines share the starts by their weights.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use gantry_core::{JobId, TenantId};
use gantry_store::tenants::{self, Settings};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::producer::job;
use super::sheet::Sheet;
use super::stage::{Stage, on_stage};
use crate::part::Part;

const HOST: &str = "shared";
const SLOTS: i32 = 24;
const JOB_MILLIS: u64 = 20;
const WEIGHTS: [(&str, f64); 3] = [("first", 1.0), ("second", 1.0), ("double", 2.0)];
/// Jobs in a line beyond those that are to start from it, so that no line ends before the count does.
const SPARE: f64 = 1.4;
const WITHIN: Duration = Duration::from_secs(600);

pub(super) struct Size {
    /// Starts that are counted.
    pub(super) starts: usize,
    /// How far a share may be from what it should be, as a part of that.
    pub(super) tolerance: f64,
}

pub(super) async fn run(size: &Size, binaries: &Path, sheet: &mut Sheet) -> anyhow::Result<()> {
    on_stage(binaries, sheet, async |stage, sheet| measured(size, stage, sheet).await).await
}

async fn measured(size: &Size, stage: &mut Stage, sheet: &mut Sheet) -> anyhow::Result<()> {
    // No slot until all lines stand: what starts before is no share of anything.
    stage.host(HOST, 0).await?;
    for part in [Part::Dispatcher, Part::Recorder, Part::Worker, Part::Api] {
        stage.start(part, 1)?;
    }
    stage.ready(1).await?;
    let all: f64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let mut submitted = 0;
    let mut owners = Vec::new();
    for (name, weight) in WEIGHTS {
        let tenant = stage.tenant(name).await?;
        tenants::set(&stage.store, name, &Settings { weight: Some(weight), ..Settings::default() }).await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
        let jobs = (size.starts as f64 * weight / all * SPARE).ceil() as usize;
        stage.producer.submit(&tenant, (0..jobs).map(|_| job(JOB_MILLIS))).await?;
        submitted += jobs;
        owners.push(tenant);
    }
    let pending = "select count(*) from container_jobs where status = 'pending'";
    stage.until(WITHIN, "all lines stand", async || Ok(stage.count(pending).await? == submitted)).await?;

    let slots = json!({ "max_concurrent_jobs": SLOTS });
    stage.call(&owners[0], Method::PATCH, &format!("/v1/hosts/{HOST}"), Some(&slots)).await?;
    let started = "select count(*) from container_executions where started_at is not null or ended_at is not null";
    stage.until(WITHIN, "enough jobs start", async || Ok(stage.count(started).await? >= size.starts)).await?;

    let order = starts(stage).await?;
    let counted = &order[..size.starts.min(order.len())];
    sheet.exactly("starts that are counted, by the containers' own ledger", counted.len(), size.starts);
    for (owner, (name, weight)) in owners.iter().zip(WEIGHTS) {
        let got = counted.iter().filter(|tenant| **tenant == owner.id).count();
        let due = size.starts as f64 * weight / all;
        let off = (got as f64 - due) / due;
        sheet.figure(
            &format!("starts of the tenant `{name}`, weight {weight}"),
            &format!("{got} of {due:.0} due ({:+.2} %)", off * 100.0),
            &format!("within {:.0} %", size.tolerance * 100.0),
            off.abs() <= size.tolerance,
        );
    }
    Ok(())
}

/// Whose job each start was, in the order of the starts.
async fn starts(stage: &Stage) -> anyhow::Result<Vec<TenantId>> {
    let rows: Vec<(Uuid, Uuid)> =
        sqlx::query_as("select id, tenant_id from container_jobs").fetch_all(&stage.sql).await?;
    let owners: HashMap<JobId, TenantId> = rows.into_iter().map(|(job, owner)| (job.into(), owner.into())).collect();
    let ledger = stage.ledger(HOST)?;
    let mut runs: Vec<_> = ledger.runs().collect();
    runs.sort_unstable_by_key(|run| run.started_ns);
    Ok(runs.into_iter().filter_map(|run| owners.get(&run.job).copied()).collect())
}
