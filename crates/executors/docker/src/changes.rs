//! Hearing of ended containers from the engine's event stream, instead of asking all the time.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use gantry_core::{Failure, FailureClass};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;
use crate::{error, labels, time};

/// How long to wait before connecting again, first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A count of what may have changed; the receiver remembers up to where it was waited for, so that what
/// happens between two waits is not missed.
pub(crate) struct Changes {
    count: watch::Sender<u64>,
    waited_for: Mutex<watch::Receiver<u64>>,
    listener: OnceLock<AbortOnDropHandle<()>>,
    /// Since when, by the engine's clock, its events have been heard without a gap; none while they are not.
    heard_since: std::sync::Mutex<Option<DateTime<Utc>>>,
}

impl Default for Changes {
    fn default() -> Self {
        let (count, receiver) = watch::channel(0);
        Self { count, waited_for: Mutex::new(receiver), listener: OnceLock::new(), heard_since: Default::default() }
    }
}

impl Changes {
    /// Since when, by the engine's clock, its events have been heard without a gap: so long the engine has been up.
    pub(crate) fn heard_since(&self) -> Option<DateTime<Utc>> {
        *self.heard_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn hears_since(&self, since: Option<DateTime<Utc>>) {
        *self.heard_since.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = since;
    }
}

/// Returns when a container may have ended since the last call returned, or after `at_most`.
pub(crate) async fn wait(engine: &Arc<Engine>, at_most: Duration) {
    let listener = || AbortOnDropHandle::new(tokio::spawn(listen(Arc::downgrade(engine))));
    engine.changes.listener.get_or_init(listener);
    let changed = async { engine.changes.waited_for.lock().await.changed().await };
    // Both ways of ending mean the same to the caller: look again.
    let _ = tokio::time::timeout(at_most, changed).await;
}

/// Follows the events for as long as the engine is known; it is aborted with the last handle to it.
async fn listen(engine: Weak<Engine>) {
    let mut back_off = BACK_OFF.0;
    loop {
        let Some(docker) = client(&engine).await else { return };
        let ended = match docker {
            Ok(docker) => follow(&engine, &docker, &mut back_off).await,
            Err(failure) => failure,
        };
        if let Some(engine) = engine.upgrade() {
            engine.changes.hears_since(None);
        }
        tracing::debug!(error = %ended, "the event stream ended; connecting again");
        tokio::time::sleep(back_off).await;
        back_off = (back_off * 2).min(BACK_OFF.1);
    }
}

async fn client(engine: &Weak<Engine>) -> Option<Result<Docker, Failure>> {
    let engine = engine.upgrade()?;
    Some(engine.docker().await)
}

/// Follows one event stream to its end.
async fn follow(engine: &Weak<Engine>, docker: &Docker, back_off: &mut Duration) -> Failure {
    // From the engine's own present, so that nothing is lost between this answer and the stream.
    let info = match docker.info().await {
        Ok(info) => info,
        Err(error) => return error::failure("ask for the engine's time", &error),
    };
    *back_off = BACK_OFF.0;
    // Whatever happened before that, while nobody listened.
    bump(engine);
    let now = info.system_time.as_deref().and_then(time::parse);
    if let Some(engine) = engine.upgrade() {
        // A moment early: the stream is asked for next, and an engine that is gone by then does not answer.
        engine.changes.hears_since(now);
    }
    let mut events = std::pin::pin!(docker.events(Some(deaths(now))));
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => bump(engine),
            Err(error) => return error::failure("follow the events", &error),
        }
    }
    Failure::new(FailureClass::HostUnreachable, "the engine closed the event stream")
}

fn deaths(since: Option<DateTime<Utc>>) -> EventsOptions {
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["die"]), ("label", vec![labels::FLEET])]);
    let options = EventsOptionsBuilder::new().filters(&filters);
    match since {
        Some(since) => options.since(&time::unix(since)).build(),
        None => options.build(),
    }
}

fn bump(engine: &Weak<Engine>) {
    if let Some(engine) = engine.upgrade() {
        engine.changes.count.send_modify(|count| *count += 1);
    }
}
