//! Attempts: what their worker writes, what it reads back, and how another one takes them over. Every write
//! names the fencing token and reports which tokens still held.
//!
//! What looks attempts up by their key says `num_nulls(ended_at) = 1` and `slot_held::int = 1`, so that no partial index of
//! those that run serves for it: statistics from a quiet hour call that index empty, and each attempt of a batch would be
//! looked for among all that run.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use gantry_core::message::Token;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::StopReason;
use gantry_core::{HostId, JobId, WorkerId};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::claims::Claimed;
use crate::error::{Result, parse};
use crate::logs::Position;
use crate::tx::Store;

/// How what a worker knows differs from what the database says it owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Attempts that it owns and does not know, or that somebody wants to end.
    pub owned: Vec<Owned>,
    /// Tokens that it knows and that do not hold: ended, given up, or another worker's.
    pub gone: HashSet<Token>,
}

/// What a beat reads of an attempt that the database says this worker owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The token.
    pub token: Token,
    /// Whether the job's cancel was requested.
    pub cancel_requested: bool,
    /// Whether its host is drained and what runs there is moved.
    pub moves: bool,
}

/// An attempt as it stands in the database, for whoever continues it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// What the claim gave.
    pub claimed: Claimed,
    /// The backend's identifier, if it was stored.
    pub execution_id: Option<String>,
    /// How long ago the launch was about to be sent; none means that nothing was sent.
    pub launch_sent: Option<Duration>,
    /// How long ago the container was seen running.
    pub started: Option<Duration>,
    /// How long ago it was claimed.
    pub claimed_ago: Duration,
    /// The stop that was committed.
    pub stop_reason: Option<StopReason>,
    /// Whether the job's cancel was requested.
    pub cancel_requested: bool,
    /// Up to where its log is stored.
    pub log: Position,
}

/// A start to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// The token.
    pub token: Token,
    /// The backend's identifier.
    pub execution_id: String,
    /// How long ago it was seen running.
    pub ago: Duration,
    /// From the launch request to running.
    pub startup: Option<Duration>,
}

/// What became of attempts whose containers were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Over {
    /// Over for longer than the grace.
    pub ended: HashSet<(JobId, i32)>,
    /// Of jobs that this database does not know.
    pub unknown: HashSet<(JobId, i32)>,
}

/// The output of an attempt, to be stored before its end is reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The token.
    pub token: Token,
    /// The views of what it printed.
    pub outputs: gantry_core::output::Outputs,
    /// What the backend itself said.
    pub backend_log: String,
}

