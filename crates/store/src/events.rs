//! Public events and the outbox: both written in the transaction that they tell of, one row of the outbox for all of its
//! events, which goes once RabbitMQ has them.

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_core::message::{CloudEvent, EventKind, JobEvent};
use gantry_core::{JobId, OutboxId};
use uuid::Uuid;

use crate::columns;
use crate::error::{Error, Result, from_json};
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

/// The events of one transaction, as a row of the outbox names them.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The row.
    pub id: OutboxId,
    /// Those that can be published.
    pub events: Vec<Committed>,
    /// Those that this version cannot read, by job and sequence.
    pub unreadable: Vec<(JobId, i32)>,
}

/// What is left of a row of the outbox when some of its events are published.
#[derive(Clone, Debug, PartialEq)]
pub struct Rest {
    /// The row.
    pub id: OutboxId,
    /// Those that RabbitMQ has not got, by job and sequence.
    pub events: Vec<(JobId, i32)>,
}

/// Writes events, and the row of the outbox that names them; returns them as committed. An event that is there already is
/// left as it is, and not named again.
pub(crate) async fn insert(tx: &mut sqlx::PgConnection, events: &[NewEvent]) -> Result<Option<Batch>> {
    if events.is_empty() {
        return Ok(None);
    }
    let id = OutboxId::new();
    let jobs: Vec<Uuid> = events.iter().map(|event| event.data.job_id.uuid()).collect();
    let sequences: Vec<i32> = events.iter().map(|event| event.data.sequence).collect();
    let tenants: Vec<Uuid> = events.iter().map(|event| event.data.tenant_id.uuid()).collect();
    let executors: Vec<String> = events.iter().map(|event| event.data.executor_type.to_string()).collect();
    let kinds: Vec<String> = events.iter().map(|event| event.kind.name().to_owned()).collect();
    let data = columns::json(events.iter().map(|event| &event.data))?;
    let row = sqlx::query!(
        r#"/* events::insert */
        with written as (
            insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
            select job_id, sequence, tenant_id, executor::executor_type, kind, data::json
            from unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[], $5::text[], $6::text[])
                as e(job_id, sequence, tenant_id, executor, kind, data)
            on conflict (job_id, sequence) do nothing returning job_id, sequence
        ), told as (
            insert into outbox (id, jobs, sequences)
            select $7::uuid, array_agg(job_id), array_agg(sequence) from written having count(*) > 0)
        select now() as "now!""#,
        &jobs,
        &sequences,
        &tenants,
        &executors,
        &kinds,
        &data,
        id.uuid()
    )
    .fetch_one(&mut *tx)
    .await?;
    let committed =
        |event: &NewEvent| Committed { kind: event.kind.name().to_owned(), at: row.now, data: event.data.clone() };
    Ok(Some(Batch { id, events: events.iter().map(committed).collect(), unreadable: Vec::new() }))
}

/// Rows of the outbox, oldest first, that nobody has published for `older_than_seconds`: their recorder died, or RabbitMQ
/// was away. So many that `limit` of their events can be published, or all: those that this version cannot read keep
/// nobody from what is behind them.
pub async fn unpublished(store: &Store, reach: Reach, older_than_seconds: f64, limit: usize) -> Result<Vec<Batch>> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut behind = (DateTime::<Utc>::UNIX_EPOCH, Uuid::nil());
    loop {
        let (found, last) = read(store, reach, older_than_seconds, behind, limit).await?;
        batches.extend(found);
        let readable: usize = batches.iter().map(|batch| batch.events.len()).sum();
        match last {
            Some(last) if readable < limit => behind = last,
            _ => return Ok(batches),
        }
    }
}

/// When a row of the outbox was written, and its id: its place among the others.
type Place = (DateTime<Utc>, Uuid);

