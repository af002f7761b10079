//! The windows: how many dispatched jobs there may be, and how many there are.

use std::collections::HashMap;

use gantry_core::{ExecutorType, TenantId};
use uuid::Uuid;

use crate::error::{Result, parse};
use crate::reach::{Looks, Reach};
use crate::tx::Store;

/// Slots of one executor type and owner that wait for jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The executor type.
    pub executor: ExecutorType,
    /// Whose jobs may take them; none for hosts that everybody shares.
    pub tenant: Option<TenantId>,
    /// Free slots of active hosts that live workers serve.
    pub free_slots: i64,
    /// Dispatched jobs that will take such slots.
    pub dispatched: i64,
    /// Live workers of the executor type, whatever hosts they serve.
    pub workers: i64,
}

/// Of tenants that have hosts of their own; of all others together.
type Jobs = HashMap<(ExecutorType, Option<TenantId>), i64>;

/// Reads the windows, and remembers of the rows that were dispatched long ago how many there were.
#[derive(Debug, Default)]
pub struct Windows {
    looks: Looks,
    older: Jobs,
}

impl Windows {
    /// The windows of every executor type that has a host which a live worker serves; those of single tenants first. A
    /// dispatched job counts against its tenant's own hosts first, and against the shared ones beyond that.
    ///
    /// # Errors
    /// Postgres's.
    pub async fn read(&mut self, store: &Store) -> Result<Vec<Window>> {
        let look = self.looks.begin();
        let found = dispatched(store, look.reach).await?;
        self.looks.end(look);
        // Second: what is claimed meanwhile takes room twice, and not a slot that nobody has.
        let slots = slots(store).await?;
        if look.reach == Reach::All {
            self.older = found.older;
        }
        let mut jobs = found.recent;
        for (key, count) in &self.older {
            *jobs.entry(*key).or_default() += count;
        }
        Ok(combine(&slots, &jobs))
    }
}

struct Slots {
    executor: ExecutorType,
    tenant: Option<TenantId>,
    free: i64,
    workers: i64,
}

async fn slots(store: &Store) -> Result<Vec<Slots>> {
    // Each table once. What is served is asked for as a value (`is true`) and not joined: that is always one hashed set,
    // where a join of what the statistics call few would look a thousand hosts up.
    let mut lent = store.lend().await?;
    let rows = store
        .read(
            "windows::slots",
            sqlx::query!(
                r#"/* windows::slots */
                with live as materialized (
                    select id, executor_type from workers
                    where state = 'alive' and last_beat_at > now() - make_interval(secs => lease_seconds))
                select h.executor_type::text as "executor_type!", h.tenant_id,
                    sum(greatest(h.max_concurrent_jobs - h.current_job_count, 0)) as "free!",
                    (select count(*) from live w where w.executor_type = h.executor_type) as "workers!"
                from executor_hosts h
                where h.is_active and h.state = 'active' and (h.id in (
                    select wh.executor_host_id from live w join worker_hosts wh on wh.worker_id = w.id where wh.healthy)) is true
                group by h.executor_type, h.tenant_id order by h.tenant_id nulls last"#
            )
            .fetch_all(&mut *lent),
        )
        .await?;
    store.give_back(lent);
    let slots = rows.into_iter().map(|row| {
        let executor = parse("executor_type", &row.executor_type)?;
        Ok(Slots { executor, tenant: row.tenant_id.map(Into::into), free: row.free, workers: row.workers })
    });
    slots.collect()
}

struct Found {
    recent: Jobs,
    older: Jobs,
}

struct Dispatched {
    executor_type: String,
    owner: Option<Uuid>,
    recent: i64,
    older: i64,
}

/// Two statements without parameters: their plans are kept without a transaction that says so. To plan them takes longer than
/// to run them. Who owns hosts they ask as [`slots`] asks for what is served.
async fn dispatched(store: &Store, reach: Reach) -> Result<Found> {
    let mut lent = store.lend().await?;
    let rows = match reach {
        Reach::Recent => {
            let recent = sqlx::query_as!(
                Dispatched,
                r#"/* windows::dispatched */
                select executor_type::text as "executor_type!",
                    case when (tenant_id in (select tenant_id from executor_hosts where tenant_id is not null)) is true then tenant_id end as "owner?",
                    count(*) as "recent!", 0::int8 as "older!"
                from container_jobs
                where status = 'pending' and dispatched_at is not null and executor_type = any(enum_range(null::executor_type))
                  and published_at > now() - interval '20 seconds'
                group by executor_type, 2"#
            );
            store.read("windows::dispatched", recent.fetch_all(&mut *lent)).await?
        }
        Reach::All => {
            let all = sqlx::query_as!(
                Dispatched,
                r#"/* windows::dispatched */
                select executor_type::text as "executor_type!",
                    case when (tenant_id in (select tenant_id from executor_hosts where tenant_id is not null)) is true then tenant_id end as "owner?",
                    count(*) filter (where published_at > now() - interval '20 seconds') as "recent!",
                    count(*) filter (where published_at <= now() - interval '20 seconds') as "older!"
                from container_jobs
                where status = 'pending' and dispatched_at is not null and executor_type = any(enum_range(null::executor_type))
                group by executor_type, 2"#
            );
            store.read("windows::dispatched", all.fetch_all(&mut *lent)).await?
        }
    };
    store.give_back(lent);
    let mut found = Found { recent: Jobs::new(), older: Jobs::new() };
    for row in rows {
        let key = (parse("executor_type", &row.executor_type)?, row.owner.map(Into::into));
        found.recent.insert(key, row.recent);
        found.older.insert(key, row.older);
    }
    Ok(found)
}

fn combine(slots: &[Slots], jobs: &Jobs) -> Vec<Window> {
    let own = |executor, tenant| {
        let own = slots.iter().find(|slots| slots.executor == executor && slots.tenant == Some(tenant));
        own.map_or(0, |own| own.free)
    };
    let dispatched = |executor: ExecutorType, tenant: Option<TenantId>| match tenant {
        Some(tenant) => jobs.get(&(executor, Some(tenant))).map_or(0, |jobs| (*jobs).min(own(executor, tenant))),
        None => {
            let others = jobs.iter().filter(|((of, _), _)| *of == executor);
            let beyond = |tenant: Option<TenantId>| tenant.map_or(0, |tenant| own(executor, tenant));
            others.map(|((_, tenant), jobs)| (jobs - beyond(*tenant)).max(0)).sum()
        }
    };
    slots
        .iter()
        .map(|slots| Window {
            executor: slots.executor,
            tenant: slots.tenant,
            free_slots: slots.free,
            dispatched: dispatched(slots.executor, slots.tenant),
            workers: slots.workers,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_look_as_far_back_as_others() {
        assert_eq!(Reach::Recent.seconds(), Some(20.0));
    }

    #[test]
    fn a_tenants_jobs_take_its_own_slots_first_and_shared_ones_beyond() {
        let owner = TenantId::new();
        let executor = ExecutorType::Docker;
        let of = |tenant, free| Slots { executor, tenant, free, workers: 1 };
        let slots = [of(Some(owner), 3), of(None, 10)];
        let jobs = Jobs::from([((executor, Some(owner)), 5), ((executor, None), 4), ((ExecutorType::Mock, None), 9)]);
        let windows = combine(&slots, &jobs);
        assert_eq!(windows.iter().map(|window| window.dispatched).collect::<Vec<_>>(), [3, 6]);
        assert_eq!(windows.iter().map(|window| window.free_slots).collect::<Vec<_>>(), [3, 10]);
    }
}
