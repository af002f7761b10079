//! Dead letters: out of their queue into the database, where people see them, and back again when they say so.
//!
//! Replaying twice is harmless. A submission goes through admission like any other, under its own key, its message's
//! id, or one derived from the letter: the second replay finds the first one's job. A list of work or of reports goes
//! back to its queue, where every item is compared with its row: a work item with (job, attempt, dispatch sequence), a
//! report with (job, attempt, epoch); what is stale changes nothing.

use std::time::Duration;

use futures::future::join_all;
use gantry_admission::{Incoming, admit};
use gantry_broker::consume::{self, Consumer};
use gantry_broker::{Delivery, Outgoing, Topology, ack_all, dead_letter};
use gantry_core::{ApiKeyId, LetterId};
use gantry_runtime::Shutdown;
use gantry_store::dead_letters::{self, Arrival, Due, Outcome};
use gantry_store::tenants::Principal;
use gantry_store::{Error, Scope, Store};

use crate::{Parts, metrics};

/// Letters stored in one transaction, or replayed in one pass, at most. Each may have a MiB and more.
const BATCH: usize = 20;
/// How long to wait before Postgres is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often due replays are looked for: at this grain a rate is kept.
const LOOK: Duration = Duration::from_millis(250);
/// How long a replay may take before another dispatcher may try. Longer than a publish and two transactions.
const PATIENCE: Duration = Duration::from_secs(30);
/// The queue whose letters go through admission.
const SUBMISSIONS: &str = "gantry.submissions";

/// Stores what comes to `gantry.dead`, and acks it when that is committed.
pub(crate) async fn keep(parts: &Parts, shutdown: &Shutdown) {
    if !parts.settings.store_dead_letters {
        return;
    }
    let options = consume::Options { max_batch: BATCH, prefetch: 2 * BATCH as u16, ..consume::Options::default() };
    let mut consumer = Consumer::new(&parts.broker, parts.broker.topology().dead_queue(), options);
    loop {
        let deliveries = tokio::select! {
            deliveries = consumer.next_batch() => deliveries,
            () = shutdown.requested() => return,
        };
        let topology = parts.broker.topology();
        let arrivals: Vec<Arrival> = deliveries.iter().map(|delivery| arrival(topology, delivery)).collect();
        // With the batch in hand: RabbitMQ may count what goes back, and drop it in the end.
        while let Err(error) = put(&parts.store, &arrivals).await {
            tracing::warn!(%error, letters = arrivals.len(), "cannot store dead letters now, trying again");
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = shutdown.requested() => {
                    join_all(deliveries.into_iter().map(Delivery::requeue)).await;
                    return;
                }
            }
        }
        ack_all(deliveries).await;
    }
}

fn arrival(topology: &Topology, letter: &Delivery) -> Arrival {
    let label = dead_letter::read(topology, letter);
    Arrival {
        tenant: label.tenant.and_then(|tenant| tenant.parse().ok()),
        queue: label.queue,
        origin: label.origin,
        reason: label.reason,
        detail: label.message,
        message_id: letter.properties().message_id.clone(),
        content_type: letter.properties().content_type.clone(),
        headers: label.headers,
        body: letter.body().to_vec(),
    }
}

/// Stores a batch; one that Postgres refuses for its content is halved, and the one bad letter kept without headers.
async fn put(store: &Store, arrivals: &[Arrival]) -> Result<(), Error> {
    match (dead_letters::put(store, arrivals).await, arrivals) {
        (Err(error), [letter]) if !error.is_transient() => {
            tracing::error!(%error, reason = letter.reason, "a dead letter is stored without its headers");
            let bare = Arrival { headers: Default::default(), ..letter.clone() };
            dead_letters::put(store, &[bare]).await
        }
        (Err(error), _) if !error.is_transient() => {
            let (left, right) = arrivals.split_at(arrivals.len() / 2);
            Box::pin(put(store, left)).await?;
            Box::pin(put(store, right)).await
        }
        (stored, _) => stored,
    }
}

/// Replays what is due, for ever.
pub(crate) async fn replay(parts: &Parts, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.requested() => return,
        }
        loop {
            match pass(parts).await {
                Ok(BATCH) if !shutdown.is_requested() => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot replay dead letters now, trying again");
                    break;
                }
            }
        }
    }
}

