//! One part of the fleet as the process that it is in production: for tests that look at a process from outside.
//!
//! Which part is said by `GANTRY_TEST_PART`; everything else is the part's own configuration.

use std::process::ExitCode;

use gantry_executor_docker::DockerExecutor;

fn main() -> ExitCode {
    match std::env::var("GANTRY_TEST_PART").as_deref() {
        Ok("dispatcher") => gantry_dispatcher::main(),
        Ok("recorder") => gantry_recorder::main(),
        Ok("worker") => gantry_executor_mock::main(),
        Ok("docker-worker") => gantry_worker::main("gantry-worker-docker", DockerExecutor::new),
        Ok("api") => gantry_api::main(),
        other => {
            eprintln!("GANTRY_TEST_PART names no part: {other:?}");
            ExitCode::FAILURE
        }
    }
}
