//! Submissions over RabbitMQ: a batch is admitted in one transaction, answered, and only then acked.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use gantry_admission::metrics::{self, Door};
use gantry_admission::{Admitted, Incoming, admit_and_dispatch};
use gantry_broker::consume::{self, Consumer};
use gantry_broker::dead_letter::Reason;
use gantry_broker::{Delivery, Outgoing, ack_all, dead_letter, publish};
use gantry_core::message::{Reply, WorkItem};
use gantry_core::{ExecutorType, Problem};
use gantry_runtime::{Linger, Shutdown};
use gantry_store::Scope;
use gantry_store::tenants::Principal;
use tokio::time::Instant;

use crate::Parts;
use crate::auth::{API_KEY_HEADER, Keys};
use crate::post::Post;
use crate::room::{MANY, Patience, shares};

/// How often a batch is admitted under load. This sets the pace of the stages behind it: each batch is a list of work, and each
/// list a claim.
const EVERY: Duration = Duration::from_millis(25);
/// How long a batch waits at most for places that come soon, for all of its jobs or for a part; so many times longer as there are
/// dispatchers, four times at most, because each gets its part of the places. Where they never suffice, one goes into line each such
/// time: who waits for a slot is to stand there, seen by all and sorted.
const PLACES_FOR_ALL: Duration = Duration::from_millis(25);
const PLACES_FOR_ANY: Duration = Duration::from_millis(500);
/// How long to wait before Postgres is asked again.
const PAUSE: Duration = Duration::from_millis(500);

pub(crate) async fn run(parts: &Parts, shutdown: &Shutdown) {
    let batch = parts.settings.intake_batch;
    let options = consume::Options {
        max_batch: batch,
        max_wait: Duration::ZERO,
        prefetch: u16::try_from(batch * 2).unwrap_or(u16::MAX),
        ..consume::Options::default()
    };
    let mut consumer = Consumer::new(&parts.broker, parts.broker.topology().submissions_queue(), options);
    let (mut keys, mut post) = (Keys::default(), Post::default());
    let mut linger = Linger::new(EVERY, batch);
    let mut pace = Pace::default();
    loop {
        let deliveries = tokio::select! {
            deliveries = consumer.next_batch_gathered_until(linger.until()) => deliveries,
            () = shutdown.requested() => break,
        };
        let mut deliveries = deliveries;
        // Of the whole batch, in however many parts it goes.
        let until = Instant::now() + PLACES_FOR_ANY * shares(parts.peers.count());
        while !deliveries.is_empty() {
            let jobs = tokio::select! {
                jobs = pace.keep(parts, deliveries.len(), until) => jobs,
                () = shutdown.requested() => deliveries.len(),
            };
            let others = deliveries.split_off(jobs);
            let begun = Instant::now();
            let came = take_in(parts, shutdown, &mut keys, &mut post, deliveries).await;
            linger.share(parts.peers.count());
            linger.done(begun, jobs);
            pace.note(&came, jobs);
            deliveries = others;
        }
    }
    // What it holds goes back to the queue at once.
    drop(consumer);
    post.settle().await;
}

/// Intake's pace: as fast as places come, where they come fast.
#[derive(Debug, Default)]
struct Pace {
    usual: Option<Usual>,
}

/// What the last batch was like: the next one most likely is, too.
#[derive(Clone, Copy, Debug)]
struct Usual {
    /// Where most of it went.
    executor: ExecutorType,
    /// So many of its jobs wanted a place there,
    wanted: usize,
    /// of so many.
    of: usize,
}

impl Pace {
    /// Waits for places for so many jobs, if most of them go to one executor type, and places come soon there. Returns how many of
    /// the jobs are to be taken in now.
    async fn keep(&self, parts: &Parts, jobs: usize, until: Instant) -> usize {
        // Few may stand in line: it costs little.
        let worth_it = |usual: &Usual| jobs >= MANY || parts.room.reopens(usual.executor);
        // Where others are as many, they are not to wait for these.
        let Some(usual) = self.usual.filter(|usual| 2 * usual.wanted > usual.of).filter(worth_it) else { return jobs };
        let wanted = (jobs * usual.wanted).div_ceil(usual.of);
        let for_all = PLACES_FOR_ALL * shares(parts.peers.count());
        let found = parts.room.wait_for(usual.executor, wanted, Patience { for_all, until }).await;
        if found < wanted { (jobs * found / wanted).max(1) } else { jobs }
    }

