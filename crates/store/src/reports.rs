//! The recorder's transaction: reports applied, slots freed, outbox written, all or nothing.

mod failover;

use std::collections::{BTreeMap, HashMap, HashSet};

use gantry_core::cost::{self, Prices, Ran};
use gantry_core::lost::Abandon;
use gantry_core::message::{Ended, EventKind, JobEvent, Report, ReportKind, ReportedOutcome, Token};
use gantry_core::state::{self, AttemptEnded, Event, Next, Outcome, StopReason};
use gantry_core::{ExecutorType, Failure, FailureClass, HostId, JobId, LimitId, Status, TemplateId, TenantId, retry};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::attempts::columns;
use crate::columns::sparse;
use crate::costs;
use crate::error::{Result, parse};
use crate::events::{self, Batch, NewEvent};
use crate::limits;
use crate::tx::Store;

pub use failover::Failover;

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// The events that were written, to be published now, by transaction.
    pub events: Vec<Batch>,
    /// Reports that changed nothing: their token is stale, or the same was recorded before.
    pub superseded: usize,
    /// The executor types whose hosts have free slots now.
    pub freed: Vec<ExecutorType>,
    /// Whether jobs may be in line again: some are tried again, or a limit has room that others wait for.
    pub lined_up: bool,
    /// Jobs that their place refused, and that go on elsewhere.
    pub failovers: Vec<Failover>,
}

struct Locked {
    tenant: TenantId,
    name: String,
    executor: ExecutorType,
    template: Option<TemplateId>,
    host: HostId,
    prices: Prices,
    status: Status,
    current_attempt: i32,
    cancel_requested: bool,
    used: retry::Used,
    epoch: i32,
    over: bool,
    slot_held: bool,
    /// Nobody has seen a container of the attempt.
    never_ran: bool,
    limits: Vec<Uuid>,
    stop_reason: Option<StopReason>,
    abandoned_as: Option<Abandon>,
    /// Whether anything may have been launched.
    launched: bool,
    estimated_cost: Option<Decimal>,
    cost_so_far: Option<Decimal>,
}

/// One decided end.
struct Decision<'a> {
    token: Token,
    ended: &'a Ended,
    locked: &'a Locked,
    /// The failure that it counts as.
    failure: Option<Failure>,
    next: Next,
    /// Where it is tried again, if its place refused it.
    rerouted: Option<failover::Move>,
    ran: Ran,
    /// None if nobody knows.
    cost: Option<Decimal>,
}

/// Applies reports; each by itself, so their order does not matter. `jitter` gives a number in `0.0..1.0` for
/// each retry.
pub async fn apply(store: &Store, reports: &[Report], jitter: &(dyn Fn() -> f64 + Send + Sync)) -> Result<Applied> {
    store.run("reports::apply", || apply_once(store, reports, jitter)).await
}

