//! Workers that cannot beat while their containers run: another must adopt them, and the first must have gone quiet
//! before.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sqlx::PgPool;
use tokio::time::sleep;
use uuid::Uuid;

use super::breaker::{Done, pid, until};
use super::fleet::Fleet;
use super::process::Supervised;
use super::schedule::{Cut, Member, Server};
use crate::fleet::POLL;
use crate::part::{LEASE, Part};

/// How long work is waited for that can be taken over.
const WORK_WITHIN: Duration = Duration::from_secs(20);
/// In which others must have declared the worker dead and taken its attempts: whoever judges may first have to reach
/// Postgres without a gap for one lease itself.
const TAKEN_WITHIN: Duration = Duration::from_secs(4 * LEASE.as_secs());
/// How much longer the worker stays cut off, so that it has time for what it must not do.
const AFTERWARDS: Duration = Duration::from_secs(3);
/// In which a worker that learns of its death ends.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// How often a fault is tried until something was there to be adopted: what runs may end meanwhile by itself.
const TRIES: usize = 3;

/// A worker stands still, and goes on when it is dead to all others.
pub(crate) async fn freeze(fleet: &Fleet, member: Member) -> anyhow::Result<Done> {
    until_adopted(async || freeze_once(fleet, member).await).await
}

/// A worker does not reach Postgres until it is dead to all others, and a little longer.
pub(crate) async fn partition(fleet: &Fleet, cut: Cut, member: Member) -> anyhow::Result<Done> {
    until_adopted(async || partition_once(fleet, cut, member).await).await
}

async fn until_adopted(strike: impl AsyncFn() -> anyhow::Result<Done>) -> anyhow::Result<Done> {
    let mut done = strike().await?;
    for _ in 1..TRIES {
        if done.proof.is_some() {
            break;
        }
        let again = strike().await?;
        let late = done.late.into_iter().chain(again.late).collect();
        done = Done { late, ..again };
    }
    Ok(done)
}

async fn freeze_once(fleet: &Fleet, member: Member) -> anyhow::Result<Done> {
    let process = fleet.process(member);
    let victim = Victim::find(&fleet.sql, process).await?;
    let began = Instant::now();
    process.signal(Signal::STOP, false)?;
    let stopped = until(Duration::from_secs(1), || is_stopped(victim.pid).then_some(())).await.is_some();
    let taken = victim.taken(&fleet.sql, began).await?;
    sleep(AFTERWARDS).await;
    let lasted = began.elapsed().as_secs_f64();
    process.signal(Signal::CONT, false)?;
    let proof = format!("pid {} stood still for {lasted:.1} s", victim.pid);
    victim.outcome(process, taken, (stopped && lasted > LEASE.as_secs_f64()).then_some(proof)).await
}

async fn partition_once(fleet: &Fleet, cut: Cut, member: Member) -> anyhow::Result<Done> {
    let process = fleet.process(member);
    let victim = Victim::find(&fleet.sql, process).await?;
    let (before, began) = (process.links.to(Server::Postgres).tally(), Instant::now());
    process.links.cut(Server::Postgres, cut);
    let taken = victim.taken(&fleet.sql, began).await?;
    sleep(AFTERWARDS).await;
    let lasted = began.elapsed().as_secs_f64();
    process.links.heal(Server::Postgres, cut);
    let now = process.links.to(Server::Postgres).tally();
    let (held, refused) = (now.held - before.held, now.refused - before.refused);
    let proof = format!("{held} bytes held, {refused} connections refused in {lasted:.1} s");
    victim.outcome(process, taken, (held + refused > 0).then_some(proof)).await
}

/// The worker before it is struck.
struct Victim {
    pid: u32,
    id: Uuid,
    /// Its open attempts.
    owned: Vec<(Uuid, i32)>,
}

/// All its attempts were another's, or over.
struct Taken {
    /// From when on it must have been quiet: the end of its lease, or the adoption if that was sooner.
    quiet_from: Instant,
    after: Duration,
    adopted: usize,
}

