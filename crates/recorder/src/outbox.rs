//! Public events: published right after their commit, and by a poll of the outbox where that failed.

use std::collections::HashSet;
use std::time::Duration;

use gantry_broker::Outgoing;
use gantry_core::JobId;
use gantry_runtime::Shutdown;
use gantry_store::events::{self, Batch, Committed, Rest};
use gantry_store::reach::Looks;
use tokio::sync::mpsc;

use crate::{Parts, metrics};

/// Events published at once at most.
const BATCH: usize = 1_000;
/// How old an unpublished event is before the poll takes it: its recorder had time enough.
const LEFT_OVER_SECONDS: f64 = 5.0;
const POLL: Duration = Duration::from_secs(1);

/// Publishes what transactions of this process wrote. Ends with its sender.
pub(crate) async fn publish_committed(parts: &Parts, mut committed: mpsc::Receiver<Vec<Batch>>) {
    while let Some(mut batches) = committed.recv().await {
        while events_in(&batches) < BATCH {
            match committed.try_recv() {
                Ok(more) => batches.extend(more),
                Err(_) => break,
            }
        }
        publish(parts, &batches).await;
    }
}

/// Publishes what other processes left, or what RabbitMQ did not take.
pub(crate) async fn publish_left_over(parts: &Parts, shutdown: &Shutdown) {
    let mut pause = POLL;
    let mut looks = Looks::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = POLL;
        let look = looks.begin();
        match events::unpublished(&parts.store, look.reach, LEFT_OVER_SECONDS, BATCH as i64).await {
            // After an outage there are many: no pause behind a full batch, unless some of it is still to be done.
            Ok(batches) => {
                let done = publish(parts, &batches).await;
                match events_in(&batches) < BATCH {
                    true => looks.end(look),
                    false if done => pause = Duration::ZERO,
                    false => {}
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the outbox now, trying again"),
        }
    }
}

/// Those that can be published: the others are not to keep the poll from what is behind them.
fn events_in(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.events.len()).sum()
}

/// Whether all of them were published, and have left the outbox.
async fn publish(parts: &Parts, batches: &[Batch]) -> bool {
    if batches.is_empty() {
        return true;
    }
    let topology = parts.broker.topology();
    let events: Vec<&Committed> = batches.iter().flat_map(|batch| &batch.events).collect();
    let (told, messages): (Vec<(JobId, i32)>, Vec<Outgoing>) = events
        .iter()
        .filter_map(|event| {
            let mut message = Outgoing::json(topology.events(&event.routing_key()), &event.to_cloud_event()).ok()?;
            message.mandatory = false;
            message.properties.content_type = Some("application/cloudevents+json".to_owned());
            Some((key(event), message))
        })
        .unzip();
    let results = parts.publisher.publish_all(messages).await;
    let confirmed: HashSet<(JobId, i32)> =
        told.into_iter().zip(&results).filter(|(_, result)| result.is_ok()).map(|(key, _)| key).collect();
    if let Some(error) = results.into_iter().find_map(Result::err) {
        tracing::warn!(%error, events = events.len() - confirmed.len(), "events were not published, and will be again");
    }
    gantry_runtime::metrics::batch("publish_events", events.len());
    metrics::published(confirmed.len(), events.len() - confirmed.len());

    let (mut published, mut rests) = (Vec::new(), Vec::new());
    let mut all = true;
    for batch in batches {
        let refused = batch.events.iter().map(key).filter(|key| !confirmed.contains(key));
        let left: Vec<(JobId, i32)> = refused.chain(batch.unreadable.iter().copied()).collect();
        match left.len() {
            0 => published.push(batch.id),
            // Nothing of it was confirmed: it stays as it is.
            all_of_it if all_of_it == batch.events.len() + batch.unreadable.len() => all = false,
            _ => {
                all = false;
                rests.push(Rest { id: batch.id, events: left });
            }
        }
    }
    if published.is_empty() && rests.is_empty() {
        return false;
    }
    match events::mark_published(&parts.store, &published, &rests).await {
        Ok(()) => all,
        Err(error) => {
            tracing::warn!(%error, events = confirmed.len(), "published events could not be marked, and will be published again");
            false
        }
    }
}

fn key(event: &Committed) -> (JobId, i32) {
    (event.data.job_id, event.data.sequence)
}
