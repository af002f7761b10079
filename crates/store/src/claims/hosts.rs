//! Which hosts a claim locks before it places: all that its worker serves, or, of many, those that it may place on; of many that
//! nobody else places on, none.

use std::collections::{BTreeSet, HashSet};

use gantry_core::HostId;
use gantry_core::limits::Book;
use gantry_core::placement::{self, Candidate, Slots, Spread};
use uuid::Uuid;

use super::Request;
use crate::error::Result;

/// So many hosts are locked sooner than they are chosen from.
const FEW: usize = 32;

/// Which hosts are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// Those that the candidates may come to, by what they held before they were locked. If nobody else places there, they are
    /// locked when they are [taken](super::take).
    Chosen,
    /// All that the worker serves.
    All,
}

impl Which {
    /// How jobs are spread over them. Who has locked all of them has written to the row of each already, whichever get jobs.
    pub(super) fn spread(self) -> Spread {
        match self {
            Self::Chosen => Spread::InHandfuls,
            Self::All => Spread::Evenly,
        }
    }
}

/// Locks hosts in the order of their ids. All of them also where that was not asked for, if they are few, or have no
/// room for every candidate as it is: what is parked for a full host needs the locks of all.
pub(super) async fn lock(
    tx: &mut sqlx::PgConnection,
    request: &Request<'_>,
    candidates: &[Candidate],
    limits: &Book,
    which: Which,
) -> Result<(Vec<Slots>, Which)> {
    if candidates.is_empty() {
        return Ok((Vec::new(), Which::All));
    }
    if which == Which::Chosen && request.hosts.len() > FEW.max(candidates.len() + placement::spare(candidates.len())) {
        let hosts = with_room(tx, request, candidates).await?;
        let free: Vec<HostId> = hosts.iter().map(|host| host.id).collect();
        if let Some(chosen) = placement::choose(candidates, &hosts, which.spread(), limits.clone()) {
            if request.alone {
                return Ok((hosts, Which::Chosen));
            }
            // Of few with room another claim has most likely chosen the same: with all of them there is most likely enough.
            let locked = if free.len() < 2 * chosen.len() { free } else { chosen };
            return Ok((lock_hosts(tx, &locked).await?, Which::Chosen));
        }
    }
    Ok((lock_hosts(tx, request.hosts).await?, Which::All))
}

struct Row {
    id: Uuid,
    tenant_id: Option<Uuid>,
    eligible: bool,
    current_job_count: i32,
    max_concurrent_jobs: i32,
    weight: f64,
}

impl From<Row> for Slots {
    fn from(row: Row) -> Self {
        Self {
            id: row.id.into(),
            tenant: row.tenant_id.map(Into::into),
            eligible: row.eligible,
            used: row.current_job_count,
            limit: row.max_concurrent_jobs,
            weight: row.weight,
        }
    }
}

/// The served hosts that would take one of the candidates now, unlocked.
async fn with_room(tx: &mut sqlx::PgConnection, request: &Request<'_>, candidates: &[Candidate]) -> Result<Vec<Slots>> {
    let tenants: HashSet<Uuid> = candidates.iter().map(|job| job.traits.tenant.uuid()).collect();
    // Not by their ids: to look a thousand of them up takes three times as long as reading the rows. The type is a subquery, or
    // its name would be read once for each of them.
    let rows = sqlx::query_as!(
        Row,
        r#"/* claims::with_room */
        select id, tenant_id, true as "eligible!", current_job_count, max_concurrent_jobs, weight
        from executor_hosts
        where executor_type = (select $1::text::executor_type) and is_active and state = 'active'
          and current_job_count < max_concurrent_jobs and (tenant_id is null or tenant_id = any($2))"#,
        request.executor.as_str(),
        &tenants.into_iter().collect::<Vec<_>>()
    )
    .fetch_all(&mut *tx)
    .await?;
    let served: HashSet<HostId> = request.hosts.iter().copied().collect();
    let mut hosts: Vec<Slots> = rows.into_iter().map(Slots::from).filter(|host| served.contains(&host.id)).collect();
    // Of equals each claim begins with another one, so that two at once seldom want the same; a UUIDv7 ends at random.
    if let (Some(first), true) = (candidates.first(), hosts.len() > 1) {
        let begin = first.id.uuid().as_u128() % hosts.len() as u128;
        hosts.rotate_left(usize::try_from(begin).unwrap_or(0));
    }
    Ok(hosts)
}

/// Joined, and not by `= any(…)`: for each row that somebody has changed since, Postgres would sort the whole array anew.
async fn lock_hosts(tx: &mut sqlx::PgConnection, hosts: &[HostId]) -> Result<Vec<Slots>> {
    // Each once: a host that came twice would have its slots twice.
    let ids: BTreeSet<Uuid> = hosts.iter().map(|host| host.uuid()).collect();
    let ids = Vec::from_iter(ids);
    let rows = sqlx::query_as!(
        Row,
        r#"/* claims::lock_hosts */
        select h.id, h.tenant_id, h.is_active and h.state = 'active' as "eligible!", h.current_job_count, h.max_concurrent_jobs,
            h.weight
        from unnest($1::uuid[]) as w(id) join executor_hosts h on h.id = w.id order by h.id for no key update of h"#,
        &ids
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows.into_iter().map(Slots::from).collect())
}