    /// Notes where a batch of so many went.
    fn note(&mut self, came: &BTreeMap<ExecutorType, usize>, jobs: usize) {
        if let Some((executor, wanted)) = came.iter().max_by_key(|(_, wanted)| **wanted) {
            self.usual = Some(Usual { executor: *executor, wanted: *wanted, of: jobs });
        }
    }
}

/// Takes a batch in, and returns how many of its jobs wanted a place where. While Postgres is away it waits with the batch in
/// hand; on shutdown the batch goes back.
async fn take_in(
    parts: &Parts,
    shutdown: &Shutdown,
    keys: &mut Keys,
    post: &mut Post,
    deliveries: Vec<Delivery>,
) -> BTreeMap<ExecutorType, usize> {
    let verdicts = loop {
        match judge(parts, keys, &deliveries).await {
            Ok(verdicts) => break verdicts,
            Err(error) => {
                tracing::warn!(%error, batch = deliveries.len(), "cannot admit now, trying again");
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = shutdown.requested() => {
                        join_all(deliveries.into_iter().map(Delivery::requeue)).await;
                        return BTreeMap::new();
                    }
                }
            }
        }
    };
    let came = hand_on(parts, post, &verdicts);
    gantry_runtime::metrics::batch("admit", verdicts.len());
    for verdict in &verdicts {
        metrics::count(Door::Amqp, verdict.outcome.as_ref().map(|admitted| admitted.existing));
    }
    answer(parts, shutdown, &deliveries, &verdicts).await;
    let mut admitted = Vec::with_capacity(deliveries.len());
    let mut rejected = Vec::new();
    for (delivery, verdict) in deliveries.into_iter().zip(verdicts) {
        match verdict {
            Verdict { outcome: Ok(_), .. } => admitted.push(delivery),
            Verdict { outcome: Err(problem), principal } => rejected.push((delivery, problem, principal)),
        }
    }
    ack_all(admitted).await;
    join_all(rejected.into_iter().map(|(delivery, problem, principal)| put_aside(parts, delivery, problem, principal)))
        .await;
    came
}

struct Verdict {
    outcome: Result<Admitted, Problem>,
    principal: Option<Principal>,
}

/// Decides for each delivery, in their order.
async fn judge(parts: &Parts, keys: &mut Keys, deliveries: &[Delivery]) -> Result<Vec<Verdict>, gantry_store::Error> {
    let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(deliveries.len());
    let mut incoming = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let refused = match keys.principal(&parts.store, delivery.headers().get(API_KEY_HEADER)).await? {
            Err(problem) => Verdict { outcome: Err(problem), principal: None },
            Ok(principal) => {
                let message_id = delivery.properties().message_id.as_deref();
                match Incoming::over_amqp(principal, delivery.body(), message_id) {
                    Ok(submission) => {
                        incoming.push((principal, submission.traced(delivery.headers().get("traceparent"))));
                        verdicts.push(None);
                        continue;
                    }
                    Err(problem) => Verdict { outcome: Err(problem), principal: Some(principal) },
                }
            }
        };
        verdicts.push(Some(refused));
    }
    let (principals, submissions): (Vec<_>, Vec<_>) = incoming.into_iter().unzip();
    let mut places = Vec::new();
    let room = |executor, jobs| {
        let taken = parts.room.take(executor, jobs);
        let is_taken = taken.is_some();
        places.extend(taken);
        is_taken
    };
    let outcomes = admit_and_dispatch(&parts.store, Scope::Fleet, &submissions, room).await;
    drop(places);
    let mut admitted = principals
        .into_iter()
        .zip(outcomes?)
        .map(|(principal, outcome)| Verdict { outcome, principal: Some(principal) });
    Ok(verdicts.into_iter().filter_map(|refused| refused.or_else(|| admitted.next())).collect())
}

/// Sends what entered the window with its admission; of the rest that is ready it is noted that it stands in line, and
/// what is new is looked at.
fn hand_on(parts: &Parts, post: &mut Post, verdicts: &[Verdict]) -> BTreeMap<ExecutorType, usize> {
    let mut dispatched: BTreeMap<ExecutorType, Vec<WorkItem>> = BTreeMap::new();
    let (mut came, mut is_new) = (BTreeMap::new(), false);
    for admitted in verdicts.iter().filter_map(|verdict| verdict.outcome.as_ref().ok()) {
        match admitted.dispatched {
            Some(item) => dispatched.entry(admitted.executor).or_default().push(item),
            None if admitted.in_line => parts.room.stands_in_line(admitted.executor),
            None => {}
        }
        if admitted.dispatched.is_some() || admitted.in_line {
            *came.entry(admitted.executor).or_default() += 1;
        }
        is_new |= !admitted.existing && admitted.dispatched.is_none();
    }
    if is_new {
        parts.nudge.notify_one();
    }
    for (executor, items) in dispatched {
        crate::metrics::dispatched(executor, items.len());
        post.send(parts, executor, items);
    }
    came
}

