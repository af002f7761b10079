//! Public events: published right after their commit, and by a poll of their unpublished mark where that failed.

use std::time::Duration;

use gantry_broker::Outgoing;
use gantry_runtime::Shutdown;
use gantry_store::events::{self, Committed};
use gantry_store::reach::Looks;
use tokio::sync::mpsc;

use crate::{Parts, metrics};

/// Events published at once at most.
const BATCH: usize = 1_000;
/// How old an unpublished event is before the poll takes it: its recorder had time enough.
const LEFT_OVER_SECONDS: f64 = 5.0;
const POLL: Duration = Duration::from_secs(1);

/// Publishes what transactions of this process wrote. Ends with its sender.
pub(crate) async fn publish_committed(parts: &Parts, mut committed: mpsc::Receiver<Vec<Committed>>) {
    while let Some(mut batch) = committed.recv().await {
        while batch.len() < BATCH {
            match committed.try_recv() {
                Ok(more) => batch.extend(more),
                Err(_) => break,
            }
        }
        publish(parts, &batch).await;
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
            Ok(batch) if publish(parts, &batch).await && batch.len() == BATCH => pause = Duration::ZERO,
            Ok(batch) => {
                if batch.len() < BATCH {
                    looks.end(look);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the outbox now, trying again"),
        }
    }
}

/// Whether all of them were published and marked.
async fn publish(parts: &Parts, batch: &[Committed]) -> bool {
    if batch.is_empty() {
        return true;
    }
    let topology = parts.broker.topology();
    let (events, messages): (Vec<&Committed>, Vec<Outgoing>) = batch
        .iter()
        .filter_map(|event| {
            let mut message = Outgoing::json(topology.events(&event.routing_key()), &event.to_cloud_event()).ok()?;
            message.mandatory = false;
            message.properties.content_type = Some("application/cloudevents+json".to_owned());
            Some((event, message))
        })
        .unzip();
    let results = parts.publisher.publish_all(messages).await;
    let mut confirmed = Vec::with_capacity(batch.len());
    let mut refused = 0;
    for (event, result) in events.into_iter().zip(&results) {
        match result {
            Ok(()) => confirmed.push((event.data.job_id, event.data.sequence)),
            Err(_) => refused += 1,
        }
    }
    gantry_runtime::metrics::batch("publish_events", batch.len());
    metrics::published(confirmed.len(), refused);
    if let Some(error) = results.into_iter().find_map(Result::err) {
        tracing::warn!(%error, events = refused, "events were not published, and will be again");
    }
    match events::mark_published(&parts.store, &confirmed).await {
        Ok(()) => confirmed.len() == batch.len(),
        Err(error) => {
            tracing::warn!(%error, events = confirmed.len(), "published events could not be marked, and will be published again");
            false
        }
    }
}
