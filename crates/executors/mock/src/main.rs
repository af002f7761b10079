//! `gantry-worker-mock`.

use std::process::ExitCode;

use gantry_executor_mock::MockExecutor;

fn main() -> ExitCode {
    gantry_worker::main("gantry-worker-mock", MockExecutor::new)
}