impl Victim {
    async fn find(sql: &PgPool, process: &Supervised) -> anyhow::Result<Self> {
        let end = Instant::now() + WORK_WITHIN;
        loop {
            let last = Instant::now() > end;
            let pid = pid(process).await?;
            let id: Option<Uuid> =
                sqlx::query_scalar("select id from workers where name like '%:' || $1 and state = 'alive'")
                    .bind(pid.to_string())
                    .fetch_optional(sql)
                    .await?;
            if let Some(id) = id {
                let owned: Vec<(Uuid, i32)> = sqlx::query_as(
                    "select job_id, attempt from container_executions
                     where worker_id = $1 and ended_at is null and started_at is not null",
                )
                .bind(id)
                .fetch_all(sql)
                .await?;
                if !owned.is_empty() || last {
                    return Ok(Self { pid, id, owned });
                }
            } else if last {
                anyhow::bail!("{} (pid {pid}) is not known as a live worker", process.member);
            }
            sleep(POLL).await;
        }
    }

    /// Waits until others have declared it dead and nothing is its own any more.
    async fn taken(&self, sql: &PgPool, began: Instant) -> anyhow::Result<Option<Taken>> {
        while began.elapsed() < TAKEN_WITHIN {
            let (dead, open): (bool, i64) = sqlx::query_as(
                "select (select state <> 'alive' from workers where id = $1),
                        (select count(*) from container_executions where worker_id = $1 and ended_at is null)",
            )
            .bind(self.id)
            .fetch_one(sql)
            .await?;
            if dead && open == 0 {
                let after = began.elapsed();
                let quiet_from = began + after.min(LEASE);
                return Ok(Some(Taken { quiet_from, after, adopted: self.adopted(sql).await? }));
            }
            sleep(POLL).await;
        }
        Ok(None)
    }

    /// How many of its attempts are another worker's now.
    async fn adopted(&self, sql: &PgPool) -> anyhow::Result<usize> {
        let (jobs, attempts): (Vec<Uuid>, Vec<i32>) = self.owned.iter().copied().unzip();
        let count: i64 = sqlx::query_scalar(
            "select count(*) from container_executions e
             join unnest($1::uuid[], $2::integer[]) as o (job_id, attempt) using (job_id, attempt)
             where e.worker_id <> $3",
        )
        .bind(jobs)
        .bind(attempts)
        .bind(self.id)
        .fetch_one(sql)
        .await?;
        Ok(usize::try_from(count)?)
    }

    /// Waits until it has ended over its own death, and looks what it has asked its engine for since the adoption.
    async fn outcome(self, process: &Supervised, taken: Option<Taken>, proof: Option<String>) -> anyhow::Result<Done> {
        let healed = Instant::now();
        let ended = until(ENDS_WITHIN, || process.ends().into_iter().find(|end| end.pid == self.pid)).await;
        let Some(Taken { quiet_from, after, adopted }) = taken else {
            let effect = format!("was not declared dead and replaced within {TAKEN_WITHIN:?}");
            return Ok(Done { proof: None, effect, late: Vec::new() });
        };
        // What follows in its place is a worker of its own.
        let until = ended.map_or_else(Instant::now, |ended| ended.at);
        let late: Vec<String> = process
            .links
            .mutations_since(quiet_from)
            .into_iter()
            .filter(|mutation| mutation.at < until)
            .map(|mutation| format!("{} of the dead {}", mutation.request, process.member))
            .collect();
        let end = match ended {
            Some(ended) => {
                format!("ended {:.1} s after that", ended.at.saturating_duration_since(healed).as_secs_f64())
            }
            None => "lives on".to_owned(),
        };
        // Simulated containers are lines in a file: there is no connection to listen on.
        let requests = match process.member.part {
            Part::DockerWorker => format!("{} late requests, ", late.len()),
            _ => String::new(),
        };
        let (owned, after) = (self.owned.len(), after.as_secs_f64());
        let effect = format!("dead, {adopted} of {owned} attempts adopted after {after:.1} s, {requests}{end}");
        // Of one whose attempts all ended by themselves meanwhile nothing was taken.
        Ok(Done { proof: proof.filter(|_| adopted > 0), effect, late })
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}
