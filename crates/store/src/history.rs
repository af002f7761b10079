//! The attempts of a job as people see them: what each of them came to, and who looks after the one that is open.

use chrono::{DateTime, Utc};
use gantry_core::lost::{Abandon, Condition};
use gantry_core::state::StopReason;
use gantry_core::{FailureClass, JobId};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// One attempt as people see it.
#[derive(Clone, Debug)]
pub struct AttemptView {
    /// From 1.
    pub attempt: i32,
    /// The host's name.
    pub host_name: String,
    /// The name of its container.
    pub external_name: String,
    /// The backend's identifier.
    pub execution_id: Option<String>,
    /// When it was claimed.
    pub claimed_at: DateTime<Utc>,
    /// When its container was seen running.
    pub started_at: Option<DateTime<Utc>>,
    /// When its end was recorded.
    pub ended_at: Option<DateTime<Utc>>,
    /// Who looks after it; none once it is over.
    pub standing: Option<Standing>,
    /// Why it was stopped.
    pub stop_reason: Option<StopReason>,
    /// That it was given up, if it was.
    pub abandoned: Option<Abandoned>,
    /// Exit code.
    pub exit_code: Option<i32>,
    /// Why it failed.
    pub failure_class: Option<FailureClass>,
    /// The same in words.
    pub error_message: Option<String>,
    /// How long its container ran.
    pub run_millis: Option<i64>,
    /// Bytes.
    pub max_memory_usage: Option<i64>,
    /// Percent of one CPU.
    pub cpu_usage_percent: Option<f64>,
    /// Cost.
    pub cost: Option<Decimal>,
    /// Whether part of the log is missing.
    pub logs_incomplete: bool,
    /// From when its log is not there any more, because its time was over.
    pub logs_expired_at: Option<DateTime<Utc>>,
    /// What the backend itself said.
    pub docker_log: Option<String>,
    /// Excerpt of stdout without terminal escapes.
    pub clean_output: Option<String>,
    /// stdout as JSON.
    pub parsed_output: Option<Value>,
}

/// Who looks after an open attempt, and if nobody can, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In a word.
    pub condition: Condition,
    /// Since when; none for one that is owned.
    pub since: Option<DateTime<Utc>>,
    /// Why; empty for one that is owned.
    pub cause: String,
}

/// That an attempt was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abandoned {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom: `key:` and the id of an API key, `host lost`, or `on_lost`.
    pub by: String,
    /// Whether the job may be tried again.
    pub how: Abandon,
}

/// The attempts of a job, first to last.
pub async fn attempts(store: &Store, scope: Scope, id: JobId) -> Result<Vec<AttemptView>> {
    store.bounded("history::attempts", async {
    let mut tx = store.begin_scoped("history::attempts", scope).await?;
    let rows = sqlx::query!(
        r#"/* history::attempts */
        select e.attempt, h.name, e.external_name, e.execution_id, e.claimed_at, e.started_at, e.ended_at, e.stop_reason::text,
            e.exit_code, e.failure_class::text, e.error_message, e.run_millis, e.max_memory_usage, e.cpu_usage_percent, e.cost,
            e.logs_incomplete, e.logs_expired_at, e.docker_log, e.clean_output, e.parsed_output, e.abandoned_at, e.abandoned_by,
            e.abandoned_as::text, w.state = 'alive' as "alive!", w.ended_at as worker_ended_at, wh.unhealthy_since as "unhealthy_since?",
            wh.failures as "failures?", gantry_host_detail(e.worker_id, h.id) as detail,
            (select count(*) from workers o where o.state = 'alive' and o.executor_type = h.executor_type) as "of_type!",
            (select count(*) from worker_hosts oh join workers o on o.id = oh.worker_id
             where oh.executor_host_id = h.id and oh.healthy and o.state = 'alive') as "serving!"
        from container_executions e join executor_hosts h on h.id = e.executor_host_id join workers w on w.id = e.worker_id
        left join worker_hosts wh on wh.worker_id = e.worker_id and wh.executor_host_id = h.id
        where e.job_id = $1 order by e.attempt"#,
        id.uuid()
    )
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let owner = Owner {
                alive: row.alive,
                ended_at: row.worker_ended_at,
                unhealthy_since: row.unhealthy_since,
                failures: row.failures.unwrap_or(0),
                detail: row.detail.unwrap_or_default(),
                of_type: row.of_type,
                serving: row.serving,
            };
            let how = row.abandoned_as.as_deref().map(|how| parse("abandoned_as", how)).transpose()?;
            let abandoned = row.abandoned_at.zip(row.abandoned_by).zip(how);
            Ok(AttemptView {
                attempt: row.attempt,
                host_name: row.name,
                external_name: row.external_name,
                execution_id: row.execution_id,
                claimed_at: row.claimed_at,
                started_at: row.started_at,
                ended_at: row.ended_at,
                standing: row.ended_at.is_none().then(|| standing(owner)),
                stop_reason: row.stop_reason.as_deref().map(|reason| parse("stop_reason", reason)).transpose()?,
                abandoned: abandoned.map(|((at, by), how)| Abandoned { at, by, how }),
                exit_code: row.exit_code,
                failure_class: row.failure_class.as_deref().map(|class| parse("failure_class", class)).transpose()?,
                error_message: row.error_message,
                run_millis: row.run_millis,
                max_memory_usage: row.max_memory_usage,
                cpu_usage_percent: row.cpu_usage_percent,
                cost: row.cost,
                logs_incomplete: row.logs_incomplete,
                logs_expired_at: row.logs_expired_at,
                docker_log: row.docker_log,
                clean_output: row.clean_output,
                parsed_output: row.parsed_output,
            })
        })
        .collect()
}).await
}

