//! How workers of tests are set.

use gantry_worker::Settings;

/// A short lease, for tests in which a worker dies: another may take its jobs after three seconds. A beat often, so
/// that containers are removed soon. A short grace.
#[must_use]
pub fn quick() -> Settings {
    Settings { lease_seconds: 3, beat_millis: 500, host_check_seconds: 1, stop_grace_seconds: 1, ..Settings::default() }
}

/// Patient enough for a real engine on a busy machine.
pub(crate) fn patient() -> Settings {
    Settings { lease_seconds: Settings::default().lease_seconds, ..quick() }
}
