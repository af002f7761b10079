//! What is ECS' own: definitions and their limit, tokens, Spot, late lists, and what is on the wire.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

#[path = "../common/mod.rs"]
mod common;
mod definitions;
mod launch;
mod logs;
mod moto;
mod observe;
mod schema;
mod sent;

use std::time::{Duration, Instant};

use common::words;
use gantry_core::host::Host;
use gantry_core::naming::external_name;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{FleetId, JobId};
use gantry_executor_fargate::FargateExecutor;
use gantry_executor_fargate::double::Exchange;
use gantry_worker::executor::{End, ExecutionId, Executor, Launch, Observed};

/// A launch of a new job of a new fleet.
pub(crate) fn launch_of(spec: ResolvedSpec) -> Launch {
    let (fleet, job) = (FleetId::new(), JobId::new());
    Launch { name: external_name(fleet, job, 1), fleet, job, attempt: 1, spec }
}

/// Waits for the end.
pub(crate) async fn until_ended(executor: &FargateExecutor, host: &Host, id: &ExecutionId) -> End {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let states = executor.observe(host, std::slice::from_ref(id)).await.expect("the double answers");
        if let Some((_, Observed::Ended(end))) = states.into_iter().next() {
            return end;
        }
        assert!(Instant::now() < deadline, "{id} does not end");
        // The pace of looking.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until it runs.
pub(crate) async fn until_running(executor: &FargateExecutor, host: &Host, id: &ExecutionId) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !matches!(
        executor.observe(host, std::slice::from_ref(id)).await.expect("the double answers")[..],
        [(_, Observed::Running)]
    ) {
        assert!(Instant::now() < deadline, "{id} does not run");
        // The pace of looking.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The exchanges of one operation.
pub(crate) fn of<'a>(exchanges: &'a [Exchange], operation: &str) -> Vec<&'a Exchange> {
    exchanges.iter().filter(|exchange| exchange.target.ends_with(&format!(".{operation}"))).collect()
}

/// A spec that no other test, and no earlier run, has a definition for.
pub(crate) fn new_definition() -> ResolvedSpec {
    let mut spec = words(&["true"]);
    spec.container.working_dir = Some(format!("/tmp/{}", JobId::new()));
    spec
}
