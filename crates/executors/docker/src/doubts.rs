//! Containers of which the engine cannot know whether they ran.
//!
//! An engine that is killed while it starts a container may come back with the container as `created`: the process ran
//! without it, and the start was not written down yet. To start it then would be to run it twice. But an engine keeps its
//! last events in memory alone: one that still knows the event of the container's creation has been up since, and what it
//! says of the container is so.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{End, Observed};

use crate::time;

/// The ids of such containers, as far as this process has met them.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<HashSet<String>>);

impl Doubts {
    pub(crate) fn add(&self, id: &str) {
        self.lock().insert(id.to_owned());
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// What a container in state `created` is.
    pub(crate) fn created(&self, id: &str) -> Observed {
        if !self.lock().contains(id) {
            return Observed::Starting;
        }
        let message = "the engine was restarted since it created the container, and cannot know whether it ran";
        Observed::Ended(End::bare(Outcome::Failed(Failure::new(FailureClass::Lost, message))))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the engine has certainly been up since it created this container. Not known, and so false, once so many other
/// things have happened that it has forgotten (256 events, some six for each container).
pub(crate) async fn has_been_up_since_creation(docker: &Docker, id: &str) -> Result<bool, Error> {
    let now = docker.info().await?.system_time;
    let Some(now) = now.as_deref().and_then(time::parse) else { return Ok(false) };
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["create"]), ("container", vec![id])]);
    // Past events alone: the answer ends with them.
    let options = EventsOptionsBuilder::new().filters(&filters).since("0").until(&time::unix(now)).build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    events.next().await.transpose().map(|event| event.is_some())
}
