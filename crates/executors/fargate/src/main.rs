//! `gantry-worker-fargate`.

use std::process::ExitCode;

use gantry_executor_fargate::FargateExecutor;

fn main() -> ExitCode {
    gantry_worker::main("gantry-worker-fargate", FargateExecutor::new)
}
