//! The labels by which a Job is known as Gantry's. Google's keys and values are lower case letters, digits, `-` and
//! `_`, up to 63 characters: ids and numbers are that as they are. A job's own labels may be anything, and stay out.

use std::collections::HashMap;

use gantry_core::{FleetId, JobId};
use gantry_worker::executor::Launch;

const FLEET: &str = "gantry-fleet";
const JOB: &str = "gantry-job";
const ATTEMPT: &str = "gantry-attempt";

pub(crate) fn of(launch: &Launch) -> [(String, String); 3] {
    [
        (FLEET.into(), launch.fleet.to_string()),
        (JOB.into(), launch.job.to_string()),
        (ATTEMPT.into(), launch.attempt.to_string()),
    ]
}

/// Whether these are the labels of this launch.
pub(crate) fn belong_to(labels: &HashMap<String, String>, launch: &Launch) -> bool {
    of(launch).iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether these are the labels of this fleet.
pub(crate) fn are_of(labels: &HashMap<String, String>, fleet: FleetId) -> bool {
    labels.get(FLEET).is_some_and(|owner| *owner == fleet.to_string())
}

/// The job and attempt of a Job; `None` if it is not Gantry's.
pub(crate) fn attempt(labels: &HashMap<String, String>) -> Option<(JobId, i32)> {
    labels.get(FLEET)?;
    Some((labels.get(JOB)?.parse().ok()?, labels.get(ATTEMPT)?.parse().ok()?))
}
