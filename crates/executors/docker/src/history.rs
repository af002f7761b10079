//! What the engine's recent events tell about an end that its own record leaves open.

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use chrono::{DateTime, Utc};
use futures::TryStreamExt;

use crate::time;

/// How many events the engine remembers. It forgets the oldest first, and all of them when it ends.
const REMEMBERED: usize = 256;

/// The events that the engine remembers.
pub(crate) struct History {
    events: Vec<EventMessage>,
    /// Whether containers may have outlived an engine: it is configured for live restore, or does not say.
    outlived: bool,
}

impl History {
    /// Asks the engine, and waits until `news_by` of its clock for the news that the container hit its memory
    /// limit, if that is still to come.
    pub(crate) async fn read(docker: &Docker, id: &str, news_by: Option<DateTime<Utc>>) -> Result<Self, Error> {
        let info = docker.info().await?;
        let Some(now) = info.system_time.as_deref().and_then(time::parse) else {
            return Ok(Self { events: Vec::new(), outlived: true });
        };
        let mut history = Self { events: Vec::new(), outlived: info.live_restore_enabled != Some(false) };
        // The stream ends by itself at the time given, which may lie in the engine's past.
        let until = time::unix(news_by.map_or(now, |by| by.max(now)));
        let events = EventsOptionsBuilder::new().since("0").until(&until).build();
        let mut events = std::pin::pin!(docker.events(Some(events)));
        while let Some(event) = events.try_next().await? {
            history.events.push(event);
            if history.tells(id, "oom") {
                break;
            }
        }
        Ok(history)
    }

    /// Whether this happened to the container and is remembered.
    pub(crate) fn tells(&self, id: &str, action: &str) -> bool {
        self.events.iter().any(|event| event.action.as_deref() == Some(action) && actor(event) == Some(id))
    }

    /// Whether the engine was started after the container. It takes its containers down with it (unless it is
    /// configured for live restore), so such a container ended with it, or before and unseen.
    ///
    /// The engine does not tell when it started. But when it has forgotten no event, and remembers none that is
    /// as old as the container's start, it is younger than the container. When it may have forgotten some,
    /// nothing is known, and the answer is no.
    pub(crate) fn is_younger_than(&self, id: &str, started_at: DateTime<Utc>) -> bool {
        let started_at = started_at.timestamp_nanos_opt();
        let is_older = |event: &EventMessage| event.time_nano.zip(started_at).is_some_and(|(at, start)| at <= start);
        !self.outlived
            && self.events.len() < REMEMBERED
            && !self.events.iter().any(is_older)
            // It comes a little after the time that the container's record has.
            && !self.tells(id, "start")
    }
}

fn actor(event: &EventMessage) -> Option<&str> {
    event.actor.as_ref()?.id.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EventActor;

    fn event(id: &str, action: &str, at: i64) -> EventMessage {
        EventMessage {
            actor: Some(EventActor { id: Some(id.into()), attributes: None }),
            action: Some(action.into()),
            time_nano: Some(at * 1_000_000_000),
            ..Default::default()
        }
    }

    fn younger(events: Vec<EventMessage>, outlived: bool) -> bool {
        let started_at = DateTime::from_timestamp(100, 0).expect("a time");
        History { events, outlived }.is_younger_than("a", started_at)
    }

    #[test]
    fn an_engine_without_memory_is_younger() {
        assert!(younger(vec![], false));
        assert!(younger(vec![event("a", "kill", 101), event("a", "die", 102), event("b", "start", 103)], false));
    }

    #[test]
    fn an_engine_that_saw_the_start_is_not() {
        assert!(!younger(vec![event("a", "start", 101), event("a", "die", 102)], false));
        assert!(!younger(vec![event("b", "die", 99)], false));
    }

    #[test]
    fn an_engine_that_may_have_forgotten_says_nothing() {
        assert!(!younger((0..REMEMBERED).map(|_| event("b", "start", 200)).collect(), false));
        assert!(!younger(vec![], true), "live restore leaves containers running");
    }
}