/// Tells those who asked. A reply that cannot be delivered is its reader's loss: the job is durable anyway, and
/// the same submission again gets the same answer. While RabbitMQ takes no messages (an alarm) the replies wait; when
/// the connection is lost, the deliveries come again and are answered then.
async fn answer(parts: &Parts, shutdown: &Shutdown, deliveries: &[Delivery], verdicts: &[Verdict]) {
    let mut replies: Vec<(&Delivery, Outgoing)> = deliveries
        .iter()
        .zip(verdicts)
        .filter_map(|(delivery, verdict)| {
            let properties = delivery.properties();
            let reply = match &verdict.outcome {
                Ok(admitted) => Reply::Accepted { job_id: admitted.job, existing: admitted.existing },
                Err(problem) => Reply::Rejected(problem.clone()),
            };
            let body = serde_json::to_vec(&reply).ok()?;
            let mut reply =
                Outgoing::reply(properties.reply_to.as_deref()?, properties.correlation_id.as_deref(), body);
            reply.properties.content_type = Some("application/json".to_owned());
            Some((delivery, reply))
        })
        .collect();
    while !replies.is_empty() {
        let results = parts.publisher.publish_all(replies.iter().map(|(_, reply)| reply.clone()).collect()).await;
        let mut waiting = Vec::new();
        for ((delivery, reply), result) in replies.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(publish::Error::Unconfirmed { .. }) if delivery.is_live() && !shutdown.is_requested() => {
                    waiting.push((delivery, reply));
                }
                Err(error) => tracing::warn!(%error, "a reply was not delivered"),
            }
        }
        if !waiting.is_empty() {
            tracing::warn!(replies = waiting.len(), "replies were not confirmed, sending them again");
        }
        replies = waiting;
    }
}

async fn put_aside(parts: &Parts, delivery: Delivery, problem: Problem, principal: Option<Principal>) {
    let tenant = principal.map(|principal| principal.tenant.to_string());
    let code: &'static str = problem.code.into();
    let message = problem.to_string();
    tracing::info!(problem.code = code, tenant.id = tenant, %message, "a submission was refused");
    let reason = Reason { code, message: &message, origin: "dispatcher", tenant: tenant.as_deref() };
    if let Err(error) = dead_letter(&parts.publisher, delivery, reason).await {
        tracing::warn!(%error, "a refused submission could not be dead-lettered and went back to its queue");
    }
}

/// Submissions past their delivery limit arrive with the producer's key still on them: it is taken off here, on
/// the way to the dead letters, and says whose they are.
pub(crate) async fn strip_expired(parts: &Parts, shutdown: &Shutdown) {
    let queue = parts.broker.topology().expired_queue();
    let options = consume::Options { max_batch: 50, prefetch: 100, ..consume::Options::default() };
    let mut consumer = Consumer::new(&parts.broker, queue, options);
    let mut keys = Keys::default();
    loop {
        let deliveries = tokio::select! {
            deliveries = consumer.next_batch() => deliveries,
            () = shutdown.requested() => return,
        };
        for delivery in deliveries {
            let Some(tenant) = tenant_of(parts, shutdown, &mut keys, &delivery).await else {
                delivery.requeue().await;
                continue;
            };
            let message = "the submission was delivered too often without being settled";
            let reason = Reason { code: "delivery_limit", message, origin: "dispatcher", tenant: tenant.as_deref() };
            if let Err(error) = dead_letter(&parts.publisher, delivery, reason).await {
                tracing::warn!(%error, "an expired submission could not be dead-lettered and went back");
            }
        }
    }
}

/// The tenant of the key on a message, none of an unknown key; nothing at all if the process is ending before Postgres
/// has answered.
async fn tenant_of(parts: &Parts, shutdown: &Shutdown, keys: &mut Keys, delivery: &Delivery) -> Option<Option<String>> {
    loop {
        match keys.principal(&parts.store, delivery.headers().get(API_KEY_HEADER)).await {
            Ok(answer) => return Some(answer.ok().map(|principal| principal.tenant.to_string())),
            Err(error) => tracing::warn!(%error, "cannot tell whose an expired submission is, trying again"),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = shutdown.requested() => return None,
        }
    }
}
