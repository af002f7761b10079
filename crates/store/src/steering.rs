//! What an operator does to a host: each deed with its entry in the audit log.

use chrono::{DateTime, Utc};
use gantry_core::host::State;
use gantry_core::lost::Condition;
use gantry_core::{HostId, JobId};
use serde_json::{Value, json};

use crate::audit::{self, Actor};
use crate::error::Result;
use crate::tx::{Scope, Store};

/// What an operator wants of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It takes jobs again, whatever it was before.
    Activate,
    /// It takes no new jobs; what runs there runs to its end.
    Cordon,
    /// It takes no new jobs until it is empty.
    Drain {
        /// Whether what runs there is stopped and tried again elsewhere.
        moves: bool,
    },
    /// It has so many slots. Fewer than are in use is allowed: nothing is placed until enough have ended.
    Limit(i32),
}

impl Deed {
    fn action(self) -> &'static str {
        match self {
            Self::Activate => "host_activated",
            Self::Cordon => "host_cordoned",
            Self::Drain { .. } => "host_drained",
            Self::Limit(_) => "host_limited",
        }
    }

    fn state(self) -> Option<State> {
        match self {
            Self::Activate => Some(State::Active),
            Self::Cordon => Some(State::Cordoned),
            Self::Drain { .. } => Some(State::Draining),
            Self::Limit(_) => None,
        }
    }

    fn detail(self) -> Value {
        match self {
            Self::Activate | Self::Cordon => json!({}),
            Self::Drain { moves } => json!({ "move": moves }),
            Self::Limit(slots) => json!({ "slots": slots }),
        }
    }
}

/// Does it; false if the host does not exist.
pub async fn steer(store: &Store, scope: Scope, host: HostId, deed: Deed, actor: &Actor) -> Result<bool> {
    let limit = if let Deed::Limit(slots) = deed { Some(slots) } else { None };
    let moves = deed == Deed::Drain { moves: true };
    store
        .run("steering::steer", || async {
            let mut tx = store.begin_scoped("steering::steer", scope).await?;
            let done = sqlx::query!(
                "/* steering::steer */
                update executor_hosts
                set state = coalesce($2::text::host_state, state), moves = case when $2::text is null then moves else $3 end,
                    max_concurrent_jobs = coalesce($4, max_concurrent_jobs)
                where id = $1",
                host.uuid(),
                deed.state().map(|state| state.to_string()),
                moves,
                limit
            )
            .execute(&mut *tx)
            .await?;
            if done.rows_affected() == 0 {
                return Ok(false);
            }
            audit::insert(&mut tx, actor, deed.action(), host.uuid(), &deed.detail()).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
}

/// Who holds a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// The host's name.
    pub host: String,
    /// The job.
    pub job: JobId,
    /// The job's name.
    pub name: String,
    /// The attempt.
    pub attempt: i32,
    /// Since when.
    pub since: DateTime<Utc>,
    /// When its container was seen running.
    pub started_at: Option<DateTime<Utc>>,
    /// Whether it is being stopped.
    pub stopping: bool,
    /// Who looks after it.
    pub condition: Condition,
}

/// The slots that are held by jobs that `scope` may see, by host and by age.
pub async fn slots(store: &Store, scope: Scope, host: Option<HostId>, limit: i64) -> Result<Vec<Slot>> {
    let mut tx = store.begin_scoped("steering::slots", scope).await?;
    let rows = sqlx::query!(
        r#"/* steering::slots */
        select h.name as host, e.job_id, j.name, e.attempt, e.claimed_at, e.started_at,
            e.stop_reason is not null or j.cancel_requested_at is not null as "stopping!", w.state = 'alive' as "alive!",
            wh.unhealthy_since is not null and wh.failures > 0 as "unreachable!"
        from container_executions e join executor_hosts h on h.id = e.executor_host_id join container_jobs j on j.id = e.job_id
        join workers w on w.id = e.worker_id
        left join worker_hosts wh on wh.worker_id = e.worker_id and wh.executor_host_id = h.id
        where e.slot_held and ($1::uuid is null or e.executor_host_id = $1)
        order by h.name, e.claimed_at, e.job_id limit $2"#,
        host.map(HostId::uuid),
        limit
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    let slots = rows.into_iter().map(|row| Slot {
        host: row.host,
        job: row.job_id.into(),
        name: row.name,
        attempt: row.attempt,
        since: row.claimed_at,
        started_at: row.started_at,
        stopping: row.stopping,
        condition: match (row.alive, row.unreachable) {
            (false, _) => Condition::Unowned,
            (true, true) => Condition::Unreachable,
            (true, false) => Condition::Owned,
        },
    });
    Ok(slots.collect())
}
