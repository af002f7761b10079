//! What the suite does not ask: that no start is repeated that may have been taken, what becomes of late runs, how definitions are shared,
//! and that the double is what Scaleway's own client takes for the service.

#![expect(clippy::disallowed_methods, reason = "the tests ask the executor itself")]

#[path = "../common/mod.rs"]
mod common;

mod definitions;
mod late;
mod observe;
mod once;
mod sdk;

use gantry_core::naming::external_name;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{FleetId, JobId};
use gantry_executor_scaleway::double::Double;
use gantry_worker::executor::Launch;

/// A launch of a new job.
fn launch_of(fleet: FleetId, spec: ResolvedSpec) -> Launch {
    let (job, attempt) = (JobId::new(), 1);
    Launch { name: external_name(fleet, job, attempt), fleet, job, attempt, spec }
}

/// How many requests of this kind have arrived.
fn arrived(double: &Double, end_of_path: &str) -> usize {
    double.recorded().iter().filter(|request| request.path.ends_with(end_of_path)).count()
}

/// Looks again and again until there is something to see.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        // The pace of looking.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