async fn apply_once(store: &Store, reports: &[Report], jitter: &(dyn Fn() -> f64 + Send + Sync)) -> Result<Applied> {
    let mut tx = store.begin_kept("reports::apply").await?;
    let locked = lock_attempts(&mut tx, reports).await?;
    let policies = read_policies(&mut tx, reports, &locked).await?;
    let ways = failover::read_ways(&mut tx, reports, &locked).await?;

    let mut applied = Applied::default();
    let mut decisions: Vec<Decision<'_>> = Vec::new();
    let mut events: Vec<NewEvent> = Vec::new();
    let mut seen = HashSet::new();
    for report in reports {
        let key = (report.token.job, report.token.attempt);
        let Some(row) = locked.get(&key).filter(|row| row.epoch == report.token.epoch && !row.over) else {
            applied.superseded += 1;
            continue;
        };
        match &report.kind {
            ReportKind::Started { .. } if row.current_attempt == report.token.attempt => {
                events.push(started_event(report.token, row));
            }
            ReportKind::Ended(ended) if row.current_attempt == report.token.attempt && seen.insert(key) => {
                let outcome: Outcome = ended.outcome.clone().into();
                let failure = outcome.failure_after(row.stop_reason);
                let policy = policies.get(&report.token.job).cloned().unwrap_or_default();
                let rerouted = ways.next(report, ended, row);
                let event = Event::AttemptEnded(AttemptEnded {
                    outcome,
                    stop_reason: row.stop_reason,
                    cancel_requested: row.cancel_requested,
                    retry: match row.abandoned_as {
                        Some(Abandon::Fail) => retry::Verdict::GiveUp,
                        None if row.stop_reason == Some(StopReason::Drain) => retry::moved(),
                        _ => match &rerouted {
                            Some(next) => retry::handed_on(row.used, next.to.at_once, jitter()),
                            None => retry::decide(&policy, row.used, failure.as_ref(), jitter()),
                        },
                    },
                });
                let Ok(next) = state::next(row.status, &event) else {
                    applied.superseded += 1;
                    continue;
                };
                let ran = ran(row, ended);
                let cost = cost::actual(row.prices, ran);
                let rerouted = rerouted.filter(|_| matches!(next, Next::Retry(_)));
                decisions.push(Decision {
                    token: report.token,
                    ended,
                    locked: row,
                    failure,
                    next,
                    rerouted,
                    ran,
                    cost,
                });
            }
            _ => applied.superseded += 1,
        }
    }
    events.extend(decisions.iter().map(ended_event));
    let mut freed = Vec::new();
    if !decisions.is_empty() {
        freed = write_ends(&mut tx, &decisions).await?;
        release_limits(&mut tx, &decisions).await?;
        let moves: Vec<_> = decisions.iter().filter_map(|d| Some((d.token.job, d.rerouted.as_ref()?))).collect();
        failover::hand_on(&mut tx, &moves).await?;
        applied.failovers = decisions.iter().filter_map(moved).collect();
        applied.freed = decisions.iter().filter(|d| d.locked.slot_held).map(|d| d.locked.executor).collect();
        applied.freed.sort_unstable();
        applied.freed.dedup();
        applied.lined_up = decisions.iter().any(|d| matches!(d.next, Next::Retry(_)) || !d.locked.limits.is_empty());
    }
    applied.events.extend(events::insert(&mut tx, &events).await?);
    if !decisions.is_empty() {
        free_slots(&mut tx, &freed).await?;
        costs::add(&mut tx, &decisions.iter().map(counted).collect::<Vec<_>>()).await?;
    }
    tx.commit().await?;
    Ok(applied)
}

/// Where a job went on that its place refused.
fn moved(decision: &Decision<'_>) -> Option<Failover> {
    let (rerouted, failure) = (decision.rerouted.as_ref()?, decision.failure.as_ref()?);
    Some(Failover { from: decision.locked.executor, to: rerouted.to.executor, class: failure.class })
}

/// For how long a container ran. One that was there, or may have been, and of which nobody told any times, has no known
/// time; what certainly never started has none at all.
fn ran(row: &Locked, ended: &Ended) -> Ran {
    let may_have_run = match &ended.outcome {
        ReportedOutcome::Exited { .. } => true,
        ReportedOutcome::Failed(failure) => failure.class == FailureClass::Lost || failure.exit_code.is_some(),
    };
    match ended.run_millis {
        Some(millis) => Ran::millis(millis),
        None if row.launched && (!row.never_ran || ended.execution_id.is_some() || may_have_run) => Ran::Unknown,
        None => Ran::Never,
    }
}

/// What the sums of the day get of an end.
fn counted(decision: &Decision<'_>) -> costs::Ended {
    let Decision { locked, next, ran, cost, .. } = decision;
    costs::Ended {
        tenant: locked.tenant,
        template: locked.template,
        host: locked.host,
        executor: locked.executor,
        completed: matches!(next, Next::End { status: Status::Completed, .. }),
        ran: *ran,
        cost: *cost,
        // Of the executor that ran it: a job was moved, and estimated there, before this attempt could be claimed.
        estimated: locked.estimated_cost.filter(|_| matches!(next, Next::End { .. })),
    }
}

