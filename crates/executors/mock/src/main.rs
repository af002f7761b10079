//! `gantry-worker-mock`.

use std::process::ExitCode;

fn main() -> ExitCode {
    gantry_executor_mock::main()
}