/// Replays one batch; returns how many letters were due.
async fn pass(parts: &Parts) -> Result<usize, Error> {
    let due = dead_letters::take_due(&parts.store, PATIENCE, BATCH as i64).await?;
    let taken = due.len();
    let (submissions, others): (Vec<Due>, Vec<Due>) =
        due.into_iter().partition(|letter| letter.queue.as_deref() == Some(SUBMISSIONS));
    let mut outcomes = submit(parts, submissions).await?;
    outcomes.extend(publish(parts, others).await);
    dead_letters::settle(&parts.store, &outcomes).await?;
    for outcome in &outcomes {
        metrics::replayed(outcome.result.is_ok());
        if let Err(problem) = &outcome.result {
            tracing::info!(letter.id = %outcome.id, %problem, "the replay of a dead letter was refused");
        }
    }
    Ok(taken)
}

async fn submit(parts: &Parts, letters: Vec<Due>) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::with_capacity(letters.len());
    let (mut places, mut batch) = (Vec::new(), Vec::new());
    for letter in letters {
        // Its idempotency key may be gone by now, and would make another job.
        if let Some(job) = letter.replayed_as {
            outcomes.push(Outcome { id: letter.id, arrivals: letter.arrivals, result: Ok(Some(job)) });
            continue;
        }
        match incoming(&letter) {
            Ok(incoming) => {
                places.push((letter.id, letter.arrivals));
                batch.push(incoming);
            }
            Err(problem) => {
                outcomes.push(Outcome { id: letter.id, arrivals: letter.arrivals, result: Err(problem) });
            }
        }
    }
    if batch.is_empty() {
        return Ok(outcomes);
    }
    let verdicts = admit(&parts.store, Scope::Fleet, &batch).await?;
    parts.nudge.notify_one();
    outcomes.extend(places.into_iter().zip(verdicts).map(|((id, arrivals), verdict)| {
        let result = verdict.map(|admitted| Some(admitted.job)).map_err(|problem| told(&problem));
        Outcome { id, arrivals, result }
    }));
    Ok(outcomes)
}

/// The letter as a submission of its tenant, made by whoever asked for the replay.
fn incoming(letter: &Due) -> Result<Incoming, String> {
    let tenant = letter.tenant.ok_or("nobody knows whose submission it is: it came without a valid API key")?;
    let key: ApiKeyId = letter
        .asked_by
        .strip_prefix("key:")
        .and_then(|id| id.parse().ok())
        .ok_or("nobody knows who asked for it; ask again")?;
    let body = letter.body.as_deref().ok_or(TOO_LONG)?;
    let principal = Principal { key, tenant, operator: false };
    let message_id = letter.message_id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| derived(letter.id));
    let incoming = Incoming::over_amqp(principal, body, Some(&message_id)).map_err(|problem| told(&problem))?;
    Ok(incoming.traced(letter.headers.get("traceparent").map(String::as_str)))
}

const TOO_LONG: &str = "its body was too long to be kept whole";

/// The message id of a submission that has none: the same at every replay of this letter.
fn derived(letter: LetterId) -> String {
    format!("dead-letter:{letter}")
}

fn told(problem: &gantry_core::Problem) -> String {
    format!("{}: {problem}", problem.code)
}

/// Hands lists back to their queues. What is not confirmed is not settled, and due again later.
async fn publish(parts: &Parts, letters: Vec<Due>) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(letters.len());
    let (mut places, mut messages) = (Vec::new(), Vec::new());
    for letter in letters {
        match outgoing(parts.broker.topology(), &letter) {
            Ok(outgoing) => {
                places.push((letter.id, letter.arrivals));
                messages.push(outgoing);
            }
            Err(problem) => {
                outcomes.push(Outcome { id: letter.id, arrivals: letter.arrivals, result: Err(problem.to_owned()) });
            }
        }
    }
    for ((id, arrivals), result) in places.into_iter().zip(parts.publisher.publish_all(messages).await) {
        match result {
            Ok(()) => outcomes.push(Outcome { id, arrivals, result: Ok(None) }),
            Err(error) if error.is_transient() => tracing::warn!(%error, letter.id = %id, "not replayed yet"),
            Err(error) => outcomes.push(Outcome { id, arrivals, result: Err(error.to_string()) }),
        }
    }
    outcomes
}

fn outgoing(topology: &Topology, letter: &Due) -> Result<Outgoing, &'static str> {
    let queue = letter.queue.as_deref().ok_or("nobody knows the queue that it was in")?;
    let route = topology.back_to(queue).ok_or("its queue takes no letters back")?;
    let mut outgoing = Outgoing::work(route, letter.body.clone().ok_or(TOO_LONG)?);
    outgoing.properties.message_id.clone_from(&letter.message_id);
    outgoing.properties.content_type.clone_from(&letter.content_type);
    if let Some(context) = letter.headers.get("traceparent") {
        outgoing.headers.insert("traceparent", context.as_str());
    }
    Ok(outgoing)
}