/// The rows behind a place, so many that they name `limit` events; with the place of the last, if more may follow.
async fn read(
    store: &Store,
    reach: Reach,
    older_than_seconds: f64,
    behind: Place,
    limit: usize,
) -> Result<(Vec<Batch>, Option<Place>)> {
    let rows = store
        .read(
            "events::unpublished",
            sqlx::query!(
                r#"/* events::unpublished */
        select o.id as "id!", o.created_at as "written!", k.job_id as "job_id!", k.sequence as "sequence!",
            e.kind as "kind?", e.data as "data?", e.created_at as "created_at?"
        from (
            select *, sum(cardinality(jobs)) over (order by created_at, id) - cardinality(jobs) as before
            from (
                select * from outbox
                where created_at < now() - make_interval(secs => $1)
                  and created_at > coalesce(now() - make_interval(secs => $3), '-infinity')
                  and (created_at, id) > ($4::timestamptz, $5::uuid)
                order by created_at, id limit $2) oldest
        ) o
        cross join unnest(o.jobs, o.sequences) with ordinality as k(job_id, sequence, place)
        left join job_events e on e.job_id = k.job_id and e.sequence = k.sequence
        where o.before < $2 order by o.created_at, o.id, k.place"#,
                older_than_seconds,
                limit as i64,
                reach.seconds(),
                behind.0,
                behind.1
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let last = rows.last().filter(|_| rows.len() >= limit).map(|row| (row.written, row.id));
    let mut batches: Vec<Batch> = Vec::new();
    let mut problem: Option<Error> = None;
    for row in rows {
        let id = OutboxId::from(row.id);
        if batches.last().is_none_or(|batch| batch.id != id) {
            batches.push(Batch { id, events: Vec::new(), unreadable: Vec::new() });
        }
        // Its job was deleted by hand: there is nothing to tell of any more.
        let (Some(batch), Some(kind), Some(data), Some(at)) = (batches.last_mut(), row.kind, row.data, row.created_at)
        else {
            continue;
        };
        match from_json("job_events.data", data) {
            Ok(data) => batch.events.push(Committed { kind, at, data }),
            // Its neighbours go on.
            Err(error) => {
                batch.unreadable.push((row.job_id.into(), row.sequence));
                problem = problem.or(Some(error));
            }
        }
    }
    if let Some(error) = problem {
        let events: usize = batches.iter().map(|batch| batch.unreadable.len()).sum();
        tracing::error!(%error, events, "events of the outbox cannot be read by this version");
    }
    Ok((batches, last))
}

/// Takes from the outbox what RabbitMQ confirmed: the rows in `published`, and all but the rest of others.
pub async fn mark_published(store: &Store, published: &[OutboxId], rests: &[Rest]) -> Result<()> {
    let published: Vec<Uuid> = published.iter().map(|id| id.uuid()).collect();
    if rests.is_empty() {
        // Nearly always; the other one takes four times as long to plan. How many there are is hidden from the plan, so that it
        // is kept.
        let all = sqlx::query!(
            "/* events::mark_published */
            with held as (select id from outbox where id = any(array(select unnest($1::uuid[]))) order by id for update)
            delete from outbox o using held where o.id = held.id",
            &published
        );
        let mut lent = store.lend().await?;
        store.single("events::mark_published", all.execute(&mut *lent)).await?;
        store.give_back(lent);
        return Ok(());
    }
    let left = || rests.iter().flat_map(|rest| rest.events.iter().map(move |event| (rest.id, *event)));
    let rows: Vec<Uuid> = left().map(|(id, _)| id.uuid()).collect();
    let jobs: Vec<Uuid> = left().map(|(_, (job, _))| job.uuid()).collect();
    let sequences: Vec<i32> = left().map(|(_, (_, sequence))| sequence).collect();
    // In one list, so that their primary key finds them: with an OR, each call would read the whole outbox, and the dead
    // rows in it.
    let all: Vec<Uuid> = published.iter().copied().chain(rests.iter().map(|rest| rest.id.uuid())).collect();
    store
        .single(
            "events::mark_published",
            sqlx::query!(
                "/* events::mark_published */
        with rest as (
            select id, array_agg(job_id order by place) as jobs, array_agg(sequence order by place) as sequences
            from unnest($2::uuid[], $3::uuid[], $4::int[]) with ordinality as r(id, job_id, sequence, place) group by id
        ), held as (
            select id from outbox where id = any($5) order by id for update
        ), kept as (
            update outbox o set jobs = rest.jobs, sequences = rest.sequences
            from rest join held on held.id = rest.id where o.id = rest.id)
        delete from outbox o using held where o.id = held.id and o.id = any($1)",
                &published,
                &rows,
                &jobs,
                &sequences,
                &all
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(())
}
