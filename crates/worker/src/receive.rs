//! Work arrives as lists: claimed in one transaction, acked, started. A message is always acked: its jobs were
//! claimed, released, or belong to somebody else by now.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use gantry_broker::consume::{self, Consumer};
use gantry_broker::dead_letter::Reason;
use gantry_broker::{Delivery, Publisher, ack_all, dead_letter};
use gantry_core::JobId;
use gantry_core::message::{self, Control, Nudge, Work, WorkItem};
use gantry_runtime::Linger;
use gantry_store::claims::{self, Claimed, Outcome, Request};
use gantry_store::reach::Looks;
use gantry_store::{Error, queue};
use tokio::time::Instant;

use crate::attempt;
use crate::engine::Engine;
use crate::executor::Idempotence;
use crate::metrics;
use crate::registry::Run;

/// Lists taken at once, and jobs claimed in one transaction.
const LISTS: usize = 16;
const CLAIM: usize = 500;
/// How often a claim begins under load. Less than the time between two lists of one dispatcher, each of which is to be claimed
/// at once; with many dispatchers it bounds how often the hosts' rows are locked.
const EVERY: Duration = Duration::from_millis(12);
/// How often dispatched rows are looked for whose message came to nothing.
const SWEEP: Duration = Duration::from_secs(2);
/// How often the hosts are looked at: a worker without a healthy one takes nothing from the queue.
const LOOK: Duration = Duration::from_millis(250);
/// How long to wait before Postgres is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Receives until the worker drains. Its error is [`Error::NotAlive`].
pub(crate) async fn run(engine: &Arc<Engine>) -> Result<(), Error> {
    let executor = engine.executor.executor_type();
    let options = consume::Options {
        max_batch: LISTS,
        max_wait: Duration::ZERO,
        prefetch: engine.settings.prefetch,
        ..consume::Options::default()
    };
    let queue = engine.broker.topology().jobs_queue(executor.as_str());
    let mut consumer = None;
    let publisher = Publisher::new(&engine.broker);
    let mut sweep = tokio::time::interval(SWEEP);
    let mut look = tokio::time::interval(LOOK);
    let mut looks = Looks::default();
    let mut linger = Linger::new(EVERY, CLAIM);
    loop {
        // What this worker took without a host would wait for the sweep of another that has one. Without its consumer
        // it holds nothing: what was prefetched goes back to the queue.
        if !engine.hosts.healthy().is_empty() {
            consumer.get_or_insert_with(|| Consumer::new(&engine.broker, &queue, options.clone()));
        } else {
            consumer = None;
        }
        tokio::select! {
            biased;
            () = engine.draining.cancelled() => return Ok(()),
            // Before the deliveries, or it would never come under load.
            _ = sweep.tick() => sweep_stranded(engine, &mut looks).await?,
            deliveries = next_batch(consumer.as_mut(), linger.until()) => {
                if engine.hosts.healthy().is_empty() {
                    // First, or they would come again.
                    consumer = None;
                    put_back(deliveries).await;
                } else {
                    let begun = Instant::now();
                    let jobs = take(engine, &publisher, deliveries).await?;
                    linger.share(engine.peers.count());
                    linger.done(begun, jobs);
                }
            }
            _ = look.tick() => {}
        }
    }
}

async fn next_batch(consumer: Option<&mut Consumer>, until: Instant) -> Vec<Delivery> {
    match consumer {
        Some(consumer) => consumer.next_batch_gathered_until(until).await,
        None => std::future::pending().await,
    }
}

async fn put_back(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        delivery.requeue().await;
    }
}

/// Takes lists; returns how many jobs they named.
async fn take(engine: &Arc<Engine>, publisher: &Publisher, deliveries: Vec<Delivery>) -> Result<usize, Error> {
    let mut items: Vec<WorkItem> = Vec::new();
    let mut good = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        match delivery.json::<Work>() {
            Ok(Work::V1 { jobs }) => {
                items.extend(jobs);
                good.push(delivery);
            }
            Err(error) => {
                let cause = error.to_string();
                tracing::error!(%cause, "a list of work could not be decoded");
                // Its good items are worked on all the same.
                let good = message::work_items(delivery.body()).unwrap_or_default();
                items.extend(good.into_iter().filter_map(|item| serde_json::from_str::<WorkItem>(item).ok()));
                let reason = Reason { code: "invalid_message", message: &cause, origin: "worker", tenant: None };
                if let Err(error) = dead_letter(publisher, delivery, reason).await {
                    tracing::warn!(%error, "a broken list of work could not be dead-lettered and went back to its queue");
                }
            }
        }
    }
    for items in items.chunks(CLAIM) {
        let claimed = claim(engine, items).await?;
        launch(engine, claimed);
    }
    // Only now: a crash before a commit brings the message back.
    ack_all(good).await;
    Ok(items.len())
}