/// Compares what this worker knows with what the database says it owns. The comparison is made there: of thousands that run,
/// nothing is sent back but what calls for something. What it leaves out of `known` comes back only if it is still owned.
pub async fn differing(store: &Store, worker: WorkerId, known: &[Token]) -> Result<Differences> {
    let (jobs, attempts, epochs) = columns(known.iter());
    let rows = store
        .read(
            "attempts::differing",
            sqlx::query!(
                r#"/* attempts::differing */
        select coalesce(o.job_id, k.job_id) as "job_id!", coalesce(o.attempt, k.attempt) as "attempt!",
            coalesce(o.epoch, k.epoch) as "epoch!", o.job_id is not null as "owned!",
            coalesce(o.cancel_requested, false) as "cancel_requested!", coalesce(o.moves, false) as "moves!"
        from (
            select e.job_id, e.attempt, e.epoch, j.cancel_requested_at is not null as cancel_requested, h.moves
            from container_executions e join container_jobs j on j.id = e.job_id join executor_hosts h on h.id = e.executor_host_id
            where e.worker_id = $1 and e.ended_at is null and e.abandoned_at is null
        ) o
        full join unnest($2::uuid[], $3::int[], $4::int[]) as k(job_id, attempt, epoch)
            on k.job_id = o.job_id and k.attempt = o.attempt and k.epoch = o.epoch
        where o.job_id is null or k.job_id is null or o.cancel_requested or o.moves"#,
                worker.uuid(),
                &jobs,
                &attempts,
                &epochs
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let mut differences = Differences::default();
    for row in rows {
        let token = Token { job: row.job_id.into(), attempt: row.attempt, epoch: row.epoch };
        if row.owned {
            let owned = Owned { token, cancel_requested: row.cancel_requested, moves: row.moves };
            differences.owned.push(owned);
        } else {
            differences.gone.insert(token);
        }
    }
    Ok(differences)
}

/// Takes attempts of workers that are not alive, on hosts that this worker serves, raising their epoch.
pub async fn adopt(store: &Store, worker: WorkerId, hosts: &[HostId], limit: i64) -> Result<Vec<Token>> {
    let hosts: Vec<Uuid> = hosts.iter().map(|host| host.uuid()).collect();
    store
        .run("attempts::adopt", || async {
            let mut tx = store.begin_in_order_as("attempts::adopt", worker).await?;
            // Owner by owner: nearly always all are alive, and then nobody's attempts are read; and those that ended long ago own
            // nothing any more. What is locked is looked up by its key: who took it meanwhile is another worker.
            let rows = sqlx::query!(
                "/* attempts::adopt */
                with recursive owners as (
                    (select worker_id from container_executions where ended_at is null order by worker_id limit 1)
                    union all
                    select (select worker_id from container_executions
                            where ended_at is null and worker_id > o.worker_id order by worker_id limit 1)
                    from owners o where o.worker_id is not null
                ), gone as materialized (
                    select e.job_id, e.attempt, w.id as worker_id
                    from owners o cross join lateral (
                        select id from workers where id = o.worker_id and state::text <> 'alive' offset 0) w
                    cross join lateral (
                        select job_id, attempt from container_executions
                        where worker_id = w.id and ended_at is null and abandoned_at is null
                          and executor_host_id = any($2) offset 0) e
                    order by e.job_id
                ), orphaned as (
                    select g.job_id, g.attempt
                    from gone g cross join lateral (
                        select job_id from container_executions
                        where job_id = g.job_id and attempt = g.attempt and worker_id = g.worker_id
                          and num_nulls(ended_at) = 1 and abandoned_at is null
                        for no key update skip locked) e
                    limit $3)
                update container_executions e set worker_id = $1, epoch = e.epoch + 1
                from orphaned o where e.job_id = o.job_id and e.attempt = o.attempt
                returning e.job_id, e.attempt, e.epoch",
                worker.uuid(),
                &hosts,
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            if rows.is_empty() {
                return Ok(Vec::new());
            }
            tx.commit().await?;
            let tokens =
                rows.into_iter().map(|row| Token { job: row.job_id.into(), attempt: row.attempt, epoch: row.epoch });
            Ok(tokens.collect())
        })
        .await
}

/// The attempts of these tokens as they stand, for the worker that owns them; stale tokens are left out.
pub async fn read(store: &Store, worker: WorkerId, tokens: &[Token]) -> Result<Vec<Attempt>> {
    let (jobs, attempts, epochs) = columns(tokens.iter());
    let rows = store
        .read(
            "attempts::read",
            sqlx::query!(
                r#"/* attempts::read */
        select e.job_id, e.attempt, e.epoch, e.tenant_id, e.executor_host_id, e.external_name, s.spec, e.execution_id,
            extract(epoch from now() - e.launch_sent_at)::float8 as launch_sent,
            extract(epoch from now() - e.started_at)::float8 as started,
            extract(epoch from now() - e.claimed_at)::float8 as "claimed!",
            e.stop_reason::text, j.cancel_requested_at is not null as "cancel_requested!",
            e.log_cursor, e.log_sequence, e.stdout_bytes, e.stderr_bytes
        from unnest($2::uuid[], $3::int[], $4::int[]) as t(job_id, attempt, epoch)
        join container_executions e on e.job_id = t.job_id and e.attempt = t.attempt and e.epoch = t.epoch
        join container_jobs j on j.id = e.job_id
        join container_job_specs s on s.tenant_id = e.tenant_id and s.job_id = e.job_id
        where e.worker_id = $1 and e.ended_at is null and e.abandoned_at is null"#,
                worker.uuid(),
                &jobs,
                &attempts,
                &epochs
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let ago = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
    let mut attempts = Vec::with_capacity(rows.len());
    for row in rows {
        // Its neighbours go on; this one waits for a worker that can read it.
        let Ok(spec) = ResolvedSpec::deserialize(&row.spec) else {
            tracing::error!(job.id = %row.job_id, attempt = row.attempt, "the spec of an attempt cannot be read by this version");
            continue;
        };
        let Ok(stop_reason) = row.stop_reason.as_deref().map(|reason| parse("stop_reason", reason)).transpose() else {
            tracing::error!(job.id = %row.job_id, attempt = row.attempt, "the stop reason of an attempt cannot be read by this version");
            continue;
        };
        attempts.push(Attempt {
            claimed: Claimed {
                token: Token { job: row.job_id.into(), attempt: row.attempt, epoch: row.epoch },
                tenant: row.tenant_id.into(),
                host: row.executor_host_id.into(),
                external_name: row.external_name,
                spec,
            },
            execution_id: row.execution_id,
            launch_sent: row.launch_sent.map(ago),
            started: row.started.map(ago),
            claimed_ago: ago(row.claimed),
            stop_reason,
            cancel_requested: row.cancel_requested,
            log: Position {
                cursor: row.log_cursor,
                sequence: row.log_sequence,
                stdout_bytes: row.stdout_bytes,
                stderr_bytes: row.stderr_bytes,
            },
        });
    }
    Ok(attempts)
}

/// Which of these attempts have been over for longer than `grace`, and which jobs are not known at all. Each is looked up by
/// itself: thousands would be planned as a read of both tables.
pub async fn over(store: &Store, keys: &[(JobId, i32)], grace: Duration) -> Result<Over> {
    let jobs: Vec<Uuid> = keys.iter().map(|(job, _)| job.uuid()).collect();
    let attempts: Vec<i32> = keys.iter().map(|(_, attempt)| *attempt).collect();
    let rows = store
        .read(
            "attempts::over",
            sqlx::query!(
                r#"/* attempts::over */
                select t.job_id as "job_id!", t.attempt as "attempt!", j.id is null as "unknown!",
                    coalesce(e.ended_at < now() - make_interval(secs => $3), false) as "over!"
                from unnest($1::uuid[], $2::int[]) as t(job_id, attempt)
                left join lateral (select id from container_jobs where id = t.job_id offset 0) j on true
                left join lateral (
                    select ended_at from container_executions where job_id = t.job_id and attempt = t.attempt offset 0) e on true"#,
                &jobs,
                &attempts,
                grace.as_secs_f64()
            )
            .fetch_all(store.pool()),
        )
        .await?;
    let mut over = Over::default();
    for row in rows {
        let key = (row.job_id.into(), row.attempt);
        if row.unknown {
            over.unknown.insert(key);
        } else if row.over {
            over.ended.insert(key);
        }
    }
    Ok(over)
}

/// Whether a launch was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchSent {
    /// The token.
    pub token: Token,
    /// It is about to be; or certainly none was, neither now nor earlier.
    pub sent: bool,
}

/// Stores that launches are about to be sent, or that certainly none was after all. Returns the tokens that still held:
/// only those may launch.
pub async fn put_launch_sent(store: &Store, worker: WorkerId, launches: &[LaunchSent]) -> Result<HashSet<Token>> {
    let (jobs, attempts, epochs) = columns(launches.iter().map(|launch| &launch.token));
    let sent: Vec<bool> = launches.iter().map(|launch| launch.sent).collect();
    store
        .run("attempts::put_launch_sent", || async {
            let mut tx = store.begin_kept_as("attempts::put_launch_sent", worker).await?;
            let rows = sqlx::query!(
                "/* attempts::put_launch_sent */
                update container_executions e
                set launch_sent_at = case when t.sent then coalesce(e.launch_sent_at, now()) end
                from unnest($1::uuid[], $2::int[], $3::int[], $4::bool[]) as t(job_id, attempt, epoch, sent)
                where e.job_id = t.job_id and e.attempt = t.attempt and e.epoch = t.epoch and num_nulls(e.ended_at) = 1
                returning e.job_id, e.attempt, e.epoch",
                &jobs,
                &attempts,
                &epochs,
                &sent
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            let tokens =
                rows.into_iter().map(|row| Token { job: row.job_id.into(), attempt: row.attempt, epoch: row.epoch });
            Ok(tokens.collect())
        })
        .await
}

/// What an attempt's backend does before the launch: pulls its image, or registers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparing {
    /// The token.
    pub token: Token,
    /// For how long it has.
    pub lasts: Duration,
    /// Whether that is over.
    pub over: bool,
}

/// Stores that preparing takes its time, for people who ask why nothing runs yet.
pub async fn put_preparing(store: &Store, worker: WorkerId, preparing: &[Preparing]) -> Result<()> {
    let (jobs, attempts, epochs) = columns(preparing.iter().map(|one| &one.token));
    let lasts: Vec<f64> = preparing.iter().map(|one| one.lasts.as_secs_f64()).collect();
    let over: Vec<bool> = preparing.iter().map(|one| one.over).collect();
    store
        .run("attempts::put_preparing", || async {
            let mut tx = store.begin_as("attempts::put_preparing", worker).await?;
            sqlx::query!(
                "/* attempts::put_preparing */
                update container_executions e
                set prepare_began_at = coalesce(e.prepare_began_at, now() - make_interval(secs => p.lasts)),
                    prepare_ended_at = case when p.is_over then now() end
                from unnest($1::uuid[], $2::int[], $3::int[], $4::float8[], $5::bool[]) as p(job_id, attempt, epoch, lasts, is_over)
                where e.job_id = p.job_id and e.attempt = p.attempt and e.epoch = p.epoch and num_nulls(e.ended_at) = 1",
                &jobs,
                &attempts,
                &epochs,
                &lasts,
                &over
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
}

/// Stores that containers run, with their identifiers. The run deadline counts from here.
pub async fn put_started(store: &Store, worker: WorkerId, started: &[Started]) -> Result<()> {
    let (jobs, attempts, epochs) = columns(started.iter().map(|start| &start.token));
    let executions: Vec<String> = started.iter().map(|start| start.execution_id.clone()).collect();
    let ago: Vec<f64> = started.iter().map(|start| start.ago.as_secs_f64()).collect();
    let startup: Vec<Option<i64>> = started.iter().map(|start| start.startup.map(millis)).collect();
    store
        .run("attempts::put_started", || async {
            let mut tx = store.begin_kept_as("attempts::put_started", worker).await?;
            // Jobs before attempts: the lock order.
            sqlx::query!(
                "/* attempts::put_started */ select id from container_jobs where id = any($1) order by id for no key update",
                &jobs
            )
            .fetch_all(&mut *tx)
            .await?;
            sqlx::query!(
                "/* attempts::put_started */
                with s as (
                    select * from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::float8[], $6::int8[])
                        as s(job_id, attempt, epoch, execution_id, ago, startup)
                ), e as (
                    update container_executions e
                    set execution_id = s.execution_id, started_at = coalesce(e.started_at, now() - make_interval(secs => s.ago)),
                        startup_millis = coalesce(e.startup_millis, s.startup)
                    from s where e.job_id = s.job_id and e.attempt = s.attempt and e.epoch = s.epoch and num_nulls(e.ended_at) = 1
                    returning e.job_id, e.attempt, e.execution_id, e.started_at
                )
                update container_jobs j set execution_id = e.execution_id, started_at = e.started_at
                from e where j.id = e.job_id and j.attempt = e.attempt and j.status::text = 'running'",
                &jobs,
                &attempts,
                &epochs,
                &executions,
                &ago,
                &startup as &[Option<i64>]
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
}

/// Commits why containers are about to be stopped. Returns the tokens that still held; an earlier reason stays.
pub async fn put_stop_reason(store: &Store, worker: WorkerId, stops: &[(Token, StopReason)]) -> Result<HashSet<Token>> {
    let (jobs, attempts, epochs) = columns(stops.iter().map(|(token, _)| token));
    let reasons: Vec<String> = stops.iter().map(|(_, reason)| reason.to_string()).collect();
    store
        .run("attempts::put_stop_reason", || async {
            let mut tx = store.begin_as("attempts::put_stop_reason", worker).await?;
            let rows = sqlx::query!(
                "/* attempts::put_stop_reason */
                update container_executions e set stop_reason = coalesce(e.stop_reason, t.reason::stop_reason)
                from unnest($1::uuid[], $2::int[], $3::int[], $4::text[]) as t(job_id, attempt, epoch, reason)
                where e.job_id = t.job_id and e.attempt = t.attempt and e.epoch = t.epoch and num_nulls(e.ended_at) = 1
                returning e.job_id, e.attempt, e.epoch",
                &jobs,
                &attempts,
                &epochs,
                &reasons
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            let tokens =
                rows.into_iter().map(|row| Token { job: row.job_id.into(), attempt: row.attempt, epoch: row.epoch });
            Ok(tokens.collect())
        })
        .await
}

/// Stores what people read of the output.
pub async fn put_outputs(store: &Store, worker: WorkerId, outputs: &[Arc<Output>]) -> Result<()> {
    let (jobs, attempts, epochs) = columns(outputs.iter().map(|output| &output.token));
    let stdout: Vec<String> = outputs.iter().map(|output| output.outputs.stdout.clone()).collect();
    let stderr: Vec<String> = outputs.iter().map(|output| output.outputs.stderr.clone()).collect();
    let clean: Vec<String> = outputs.iter().map(|output| output.outputs.clean.clone()).collect();
    let parsed: Vec<Option<Value>> = outputs.iter().map(|output| output.outputs.parsed.clone()).collect();
    let backend: Vec<String> = outputs.iter().map(|output| output.backend_log.clone()).collect();
    store
        .run("attempts::put_outputs", || async {
            let mut tx = store.begin_kept_as("attempts::put_outputs", worker).await?;
            sqlx::query!(
                "/* attempts::put_outputs */
                update container_executions e
                set stdout_log = o.stdout, stderr_log = o.stderr, clean_output = o.clean, parsed_output = o.parsed,
                    docker_log = nullif(o.backend, '')
                from unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[], $7::jsonb[], $8::text[])
                    as o(job_id, attempt, epoch, stdout, stderr, clean, parsed, backend)
                where e.job_id = o.job_id and e.attempt = o.attempt and e.epoch = o.epoch and num_nulls(e.ended_at) = 1",
                &jobs,
                &attempts,
                &epochs,
                &stdout,
                &stderr,
                &clean,
                &parsed as &[Option<Value>],
                &backend
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
}

pub(crate) fn columns<'a>(tokens: impl Iterator<Item = &'a Token>) -> (Vec<Uuid>, Vec<i32>, Vec<i32>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for token in tokens {
        columns.0.push(token.job.uuid());
        columns.1.push(token.attempt);
        columns.2.push(token.epoch);
    }
    columns
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