fn started_event(token: Token, row: &Locked) -> NewEvent {
    let kind = EventKind::Started;
    NewEvent { kind, data: event_data(token, row, kind, row.status, None, None) }
}

fn ended_event(decision: &Decision<'_>) -> NewEvent {
    let (kind, status, failure) = match &decision.next {
        Next::End { status, failure } => (EventKind::Ended(*status), *status, failure.clone()),
        _ => (EventKind::Retrying, Status::Pending, decision.failure.clone()),
    };
    let exit_code = exit_code(decision);
    NewEvent { kind, data: event_data(decision.token, decision.locked, kind, status, exit_code, failure) }
}

fn event_data(
    token: Token,
    row: &Locked,
    kind: EventKind,
    status: Status,
    exit_code: Option<i32>,
    failure: Option<Failure>,
) -> JobEvent {
    JobEvent {
        job_id: token.job,
        tenant_id: row.tenant,
        name: row.name.clone(),
        status,
        executor_type: row.executor,
        attempt: token.attempt,
        sequence: kind.sequence(token.attempt),
        exit_code,
        failure,
    }
}

fn exit_code(decision: &Decision<'_>) -> Option<i32> {
    match &decision.next {
        Next::End { status: Status::Completed, .. } => Some(0),
        Next::End { failure, .. } => failure.as_ref().and_then(|failure| failure.exit_code),
        _ => decision.failure.as_ref().and_then(|failure| failure.exit_code),
    }
}

