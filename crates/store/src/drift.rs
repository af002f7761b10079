//! What must agree and what must not stand still, read for the metrics: two short statements over rows that are in
//! the window, running or alive, and none of the history.

use gantry_core::{ExecutorType, HostId};

use crate::error::{Result, parse};
use crate::tx::Store;

/// The slots of one host, from three sources that must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSlots {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Its executor type.
    pub executor: ExecutorType,
    /// `max_concurrent_jobs`.
    pub limit: i64,
    /// `current_job_count`, by which claims go.
    pub counted: i64,
    /// Attempts that hold a slot of it.
    pub held: i64,
    /// Jobs that are `running` on it.
    pub running: i64,
}

/// One executor type at this moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pool {
    /// The executor type.
    pub executor: ExecutorType,
    /// Workers whose lease has not passed.
    pub workers: i64,
    /// Rows that were published more than two seconds ago and that nobody has claimed.
    pub unclaimed: i64,
}

/// The fleet at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// By executor type, each once.
    pub pools: Vec<Pool>,
    /// Seconds since the oldest event was written that is not published yet; none if all are.
    pub oldest_unpublished: Option<f64>,
}

/// Every host with its slots. One statement, because claims and ends change all three sources at once.
pub async fn hosts(store: &Store) -> Result<Vec<HostSlots>> {
    let read = async {
        let mut tx = store.begin_in_order("drift::hosts").await?;
        let rows = sqlx::query!(
            r#"/* drift::hosts */
                select h.id, h.name, h.executor_type::text as "executor_type!", h.max_concurrent_jobs::int8 as "limit!",
                    h.current_job_count::int8 as "counted!",
                    (select count(*) from container_executions e
                        where e.executor_host_id = h.id and e.slot_held) as "held!",
                    (select count(*) from container_jobs j
                        where j.executor_host_id = h.id and j.status = 'running') as "running!"
                from executor_hosts h order by h.id"#
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    };
    let rows = store.bounded("drift::hosts", read).await?;
    rows.into_iter()
        .map(|row| {
            Ok(HostSlots {
                host: row.id.into(),
                name: row.name,
                executor: parse("executor_type", &row.executor_type)?,
                limit: row.limit,
                counted: row.counted,
                held: row.held,
                running: row.running,
            })
        })
        .collect()
}

/// Workers, the window and the outbox.
pub async fn standing(store: &Store) -> Result<Standing> {
    let rows = store
        .read(
            "drift::standing",
            sqlx::query!(
                r#"/* drift::standing */
                select t.executor_type::text as "executor_type!",
                    (select count(*) from workers w where w.executor_type = t.executor_type and w.state = 'alive'
                        and w.last_beat_at > now() - make_interval(secs => w.lease_seconds)) as "workers!",
                    (select count(*) from container_jobs j where j.executor_type = t.executor_type
                        and j.status = 'pending' and j.dispatched_at is not null
                        and j.published_at < now() - interval '2 seconds') as "unclaimed!",
                    (select extract(epoch from now() - min(created_at))::float8 from outbox) as oldest_unpublished
                from unnest(enum_range(null::executor_type)) as t(executor_type)"#
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let oldest_unpublished = rows.first().and_then(|row| row.oldest_unpublished);
    let pools = rows.into_iter().map(|row| {
        let executor = parse("executor_type", &row.executor_type)?;
        Ok(Pool { executor, workers: row.workers, unclaimed: row.unclaimed })
    });
    Ok(Standing { pools: pools.collect::<Result<_>>()?, oldest_unpublished })
}
