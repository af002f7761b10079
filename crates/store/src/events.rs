//! The outbox: public events, written in the transaction that they tell of and marked once RabbitMQ has them.

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_core::JobId;
use gantry_core::message::{CloudEvent, EventKind, JobEvent};
use serde_json::Value;
use uuid::Uuid;

use crate::error::{Result, from_json};
use crate::reach::Reach;
use crate::tx::Store;

/// An event to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// What it is about.
    pub kind: EventKind,
    /// Its data.
    pub data: JobEvent,
}

/// An event as it was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The last part of its type.
    pub kind: String,
    /// When it was committed.
    pub at: DateTime<Utc>,
    /// Its data.
    pub data: JobEvent,
}

impl Committed {
    /// The routing key: `job.<kind>.<executor_type>.<tenant>`.
    pub fn routing_key(&self) -> String {
        format!("job.{}.{}.{}", self.kind, self.data.executor_type, self.data.tenant_id)
    }

    /// The event as subscribers see it.
    pub fn to_cloud_event(&self) -> CloudEvent {
        CloudEvent {
            specversion: "1.0".into(),
            id: Uuid::new_v5(&self.data.job_id.uuid(), &self.data.sequence.to_be_bytes()).into(),
            source: "/gantry".into(),
            event_type: format!("gantry.job.{}", self.kind),
            subject: self.data.job_id,
            time: self.at.to_rfc3339_opts(SecondsFormat::Micros, true),
            datacontenttype: "application/json".into(),
            data: self.data.clone(),
        }
    }
}

/// Writes events; returns them as committed. An event that is there already is left as it is.
pub(crate) async fn insert(tx: &mut sqlx::PgConnection, events: &[NewEvent]) -> Result<Vec<Committed>> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<Uuid> = events.iter().map(|event| event.data.job_id.uuid()).collect();
    let sequences: Vec<i32> = events.iter().map(|event| event.data.sequence).collect();
    let tenants: Vec<Uuid> = events.iter().map(|event| event.data.tenant_id.uuid()).collect();
    let executors: Vec<String> = events.iter().map(|event| event.data.executor_type.to_string()).collect();
    let kinds: Vec<String> = events.iter().map(|event| event.kind.name().to_owned()).collect();
    let data: Vec<Value> = events.iter().map(|event| serde_json::json!(event.data)).collect();
    let row = sqlx::query!(
        r#"/* events::insert */
        with written as (
            insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
            select job_id, sequence, tenant_id, executor::executor_type, kind, data
            from unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[], $5::text[], $6::jsonb[])
                as e(job_id, sequence, tenant_id, executor, kind, data)
            on conflict (job_id, sequence) do nothing)
        select now() as "now!""#,
        &jobs,
        &sequences,
        &tenants,
        &executors,
        &kinds,
        &data
    )
    .fetch_one(&mut *tx)
    .await?;
    Ok(events
        .iter()
        .map(|event| Committed { kind: event.kind.name().to_owned(), at: row.now, data: event.data.clone() })
        .collect())
}

/// Events that nobody has published for `older_than_seconds`: their recorder died, or RabbitMQ was away.
pub async fn unpublished(store: &Store, reach: Reach, older_than_seconds: f64, limit: i64) -> Result<Vec<Committed>> {
    let rows = store
        .read(
            "events::unpublished",
            sqlx::query!(
                "/* events::unpublished */
        select kind, data, created_at from job_events
        where published_at is null and created_at < now() - make_interval(secs => $1)
          and created_at > coalesce(now() - make_interval(secs => $3), '-infinity')
        order by created_at, job_id, sequence limit $2",
                older_than_seconds,
                limit,
                reach.seconds()
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let readable = rows.into_iter().filter_map(|row| match from_json("job_events.data", row.data) {
        Ok(data) => Some(Committed { kind: row.kind, at: row.created_at, data }),
        // Its neighbours go on.
        Err(error) => {
            tracing::error!(%error, "an event of the outbox cannot be read by this version");
            None
        }
    });
    Ok(readable.collect())
}

/// Marks events that RabbitMQ confirmed.
pub async fn mark_published(store: &Store, events: &[(JobId, i32)]) -> Result<()> {
    let jobs: Vec<Uuid> = events.iter().map(|(job, _)| job.uuid()).collect();
    let sequences: Vec<i32> = events.iter().map(|(_, sequence)| *sequence).collect();
    store
        .single(
            "events::mark_published",
            sqlx::query!(
                "/* events::mark_published */
        update job_events e set published_at = now()
        from unnest($1::uuid[], $2::int[]) as p(job_id, sequence)
        where e.job_id = p.job_id and e.sequence = p.sequence and e.published_at is null",
                &jobs,
                &sequences
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(())
}
