//! `gantry-worker-cloudrun`.

use std::process::ExitCode;

use gantry_executor_cloudrun::CloudRunExecutor;

fn main() -> ExitCode {
    gantry_worker::main("gantry-worker-cloudrun", CloudRunExecutor::new)
}