async fn sweep_stranded(engine: &Arc<Engine>, looks: &mut Looks) -> Result<(), Error> {
    if engine.hosts.healthy().is_empty() {
        return Ok(());
    }
    let limit = i64::try_from(CLAIM).unwrap_or(i64::MAX);
    let executor = engine.executor.executor_type();
    let look = looks.begin();
    let stranded = match queue::stranded(&engine.store, executor, look.reach, limit).await {
        Ok(stranded) => stranded,
        Err(error) => {
            tracing::warn!(%error, "cannot look for stranded jobs now, trying again");
            return Ok(());
        }
    };
    looks.end(look);
    if !stranded.is_empty() {
        let claimed = claim(engine, &stranded).await?;
        tracing::debug!(found = stranded.len(), claimed = claimed.len(), "looked for stranded jobs");
        launch(engine, claimed);
    }
    Ok(())
}

/// Claims, waiting with the items in hand while Postgres is away.
async fn claim(engine: &Arc<Engine>, items: &[WorkItem]) -> Result<Vec<Claimed>, Error> {
    let keys = || items.iter().map(|item| (item.job, item.attempt));
    engine.registry.claiming(keys(), engine.lease.now());
    let mut answer_was_lost = false;
    loop {
        let hosts = engine.hosts.healthy();
        let request = Request {
            worker: engine.id,
            fleet: engine.fleet,
            executor: engine.executor.executor_type(),
            hosts: &hosts,
            items,
            alone: engine.peers.count() == 1,
            launch_follows: engine.executor.idempotence() == Idempotence::Forever,
        };
        match claims::claim(&engine.store, &request).await {
            Ok(outcome) => {
                metrics::claimed(request.executor, items.len(), &outcome);
                let Outcome { claimed, unplaced, stale, .. } = outcome;
                if unplaced + stale > 0 {
                    tracing::debug!(claimed = claimed.len(), unplaced, stale, "claimed a part of what came");
                }
                let ours: HashSet<JobId> = claimed.iter().map(|claimed| claimed.token.job).collect();
                engine.registry.not_claimed(keys().filter(|(job, _)| !ours.contains(job)), answer_was_lost);
                return Ok(claimed);
            }
            Err(error @ Error::NotAlive(_)) => return Err(error),
            // About the content of some row: the others are claimed without it. It stays dispatched, for a worker
            // that can read it.
            Err(error) if !error.is_transient() && items.len() == 1 => {
                tracing::error!(%error, job.id = %items[0].job, "a job cannot be claimed");
                engine.registry.not_claimed(keys(), answer_was_lost);
                return Ok(Vec::new());
            }
            Err(error) if !error.is_transient() => {
                engine.registry.not_claimed(keys(), answer_was_lost);
                let (left, right) = items.split_at(items.len() / 2);
                let mut claimed = Box::pin(claim(engine, left)).await?;
                claimed.extend(Box::pin(claim(engine, right)).await?);
                return Ok(claimed);
            }
            Err(error) => {
                tracing::warn!(%error, jobs = items.len(), "cannot claim now, trying again");
                // It may have been committed all the same.
                answer_was_lost = true;
                tokio::time::sleep(PAUSE).await;
            }
        }
        if engine.draining.is_cancelled() {
            engine.registry.not_claimed(keys(), true);
            return Ok(Vec::new());
        }
    }
}

fn launch(engine: &Arc<Engine>, claimed: Vec<Claimed>) {
    for claimed in claimed {
        let token = claimed.token;
        let Some(host) = engine.hosts.get(claimed.host) else {
            // Claimed only for hosts that were reached; the next beat finds the attempt again.
            tracing::error!(host.id = %claimed.host, "claimed for a host that is not known");
            engine.registry.forget(token);
            continue;
        };
        let (run, request) = Run::new(claimed, host, engine.fleet);
        engine.registry.claimed(&run, engine.lease.now());
        attempt::start(engine, run, request);
    }
}

/// Listens for requests to end jobs, so that they need not wait for the next beat.
pub(crate) async fn listen(engine: &Arc<Engine>) {
    let options = consume::Options { prefetch: 1_000, ..consume::Options::default() };
    let exchange = engine.broker.topology().control_exchange();
    let mut consumer = Consumer::subscribe(&engine.broker, exchange, &[""], options);
    loop {
        let deliveries = consumer.next_batch().await;
        let cancelled: Vec<JobId> = deliveries
            .iter()
            .filter_map(|delivery| match delivery.json() {
                Ok(Control::V1(Nudge::Cancel { jobs })) => Some(jobs),
                _ => None,
            })
            .flatten()
            .collect();
        if !cancelled.is_empty() && engine.registry.knows_any(&cancelled) {
            engine.look.notify_one();
        }
        ack_all(deliveries).await;
    }
}
