//! The states of runs, many at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use gantry_core::Failure;
use gantry_worker::executor::{ExecutionId, Observed};

use crate::client::Trouble;
use crate::place::Place;
use crate::wire::{Phase, Run};
use crate::{logs, outcome};

/// Up to so many runs are asked for one by one: that is cheaper than a list of all that are active.
const FEW: usize = 4;
/// Requests at a time.
const CONCURRENCY: usize = 8;
/// How long after a run's end its exit code may still be missing.
const CODE_WITHIN: Duration = Duration::from_secs(5);

pub(crate) async fn observe(place: &Arc<Place>, ids: &[ExecutionId]) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
    let active = if ids.len() > FEW { place.active().await? } else { Arc::default() };
    let active: HashMap<&str, &Run> = active.iter().map(|run| (run.id.as_str(), run)).collect();
    let mut states = Vec::with_capacity(ids.len());
    let mut rest = Vec::new();
    for id in ids {
        match active.get(id.0.as_str()) {
            _ if place.removed.get(&id.0).is_some() => states.push((id.clone(), Observed::Gone)),
            Some(run) => states.extend(state(place, run).map(|state| (id.clone(), state))),
            None => rest.push(id.clone()),
        }
    }
    // What is not in the list has ended, or is new: only its own answer is authoritative.
    let mut answers =
        futures::stream::iter(rest).map(|id| async move { (place.run(&id.0).await, id) }).buffer_unordered(CONCURRENCY);
    while let Some((answer, id)) = answers.next().await {
        match answer {
            Ok(Some(run)) => states.extend(state(place, &run).map(|state| (id, state))),
            Ok(None) if place.is_settled(&id.0, place.connection.visible_within()) => states.push((id, Observed::Gone)),
            Ok(None) => {}
            // The service has trouble with this one run; the others are not to suffer.
            Err(trouble @ Trouble::Refused { status: 400 | 404 | 500, .. }) => {
                tracing::warn!(run.id = %id, error = %trouble, "cannot look at a run");
            }
            Err(trouble) => return Err(trouble.failure("look at a run")),
        }
    }
    Ok(states)
}

/// The state of a run; none if it cannot be said yet.
pub(crate) fn state(place: &Place, run: &Run) -> Option<Observed> {
    place.asked.forget(run.id.as_str());
    logs::note(place, run);
    match run.phase() {
        Phase::Starting => Some(Observed::Starting),
        Phase::Running => Some(Observed::Running),
        Phase::Unknown => None,
        Phase::Over => {
            if outcome::awaits_exit_code(run) && !place.is_settled(&format!("code {}", run.id), CODE_WITHIN) {
                return None;
            }
            Some(Observed::Ended(outcome::end(run, place.loki.is_none())))
        }
    }
}
