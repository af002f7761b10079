//! Does what the schedule says, and proves that it happened.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use rustix::process::Signal;
use tokio::time::sleep;

use super::fleet::Fleet;
use super::process::Supervised;
use super::schedule::{Cut, Fault, Member, Outage, Server, Step};
use super::{amqp, takeover};
use crate::fleet::POLL;
use crate::part::Part;

/// In which a process that is asked to end does so. A part that hands over within seconds needs far less.
const END_WITHIN: Duration = Duration::from_secs(30);
/// In which a process is there that was started again.
const START_WITHIN: Duration = Duration::from_secs(15);
/// The longest that a cut lasts if no byte comes its way before.
const CUT_AT_MOST: Duration = Duration::from_secs(20);
/// How long parts are kept from a queue, so that something is in it.
const GATHERING: Duration = Duration::from_secs(3);

/// What came of a fault.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// That it happened; none if it cannot be shown, and then it was no fault.
    pub(crate) proof: Option<String>,
    /// What Gantry did about it, as far as it is seen at once.
    pub(crate) effect: String,
    /// What it must not have done: requests to an engine by a worker whose attempts were another's by then.
    pub(crate) late: Vec<String>,
}

/// Lets a fault happen, and ends it.
pub(crate) async fn apply(fleet: &mut Fleet, step: &Step) -> anyhow::Result<Done> {
    match step.fault {
        Fault::Kill(member) => end(fleet.process(member), Signal::KILL).await,
        Fault::Stop(member) => end(fleet.process(member), Signal::TERM).await,
        Fault::Freeze(member) => takeover::freeze(fleet, member).await,
        Fault::Partition(cut, member) => takeover::partition(fleet, cut, member).await,
        Fault::Cut(how, server, member) => cut(fleet.process(member), how, server, step.lasts).await,
        Fault::Purge => purge(fleet).await,
        Fault::KillAll(part) => kill_all(fleet, part).await,
        Fault::Outage(which, member) => outage(fleet, which, member, step.lasts).await,
    }
}

/// Waits for a process in its place; its id.
pub(crate) async fn pid(process: &Supervised) -> anyhow::Result<u32> {
    let found = until(START_WITHIN, || process.pid()).await;
    let failure = process.failure().unwrap_or_else(|| "it ends again and again".to_owned());
    found.with_context(|| format!("{} does not run: {failure}", process.member))
}

async fn end(process: &Supervised, signal: Signal) -> anyhow::Result<Done> {
    let pid = pid(process).await?;
    let began = Instant::now();
    process.signal(signal, true)?;
    let ended = until(END_WITHIN, || process.ends().into_iter().find(|end| end.pid == pid)).await;
    let Some(ended) = ended else {
        process.signal(Signal::KILL, true)?;
        return Ok(Done { effect: format!("pid {pid} did not end within {END_WITHIN:?}"), ..Done::default() });
    };
    let took = ended.at.duration_since(began).as_secs_f64();
    let how = match ended.status.signal() {
        Some(signal) => format!("pid {pid}: signal {signal}"),
        None => format!("pid {pid}: {} after {took:.1} s", ended.status),
    };
    // Killed as it was to be; or asked to end, and ended in order.
    let as_planned = ended.status.signal() == Some(signal.as_raw()) || ended.status.success();
    Ok(match as_planned {
        true => Done { proof: Some(how), ..Done::default() },
        false => Done { effect: how, ..Done::default() },
    })
}

async fn kill_all(fleet: &Fleet, part: Part) -> anyhow::Result<Done> {
    let all = fleet.processes.iter().filter(|process| process.member.part == part);
    let killed = try_join_all(all.map(|process| end(process, Signal::KILL))).await?;
    let proofs: Option<Vec<String>> = killed.into_iter().map(|done| done.proof).collect();
    Ok(Done { proof: proofs.map(|proofs| proofs.join(", ")), ..Done::default() })
}

/// A server goes, a process is killed, and both come back, the process first.
async fn outage(fleet: &mut Fleet, outage: Outage, member: Member, lasts: Duration) -> anyhow::Result<Done> {
    let gone = fleet.servers.take_down(outage).await?;
    let killed = end(fleet.process(member), Signal::KILL).await?;
    // The outage itself: the parts must wait it out.
    sleep(lasts).await;
    let back = fleet.servers.bring_back(gone).await?;
    let proof = killed.proof.map(|killed| format!("{back}; {killed}"));
    Ok(Done { proof, ..killed })
}

async fn cut(process: &Supervised, how: Cut, server: Server, lasts: Duration) -> anyhow::Result<Done> {
    pid(process).await?;
    let proxy = process.links.to(server);
    let (before, began) = (proxy.tally(), Instant::now());
    let counted = || {
        let now = proxy.tally();
        match how {
            Cut::Reset => (now.reset - before.reset, "connections reset"),
            Cut::Stall => (now.held - before.held, "bytes held"),
            Cut::DropResponses => (now.dropped - before.dropped, "bytes of answers dropped"),
            Cut::Refuse => (now.refused - before.refused, "connections refused"),
        }
    };
    process.links.cut(server, how);
    // Until it has hit something: a part may have nothing to say to its server for a while.
    while counted().0 == 0 && began.elapsed() < CUT_AT_MOST {
        sleep(POLL).await;
        if how == Cut::Reset {
            process.links.cut(server, how);
        }
    }
    if how != Cut::Reset {
        sleep(lasts.saturating_sub(began.elapsed())).await;
    }
    process.links.heal(server, how);
    let (count, what) = counted();
    let proof = format!("{count} {what} in {:.1} s", began.elapsed().as_secs_f64());
    Ok(Done { proof: (count > 0).then_some(proof), ..Done::default() })
}

/// Empties every queue while there is something in it: consumers are kept from RabbitMQ for a moment before, each
/// where those who fill its queue are not.
async fn purge(fleet: &Fleet) -> anyhow::Result<Done> {
    let mut purged = BTreeMap::<&str, u32>::new();
    for kept in [[Part::Dispatcher, Part::Recorder], [Part::Worker, Part::DockerWorker]] {
        let shut_out = || fleet.processes.iter().filter(|process| kept.contains(&process.member.part));
        for process in shut_out() {
            process.links.cut(Server::RabbitMq, Cut::Refuse);
        }
        // So that something is in the queues.
        sleep(GATHERING).await;
        for (queue, count) in amqp::purge(&fleet.addresses.amqp).await? {
            *purged.entry(queue).or_default() += count;
        }
        for process in shut_out() {
            process.links.heal(Server::RabbitMq, Cut::Refuse);
        }
    }
    purged.retain(|_, count| *count > 0);
    let counts: Vec<String> =
        purged.iter().map(|(queue, count)| format!("{} {count}", queue.trim_start_matches("gantry."))).collect();
    let proof = format!("thrown away: {}", counts.join(", "));
    Ok(Done { proof: (!counts.is_empty()).then_some(proof), ..Done::default() })
}

/// Looks until there is something to see; none after `limit`.
pub(crate) async fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        let last = Instant::now() > end;
        let found = look();
        if found.is_some() || last {
            return found;
        }
        sleep(POLL).await;
    }
}
