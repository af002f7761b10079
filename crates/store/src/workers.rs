//! Workers and their leases.

use std::time::Duration;

use gantry_core::{ExecutorType, HostId, WorkerId};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::tx::Store;

/// A worker process that registers itself.
#[derive(Clone, Debug)]
pub struct NewWorker<'a> {
    /// New with every start.
    pub id: WorkerId,
    /// Whose queue it consumes.
    pub executor_type: ExecutorType,
    /// For people.
    pub name: &'a str,
    /// Version of the program.
    pub version: &'a str,
    /// Highest version of fleet messages that it reads.
    pub reads_version: i32,
    /// How long after a beat others may declare it dead.
    pub lease_seconds: i32,
}

/// What the check of a host gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCheck {
    /// The host.
    pub host: HostId,
    /// Whether it answered this time. One that answers and is not healthy has no room: nothing there is out of reach.
    pub answered: bool,
    /// Whether the worker serves it from now on.
    pub healthy: bool,
    /// What the check said.
    pub detail: String,
}

/// Registers a worker as alive.
pub async fn register(store: &Store, worker: &NewWorker<'_>) -> Result<()> {
    store
        .single(
            "workers::register",
            sqlx::query!(
                "/* workers::register */
        insert into workers (id, executor_type, name, version, reads_version, lease_seconds)
        values ($1, $2::text::executor_type, $3, $4, $5, $6)",
                worker.id.uuid(),
                worker.executor_type.as_str(),
                worker.name,
                worker.version,
                worker.reads_version,
                worker.lease_seconds
            )
            .execute(store.pool()),
        )
        .await?;
    Ok(())
}

/// Renews the lease. [`Error::NotAlive`] means that the worker was declared dead and must end at once.
pub async fn beat(store: &Store, worker: WorkerId) -> Result<()> {
    store
        .run("workers::beat", || async {
            let mut tx = store.begin("workers::beat").await?;
            let beaten = sqlx::query!(
                "/* workers::beat */ update workers set last_beat_at = now() where id = $1 and state = 'alive'",
                worker.uuid()
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            if beaten.rows_affected() == 0 { Err(Error::NotAlive(worker)) } else { Ok(()) }
        })
        .await
}

/// The worker's last write: its attempts may be taken at once. Waits for writes of its own that are still open.
pub async fn hand_over(store: &Store, worker: WorkerId) -> Result<()> {
    store
        .run("workers::hand_over", || async {
            let mut tx = store.begin("workers::hand_over").await?;
            sqlx::query!("/* workers::hand_over */ select id from workers where id = $1 for update", worker.uuid())
                .fetch_optional(&mut *tx)
                .await?;
            sqlx::query!(
                "/* workers::hand_over */
                update workers set state = 'handed_over', ended_at = now() where id = $1 and state = 'alive'",
                worker.uuid()
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        })
        .await
}

/// Declares overdue workers dead; returns them. Only those whose lease is shorter than `reached_for`, the time for
/// which the caller itself has reached Postgres without a gap: else an outage of the database would make everyone
/// declare everyone dead.
pub async fn mark_overdue_dead(store: &Store, reached_for: Duration) -> Result<Vec<WorkerId>> {
    let statement = sqlx::query!(
        "/* workers::mark_overdue_dead */
        update workers set state = 'dead', ended_at = now()
        where id in (
            select id from workers
            where state = 'alive' and lease_seconds::float8 < $1 and last_beat_at < now() - make_interval(secs => lease_seconds)
            for update skip locked)
          and state = 'alive'
        returning id",
        reached_for.as_secs_f64()
    );
    let rows = store.single("workers::mark_overdue_dead", statement.fetch_all(store.pool())).await?;
    Ok(rows.into_iter().map(|row| row.id.into()).collect())
}

/// Stores which hosts this worker serves, and the hosts' own health.
pub async fn put_checks(store: &Store, worker: WorkerId, checks: &[HostCheck]) -> Result<()> {
    let hosts: Vec<Uuid> = checks.iter().map(|check| check.host.uuid()).collect();
    let answered: Vec<bool> = checks.iter().map(|check| check.answered).collect();
    let healthy: Vec<bool> = checks.iter().map(|check| check.healthy).collect();
    let details: Vec<String> = checks.iter().map(|check| check.detail.clone()).collect();
    store
        .run("workers::put_checks", || async {
            let mut tx = store.begin_as("workers::put_checks", worker).await?;
            sqlx::query!(
                "/* workers::put_checks */ select id from executor_hosts where id = any($1) order by id for no key update",
                &hosts
            )
            .fetch_all(&mut *tx)
            .await?;
            sqlx::query!(
                "/* workers::put_checks */
                insert into worker_hosts (worker_id, executor_host_id, healthy, failures, detail, unhealthy_since)
                select $1, c.host, c.healthy, case when c.answered then 0 else 1 end, c.detail,
                    case when not c.healthy then now() end
                from unnest($2::uuid[], $3::bool[], $4::bool[], $5::text[]) as c(host, answered, healthy, detail)
                on conflict (worker_id, executor_host_id) do update set healthy = excluded.healthy,
                    failures = case when excluded.failures = 0 then 0 else worker_hosts.failures + 1 end,
                    detail = excluded.detail, checked_at = now(),
                    unhealthy_since = case when excluded.healthy then null
                        when worker_hosts.failures = 0 and excluded.failures > 0 then now()
                        else coalesce(worker_hosts.unhealthy_since, now()) end",
                worker.uuid(),
                &hosts,
                &answered,
                &healthy,
                &details
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query!(
                "/* workers::put_checks */
                update executor_hosts h set last_health_check = now(),
                    health_check_failures = case when c.answered then 0 else h.health_check_failures + 1 end
                from unnest($1::uuid[], $2::bool[]) as c(host, answered) where h.id = c.host",
                &hosts,
                &answered
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
}
