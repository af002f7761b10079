//! The labels by which a container is known as Gantry's.

use std::collections::HashMap;

use gantry_core::JobId;
use gantry_worker::executor::Launch;

use crate::config::Options;

/// The fleet that owns the container.
pub(crate) const FLEET: &str = "gantry.fleet";
/// The job that it runs.
pub(crate) const JOB: &str = "gantry.job";
/// The attempt of the job.
pub(crate) const ATTEMPT: &str = "gantry.attempt";

/// The job's labels, the host's laid over them, and Gantry's own over both.
pub(crate) fn of(options: &Options, launch: &Launch) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = launch.spec.labels.clone().into_iter().collect();
    labels.extend(options.labels.clone());
    labels.extend(own(launch));
    labels
}

/// Whether these are the labels of this launch.
pub(crate) fn belong_to(labels: &HashMap<String, String>, launch: &Launch) -> bool {
    own(launch).iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The job and attempt of a container; `None` if it is not Gantry's.
pub(crate) fn attempt(labels: &HashMap<String, String>) -> Option<(JobId, i32)> {
    labels.get(FLEET)?;
    Some((labels.get(JOB)?.parse().ok()?, labels.get(ATTEMPT)?.parse().ok()?))
}

fn own(launch: &Launch) -> [(String, String); 3] {
    [
        (FLEET.into(), launch.fleet.to_string()),
        (JOB.into(), launch.job.to_string()),
        (ATTEMPT.into(), launch.attempt.to_string()),
    ]
}
