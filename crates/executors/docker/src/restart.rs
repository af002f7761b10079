//! Whether a container was ended by the engine's own going down.

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use crate::time;

/// SIGKILL, SIGTERM, and what the engine reports for a container that it lost sight of.
const CODES: [i64; 3] = [137, 143, 255];

/// How many events the engine remembers. It forgets the oldest first, and all of them when it ends.
const REMEMBERED_EVENTS: usize = 256;

/// Whether the exit code is one that an engine going down leaves behind.
pub(crate) fn is_possible(exit_code: i64) -> bool {
    CODES.contains(&exit_code)
}

/// Whether the engine was started after the container. It takes its containers down with it (unless it is
/// configured for live restore), so such a container ended with it, or before and unseen.
///
/// The engine does not tell when it started. But it remembers its last events, from its start on: when it has
/// forgotten none and there is none as old as the container's start, it is younger than the container. When
/// it may have forgotten some, nothing is known, and the exit code is taken as the container's own.
pub(crate) async fn is_younger(docker: &Docker, id: &str, started_at: DateTime<Utc>) -> Result<bool, Error> {
    let info = docker.info().await?;
    let now = info.system_time.as_deref().and_then(time::parse);
    let Some(now) = now.filter(|_| info.live_restore_enabled != Some(true)) else {
        return Ok(false);
    };
    // With an end in the engine's own past this is a list, not a stream.
    let past = EventsOptionsBuilder::new().since("0").until(&time::unix(now)).build();
    let events: Vec<_> = docker.events(Some(past)).try_collect().await?;
    let was_there = events.iter().any(|event| {
        let older = event.time_nano.zip(started_at.timestamp_nanos_opt()).is_some_and(|(at, start)| at <= start);
        older || event.action.as_deref() == Some("start") && actor(event) == Some(id)
    });
    Ok(!was_there && events.len() < REMEMBERED_EVENTS)
}

fn actor(event: &EventMessage) -> Option<&str> {
    event.actor.as_ref()?.id.as_deref()
}
