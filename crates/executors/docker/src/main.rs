//! `gantry-worker-docker`.

use std::process::ExitCode;

use gantry_executor_docker::DockerExecutor;

fn main() -> ExitCode {
    gantry_worker::main("gantry-worker-docker", DockerExecutor::new)
}