/// What has ended is not counted any more by the limits that counted it.
async fn release_limits(tx: &mut sqlx::PgConnection, decisions: &[Decision<'_>]) -> Result<()> {
    let mut counts = BTreeMap::new();
    for limit in decisions.iter().filter(|d| d.locked.slot_held).flat_map(|d| &d.locked.limits) {
        *counts.entry(LimitId::from(*limit)).or_insert(0) += 1;
    }
    if counts.is_empty() { Ok(()) } else { limits::release(tx, &counts).await }
}

/// Locks what these reports are about, in the lock order: the limits that they may free, then the jobs, then the attempts, each for
/// the whole batch and not row by row.
async fn lock_attempts(tx: &mut sqlx::PgConnection, reports: &[Report]) -> Result<HashMap<(JobId, i32), Locked>> {
    let (jobs, attempts, _) = columns(reports.iter().map(|report| &report.token));
    let ended = reports.iter().filter(|report| matches!(report.kind, ReportKind::Ended(_)));
    let (ended_jobs, ended_attempts, _) = columns(ended.map(|report| &report.token));
    // The limits are counted, which locks all of them, before the first job is looked at. Their table is read even where nothing is
    // limited, so that a limit which is being made waits until this is over, and counts what is left; without any limit no attempt
    // is looked at for it.
    let of = sqlx::query!(
        r#"/* reports::lock_attempts */
        with l as materialized (
            select id from limits where id in (
                select unnest(e.limits) from container_executions e
                join unnest($2::uuid[], $3::int[]) as t(job_id, attempt) on e.job_id = t.job_id and e.attempt = t.attempt
                where e.slot_held::int = 1 and (select exists (select from limits)))
            order by id for no key update
        )
        select id, tenant_id, name, executor_type::text as "executor_type!", status::text as "status!", attempt,
            cancel_requested_at is not null as "cancel_requested!", user_retries, infrastructure_retries, template,
            estimated_cost, actual_cost
        from container_jobs where id = any($1) and (select count(*) from l) >= 0 order by id for no key update"#,
        &jobs,
        &ended_jobs,
        &ended_attempts
    )
    .fetch_all(&mut *tx)
    .await?;
    let of: HashMap<Uuid, _> = of.into_iter().map(|job| (job.id, job)).collect();
    // The prices as they are: whoever changes them does not wait for what ends, nor the other way round.
    let rows = sqlx::query!(
        r#"/* reports::lock_attempts */
        select e.job_id, e.attempt, e.epoch, e.executor_host_id, e.slot_held, e.limits,
            e.launch_sent_at is not null as "launched!", e.execution_id is null and e.started_at is null as "never_ran!",
            e.stop_reason::text, e.abandoned_as::text, e.ended_at is not null as "over!",
            h.cost_per_job as "cost_per_job?", h.cost_per_hour as "cost_per_hour?"
        from (select distinct * from unnest($1::uuid[], $2::int[])) as t(job_id, attempt)
        join container_executions e on e.job_id = t.job_id and e.attempt = t.attempt
        left join executor_hosts h on h.id = e.executor_host_id
        order by e.job_id, e.attempt for no key update of e"#,
        &jobs,
        &attempts
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut locked = HashMap::with_capacity(rows.len());
    for row in rows {
        let Some(job) = of.get(&row.job_id) else { continue };
        let attempt = Locked {
            tenant: job.tenant_id.into(),
            name: job.name.clone(),
            executor: parse("executor_type", &job.executor_type)?,
            template: job.template.map(Into::into),
            host: row.executor_host_id.into(),
            prices: match (row.cost_per_job, row.cost_per_hour) {
                (Some(per_job), Some(per_hour)) => Prices { per_job, per_hour },
                _ => Prices::default(),
            },
            status: parse("status", &job.status)?,
            current_attempt: job.attempt,
            cancel_requested: job.cancel_requested,
            used: retry::Used {
                user: u32::try_from(job.user_retries).unwrap_or(0),
                infrastructure: u32::try_from(job.infrastructure_retries).unwrap_or(0),
            },
            epoch: row.epoch,
            over: row.over,
            slot_held: row.slot_held,
            never_ran: row.never_ran,
            limits: row.limits,
            stop_reason: row.stop_reason.as_deref().map(|reason| parse("stop_reason", reason)).transpose()?,
            abandoned_as: row.abandoned_as.as_deref().map(|how| parse("abandoned_as", how)).transpose()?,
            launched: row.launched,
            estimated_cost: job.estimated_cost,
            cost_so_far: job.actual_cost,
        };
        locked.insert((row.job_id.into(), row.attempt), attempt);
    }
    Ok(locked)
}

/// The retry policies of the jobs that did not end with exit code 0.
async fn read_policies(
    tx: &mut sqlx::PgConnection,
    reports: &[Report],
    locked: &HashMap<(JobId, i32), Locked>,
) -> Result<HashMap<JobId, retry::Policy>> {
    let (tenants, failed): (Vec<Uuid>, Vec<Uuid>) = reports
        .iter()
        .filter(|report| match &report.kind {
            ReportKind::Ended(ended) => Outcome::from(ended.outcome.clone()).failure().is_some(),
            ReportKind::Started { .. } => false,
        })
        .filter_map(|report| {
            let row = locked.get(&(report.token.job, report.token.attempt))?;
            Some((row.tenant.uuid(), report.token.job.uuid()))
        })
        .unzip();
    if failed.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"/* reports::read_policies */
        select s.job_id, s.spec->'retry' as "policy!"
        from unnest($1::uuid[], $2::uuid[]) as f(tenant_id, job_id)
        join container_job_specs s on s.tenant_id = f.tenant_id and s.job_id = f.job_id
        where s.spec->'retry' is not null"#,
        &tenants,
        &failed
    )
    .fetch_all(&mut *tx)
    .await?;
    // A policy that this version cannot read is no policy: the job ends with its first failure.
    Ok(rows
        .into_iter()
        .map(|row| (row.job_id.into(), retry::Policy::deserialize(row.policy).unwrap_or_default()))
        .collect())
}

/// What the ends of a host give back to it.
struct Freed {
    host: Uuid,
    slots: i32,
    /// Means, in seconds; none where no end told.
    startup: Option<f64>,
    held_for: Option<f64>,
}

async fn write_ends(tx: &mut sqlx::PgConnection, decisions: &[Decision<'_>]) -> Result<Vec<Freed>> {
    let (jobs, attempts, _) = columns(decisions.iter().map(|decision| &decision.token));
    let end = |d: &Decision<'_>| match &d.next {
        Next::End { status, failure } => (*status, failure.clone(), None),
        Next::Retry(retry) => (Status::Pending, d.failure.clone(), Some(retry.clone())),
        // `state::next` gives nothing else for an attempt's end.
        Next::Run | Next::CancelRequested => (d.locked.status, None, None),
    };
    let ends: Vec<_> = decisions.iter().map(end).collect();
    let statuses: Vec<String> = ends.iter().map(|(status, ..)| status.to_string()).collect();
    let classes: Vec<Option<String>> = ends.iter().map(|(_, f, _)| f.as_ref().map(|f| f.class.to_string())).collect();
    let messages: Vec<Option<String>> = ends.iter().map(|(_, f, _)| f.as_ref().map(|f| f.message.clone())).collect();
    let budgets: Vec<Option<String>> = ends
        .iter()
        .map(|(.., retry)| {
            retry.as_ref().map(|retry| match retry.budget {
                retry::Budget::User => "user".to_owned(),
                retry::Budget::Infrastructure => "infrastructure".to_owned(),
                retry::Budget::Operator => "operator".to_owned(),
            })
        })
        .collect();
    let delays: Vec<Option<f64>> =
        ends.iter().map(|(.., retry)| retry.as_ref().map(|r| r.delay.as_secs_f64())).collect();
    let codes: Vec<Option<i32>> = decisions.iter().map(exit_code).collect();
    let executions: Vec<Option<String>> = decisions.iter().map(|d| d.ended.execution_id.clone()).collect();
    let run: Vec<Option<i64>> =
        decisions.iter().map(|d| d.ended.run_millis.and_then(|ms| i64::try_from(ms).ok())).collect();
    let memory: Vec<Option<i64>> =
        decisions.iter().map(|d| d.ended.max_memory_usage.and_then(|bytes| i64::try_from(bytes).ok())).collect();
    let cpu: Vec<Option<f64>> = decisions.iter().map(|d| d.ended.cpu_usage_percent).collect();
    let held: Vec<bool> = decisions.iter().map(|d| d.locked.slot_held).collect();
    let startup: Vec<Option<i64>> =
        decisions.iter().map(|d| d.ended.startup_millis.and_then(|ms| i64::try_from(ms).ok())).collect();
    let incomplete: Vec<bool> = decisions.iter().map(|d| d.ended.logs_incomplete).collect();
    let metadata: Vec<Option<Value>> =
        decisions.iter().map(|d| (!d.ended.metadata.is_null()).then(|| d.ended.metadata.clone())).collect();
    let costs: Vec<Option<Decimal>> = decisions.iter().map(|d| d.cost).collect();
    // The sum of what is known.
    let totals: Vec<Option<Decimal>> = decisions
        .iter()
        .map(|d| d.cost.map(|cost| d.locked.cost_so_far.unwrap_or_default() + cost).or(d.locked.cost_so_far))
        .collect();
    let rows = sqlx::query!(
        r#"/* reports::write_ends */
        with d as (
            select *, now() - make_interval(secs => coalesce(run, 0) / 1000.0) as begun
            from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::int[], $9::text[],
                $10::int8[], $11::int8[], $12::float8[], $13::bool[], $14::jsonb[], $15::numeric[], $16::numeric[], $17::bool[], $18::int8[])
                as d(job_id, attempt, status, class, message, budget, delay, code, execution_id, run, memory, cpu, incomplete,
                    metadata, cost, total, held, startup)
        ), e as (
            update container_executions e
            set ended_at = now(), slot_held = false, exit_code = d.code, failure_class = d.class::failure_class,
                error_message = d.message, retried_by = d.budget::retry_budget,
                execution_id = coalesce(d.execution_id, e.execution_id),
                started_at = coalesce(e.started_at, case when d.execution_id is not null and d.run is not null then d.begun end),
                run_millis = d.run, startup_millis = coalesce(d.startup, e.startup_millis), max_memory_usage = d.memory, cpu_usage_percent = d.cpu, logs_incomplete = d.incomplete,
                cost = d.cost
            from d where e.job_id = d.job_id and e.attempt = d.attempt and num_nulls(e.ended_at) = 1
            returning e.executor_host_id, d.held, coalesce(d.startup, e.startup_millis) as startup,
                extract(epoch from now() - e.claimed_at)::float8 as held_for
        ), j as (
            update container_jobs j
            set status = d.status::job_status, exit_code = d.code, failure_class = d.class::failure_class,
                error_message = d.message, execution_id = coalesce(d.execution_id, j.execution_id),
                started_at = coalesce(j.started_at, case when d.execution_id is not null and d.run is not null then d.begun end),
                executor_metadata = coalesce(d.metadata, j.executor_metadata), actual_cost = d.total,
                completed_at = case when d.status = 'pending' then null else now() end,
                waiting_reason = case when d.status = 'pending' and d.delay > 0 then 'retry_backoff'::waiting_reason end,
                parked_until = case when d.status = 'pending' and d.delay > 0 then now() + make_interval(secs => d.delay) end,
                user_retries = j.user_retries + case when d.budget = 'user' then 1 else 0 end,
                infrastructure_retries = j.infrastructure_retries + case when d.budget = 'infrastructure' then 1 else 0 end
            from d where j.id = d.job_id
        )
        select executor_host_id as "host!", count(*) filter (where held)::int as "slots!",
            avg(startup)::float8 / 1000 as startup, avg(held_for) as held_for
        from e group by executor_host_id order by executor_host_id"#,
        &jobs,
        &attempts,
        &statuses,
        &sparse(classes) as &[Option<String>],
        &sparse(messages) as &[Option<String>],
        &sparse(budgets) as &[Option<String>],
        &sparse(delays) as &[Option<f64>],
        &sparse(codes) as &[Option<i32>],
        &sparse(executions) as &[Option<String>],
        &sparse(run) as &[Option<i64>],
        &sparse(memory) as &[Option<i64>],
        &sparse(cpu) as &[Option<f64>],
        &incomplete,
        &sparse(metadata) as &[Option<Value>],
        &sparse(costs) as &[Option<Decimal>],
        &sparse(totals) as &[Option<Decimal>],
        &held,
        &sparse(startup) as &[Option<i64>]
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Freed { host: row.host, slots: row.slots, startup: row.startup, held_for: row.held_for })
        .collect())
}

