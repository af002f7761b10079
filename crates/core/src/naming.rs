//! The name under which a backend knows an attempt.

use crate::{FleetId, JobId};

/// The longest external name: Google allows 63 characters for a job's and an execution's name together.
pub const MAX_EXTERNAL_NAME: usize = 48;

/// The external name of one attempt: `[a-z][a-z0-9-]`, at most [`MAX_EXTERNAL_NAME`] characters, and the same
/// whoever derives it, so that a worker finds a container that another one launched.
///
/// The job's id stays whole, the fleet's is shortened: two fleets meet on one engine by the dozen, not by
/// the billion, and the fleet's whole id is a label of the container besides.
pub fn external_name(fleet: FleetId, job: JobId, attempt: i32) -> String {
    // The last 32 bits: a UUIDv7 begins with its time, which two fleets made together would share.
    let fleet = &fleet.uuid().simple().to_string()[24..];
    let job = job.uuid().simple();
    format!("g{fleet}-{job}-{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_lowercase_and_differ_by_attempt() {
        let (fleet, job) = (FleetId::new(), JobId::new());
        let name = external_name(fleet, job, 99_999);
        assert!(name.len() <= MAX_EXTERNAL_NAME, "{name}");
        assert!(name.starts_with('g'));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        assert_ne!(name, external_name(fleet, job, 1));
        assert_ne!(name, external_name(FleetId::new(), job, 99_999));
    }
}