/// What the rows tell of the worker that has an attempt, and of those that could take it.
pub(crate) struct Owner {
    pub(crate) alive: bool,
    pub(crate) ended_at: Option<DateTime<Utc>>,
    pub(crate) unhealthy_since: Option<DateTime<Utc>>,
    pub(crate) failures: i32,
    pub(crate) detail: String,
    pub(crate) of_type: i64,
    pub(crate) serving: i64,
}

pub(crate) fn standing(owner: Owner) -> Standing {
    let said = if owner.detail.is_empty() { String::new() } else { format!(": {}", owner.detail) };
    if !owner.alive {
        let cause = match (owner.of_type, owner.serving) {
            (0, _) => "its worker is gone, and no worker of this executor type is alive".to_owned(),
            (alive, 0) => {
                format!("its worker is gone, and none of the {alive} live workers of this type reaches the host")
            }
            _ => "its worker is gone, and another one is about to take it".to_owned(),
        };
        return Standing { condition: Condition::Unowned, since: owner.ended_at, cause };
    }
    match owner.unhealthy_since.filter(|_| owner.failures > 0) {
        Some(since) => {
            let failures = owner.failures;
            let remedy = match owner.serving {
                0 => String::new(),
                others => format!("; {others} others do: one of them takes it over when its worker is ended"),
            };
            let cause = format!("its worker does not reach the host ({failures} failed checks){said}{remedy}");
            Standing { condition: Condition::Unreachable, since: Some(since), cause }
        }
        None => Standing { condition: Condition::Owned, since: None, cause: String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(alive: bool, unhealthy: bool, of_type: i64, serving: i64) -> Standing {
        let at = DateTime::from_timestamp(1_767_226_000, 0);
        standing(Owner {
            alive,
            ended_at: at.filter(|_| !alive),
            unhealthy_since: at.filter(|_| unhealthy),
            failures: 3,
            detail: "connection refused".to_owned(),
            of_type,
            serving,
        })
    }

    #[test]
    fn each_standing_says_why() {
        for (standing, condition, says) in [
            (owner(true, false, 1, 1), Condition::Owned, ""),
            (owner(true, true, 1, 0), Condition::Unreachable, "3 failed checks): connection refused"),
            (owner(true, true, 2, 1), Condition::Unreachable, "1 others do: one of them takes it over"),
            (owner(false, false, 0, 0), Condition::Unowned, "no worker of this executor type is alive"),
            (owner(false, true, 2, 0), Condition::Unowned, "none of the 2 live workers"),
            (owner(false, false, 2, 1), Condition::Unowned, "about to take it"),
        ] {
            assert_eq!(standing.condition, condition);
            assert!(standing.cause.contains(says), "{standing:?}");
            assert_eq!(standing.since.is_none(), condition == Condition::Owned);
        }
    }
}
