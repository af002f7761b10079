//! Ending a run, and being done with it.

use std::sync::Arc;

use gantry_core::{Failure, FailureClass};
use serde_json::{Value, json};

use crate::client::Trouble;
use crate::place::Place;
use crate::wire::Phase;

/// Asks the service to stop a run. One that it does not know (yet) has nothing to stop: whoever wants it stopped asks
/// again until its end is seen.
pub(crate) async fn stop(place: &Arc<Place>, id: &str) -> Result<(), Failure> {
    match place.api.post::<Value>(&format!("/job-runs/{id}/stop"), &json!({})).await {
        Ok(_) => Ok(()),
        Err(trouble) if trouble.is_not_found() => Ok(()),
        // Perhaps because it is over already: its state tells.
        Err(trouble @ Trouble::Refused { status: 400 | 403 | 409 | 410 | 412, .. }) => match place.run(id).await {
            Ok(Some(run)) if run.phase() == Phase::Over => Ok(()),
            _ => Err(trouble.failure("stop")),
        },
        Err(trouble) => Err(trouble.failure("stop")),
    }
}

/// Forgets a run that is over. The service has no request for it, and forgets by itself.
pub(crate) async fn remove(place: &Arc<Place>, id: &str) -> Result<(), Failure> {
    if place.removed.get(id).is_some() {
        return Ok(());
    }
    if !place.seen.get(id).is_some_and(|seen| seen.is_over()) {
        let run = place.run(id).await.map_err(|trouble| trouble.failure("look at a run"))?;
        if run.is_some_and(|run| run.phase() != Phase::Over) {
            return Err(Failure::new(FailureClass::BackendError, format!("the run {id} is not over")));
        }
    }
    place.removed.put(id, ());
    place.seen.forget(id);
    Ok(())
}
