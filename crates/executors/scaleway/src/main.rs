//! `gantry-worker-scaleway`.

use std::process::ExitCode;

use gantry_executor_scaleway::ScalewayExecutor;

fn main() -> ExitCode {
    gantry_worker::main("gantry-worker-scaleway", ScalewayExecutor::new)
}
