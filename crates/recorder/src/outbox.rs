//! Public events: published right after their commit, and by a poll of the outbox where that failed.

use std::collections::HashSet;
use std::time::Duration;

use gantry_broker::Outgoing;
use gantry_core::{JobId, OutboxId};
use gantry_runtime::{Linger, Shutdown};
use gantry_store::events::{self, Batch, Committed, Rest};
use gantry_store::reach::Looks;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::{Parts, metrics};

/// Events published at once at most.
const BATCH: usize = 1_000;
/// How often a round of publishing begins under load. Each ends with a transaction, and nobody but subscribers waits for it.
const EVERY: Duration = Duration::from_millis(50);
/// How old an unpublished event is before the poll takes it: its recorder had time enough.
const LEFT_OVER_SECONDS: f64 = 5.0;
const POLL: Duration = Duration::from_secs(1);

/// Publishes what transactions of this process wrote. Ends with its sender.
pub(crate) async fn publish_committed(parts: &Parts, mut committed: mpsc::Receiver<Vec<Batch>>) {
    let mut linger = Linger::new(EVERY, BATCH);
    while let Some(mut batches) = committed.recv().await {
        while events_in(&batches) < BATCH {
            match linger.more(committed.recv()).await {
                Some(Some(more)) => batches.extend(more),
                // It is time to go, or the recorder stops.
                Some(None) | None => break,
            }
        }
        let begun = Instant::now();
        publish(parts, &batches).await;
        linger.done(begun, events_in(&batches));
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
        match events::unpublished(&parts.store, look.reach, LEFT_OVER_SECONDS, BATCH).await {
            Ok(batches) => {
                let is_full = events_in(&batches) >= BATCH;
                if !is_full {
                    // Before RabbitMQ is asked: for how long it does not answer says nothing of what a look costs.
                    looks.end(look);
                }
                // After an outage there are many: no pause behind a full batch, unless some of it is still to be done.
                if publish(parts, &batches).await && is_full {
                    pause = Duration::ZERO;
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the outbox now, trying again"),
        }
    }
}

/// Those that can be published.
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
    let taken = told.into_iter().zip(&results).filter(|(_, result)| result.is_ok());
    let confirmed: HashSet<(JobId, i32)> = taken.map(|(key, _)| key).collect();
    let refused = events.len() - results.iter().filter(|result| result.is_ok()).count();
    gantry_runtime::metrics::batch("publish_events", events.len());
    metrics::published(events.len() - refused, refused);
    if let Some(error) = results.into_iter().find_map(Result::err) {
        tracing::warn!(%error, events = refused, "events were not published, and will be again");
    }
    let (published, rests) = settle(batches, &confirmed);
    if !(published.is_empty() && rests.is_empty())
        && let Err(error) = events::mark_published(&parts.store, &published, &rests).await
    {
        tracing::warn!(%error, events = confirmed.len(), "published events are still in the outbox, and will be published again");
        return false;
    }
    refused == 0
}

/// The rows that leave the outbox when RabbitMQ has confirmed these events, and what is left of those of which it has a
/// part. One of which it has nothing stays as it is: nobody rewrites the outbox during an outage.
fn settle(batches: &[Batch], confirmed: &HashSet<(JobId, i32)>) -> (Vec<OutboxId>, Vec<Rest>) {
    let (mut published, mut rests) = (Vec::new(), Vec::new());
    for Batch { id, events, unreadable } in batches {
        let mut left: Vec<(JobId, i32)> = events.iter().map(key).filter(|key| !confirmed.contains(key)).collect();
        let told = events.len() - left.len();
        left.extend(unreadable);
        if left.is_empty() {
            published.push(*id);
        } else if told > 0 {
            rests.push(Rest { id: *id, events: left });
        }
    }
    (published, rests)
}

fn key(event: &Committed) -> (JobId, i32) {
    (event.data.job_id, event.data.sequence)
}

#[cfg(test)]
mod tests {
    use gantry_core::message::JobEvent;
    use gantry_core::{ExecutorType, Status, TenantId};

    use super::*;

    fn event(job_id: JobId, sequence: i32) -> Committed {
        let data = JobEvent {
            job_id,
            tenant_id: TenantId::new(),
            name: "job".to_owned(),
            status: Status::Completed,
            executor_type: ExecutorType::Mock,
            attempt: 1,
            sequence,
            exit_code: None,
            failure: None,
        };
        Committed { kind: "completed".to_owned(), at: Default::default(), data }
    }

    #[test]
    fn a_row_is_rewritten_only_if_rabbitmq_took_a_part_of_it() {
        let (job, id) = (JobId::new(), OutboxId::new());
        let keys = |sequences: &[i32]| -> Vec<(JobId, i32)> { sequences.iter().map(|n| (job, *n)).collect() };
        let settled = |events: &[i32], unreadable: &[i32], confirmed: &[i32]| {
            let events = events.iter().map(|n| event(job, *n)).collect();
            let row = Batch { id, events, unreadable: keys(unreadable) };
            settle(&[row], &keys(confirmed).into_iter().collect())
        };
        let rest = |sequences: &[i32]| (Vec::<OutboxId>::new(), vec![Rest { id, events: keys(sequences) }]);
        let as_it_is = (Vec::<OutboxId>::new(), Vec::<Rest>::new());
        let gone = (vec![id], Vec::<Rest>::new());

        assert_eq!(settled(&[1, 3], &[], &[]), as_it_is, "RabbitMQ is away");
        assert_eq!(settled(&[1, 3], &[], &[3]), rest(&[1]));
        assert_eq!(settled(&[1, 3], &[], &[1, 3]), gone);
        assert_eq!(settled(&[1, 3], &[2], &[]), as_it_is);
        assert_eq!(settled(&[1, 3], &[2], &[1, 3]), rest(&[2]), "it waits for a version that can read it");
        assert_eq!(settled(&[], &[2], &[]), as_it_is);
        assert_eq!(settled(&[], &[], &[]), gone, "its jobs were deleted by hand");
    }
}
