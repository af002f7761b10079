//! What the rows say, and how figures are put together.

use std::collections::HashMap;

use anyhow::ensure;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::producer::Run;

/// Checks every row of a run; returns what was counted.
pub(crate) async fn verify(fleet: &Fleet, run: &Run) -> anyhow::Result<Value> {
    let jobs = i64::try_from(run.jobs())?;
    let count = async |what: &'static str, sql: &'static str, expected: i64| -> anyhow::Result<(String, Value)> {
        let found: i64 = sqlx::query_scalar(sql).bind(&run.prefix).fetch_one(&fleet.sql).await?;
        ensure!(found == expected, "{what}: {found}, expected {expected}");
        Ok((what.to_owned(), found.into()))
    };
    let mut counts = serde_json::Map::new();
    counts.extend([
        count(
            "completed_jobs",
            "select count(*) from container_jobs where idempotency_key like $1 || '-%' and status = 'completed'
             and exit_code = 0 and attempt = 1",
            jobs,
        )
        .await?,
        count(
            "ended_attempts",
            "select count(*) from container_executions e join container_jobs j on j.id = e.job_id
             where j.idempotency_key like $1 || '-%' and e.ended_at is not null and not e.slot_held and e.exit_code = 0",
            jobs,
        )
        .await?,
        count(
            "terminal_events",
            "select count(*) from job_events v join container_jobs j on j.id = v.job_id
             where j.idempotency_key like $1 || '-%' and v.kind = 'completed'",
            jobs,
        )
        .await?,
        count("slots_in_use", "select sum(current_job_count) from executor_hosts where $1 <> ''", 0).await?,
    ]);
    Ok(counts.into())
}

/// From the publish to the claim, to the launch and to the recorded end, in milliseconds. The rows' times are those of
/// the statements' transactions, which begin a little before they commit.
pub(crate) async fn latencies(fleet: &Fleet, run: &Run) -> anyhow::Result<Value> {
    type Row = (String, DateTime<Utc>, Option<DateTime<Utc>>, DateTime<Utc>);
    let rows: Vec<Row> = sqlx::query_as(
        "select j.idempotency_key, e.claimed_at, e.launch_sent_at, j.completed_at from container_jobs j
         join container_executions e on e.job_id = j.id where j.idempotency_key like $1 || '-%'",
    )
    .bind(&run.prefix)
    .fetch_all(&fleet.sql)
    .await?;
    let (mut claimed, mut launched, mut recorded) = (Vec::new(), Vec::new(), Vec::new());
    for (key, claimed_at, launch_sent_at, completed_at) in rows {
        if let Some(submitted) = run.submitted.get(&key) {
            claimed.push(millis(claimed_at, *submitted));
            launched.extend(launch_sent_at.map(|at| millis(at, *submitted)));
            recorded.push(millis(completed_at, *submitted));
        }
    }
    Ok(json!({
        "submit_to_claimed_ms": summary(&mut claimed),
        "submit_to_launch_sent_ms": summary(&mut launched),
        "submit_to_recorded_ms": summary(&mut recorded),
    }))
}

/// From the publish to the create request on the engine's socket, in milliseconds. With docker only.
pub(crate) async fn create_requests(fleet: &Fleet, run: &Run) -> anyhow::Result<Value> {
    let Some(proxy) = &fleet.proxy else { return Ok(Value::Null) };
    let rows: Vec<(Uuid, String)> =
        sqlx::query_as("select id, idempotency_key from container_jobs where idempotency_key like $1 || '-%'")
            .bind(&run.prefix)
            .fetch_all(&fleet.sql)
            .await?;
    let keys: HashMap<String, String> = rows.into_iter().map(|(id, key)| (id.simple().to_string(), key)).collect();
    let mut waits: Vec<f64> = proxy
        .created()
        .into_iter()
        .filter_map(|(name, at)| {
            // The name is fleet-job-attempt.
            let submitted = run.submitted.get(keys.get(name.split('-').nth(1)?)?)?;
            Some(millis(at, *submitted))
        })
        .collect();
    ensure!(waits.len() == run.jobs(), "saw {} create requests of {}", waits.len(), run.jobs());
    Ok(summary(&mut waits))
}

pub(crate) fn millis(later: DateTime<Utc>, earlier: DateTime<Utc>) -> f64 {
    (later - earlier).as_seconds_f64() * 1_000.0
}

/// The 50th and the 99th of a hundred, and the last.
pub(crate) fn summary(values: &mut [f64]) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get(((values.len() as f64 - 1.0) * share).round() as usize).map(|value| round(*value));
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).map(|value| round(*value))
}

/// To what a shared machine's figures are worth.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