/// Gives the slots back: after all that takes longer, because every claim and every end of a host waits for whoever has its
/// row. By their ids, which is the lock order, as [a claim](crate::claims) takes them.
async fn free_slots(tx: &mut sqlx::PgConnection, freed: &[Freed]) -> Result<()> {
    let hosts: Vec<Uuid> = freed.iter().map(|freed| freed.host).collect();
    sqlx::query!(
        "/* reports::free_slots */
        update executor_hosts h
        set current_job_count = h.current_job_count - f.slots,
            average_startup_time = coalesce(h.average_startup_time * 0.8 + f.startup * 0.2, f.startup, h.average_startup_time),
            average_slot_time = coalesce(h.average_slot_time * 0.8 + f.held_for * 0.2, f.held_for, h.average_slot_time)
        from (
            select * from unnest($1::uuid[], $2::int[], $3::float8[], $4::float8[]) as f(host, slots, startup, held_for)
            order by host offset 0) f
        where h.id = any(array[f.host])",
        &hosts,
        &freed.iter().map(|freed| freed.slots).collect::<Vec<_>>(),
        &freed.iter().map(|freed| freed.startup).collect::<Vec<_>>() as &[Option<f64>],
        &freed.iter().map(|freed| freed.held_for).collect::<Vec<_>>() as &[Option<f64>]
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}
