//! `gantry`: everything that a person does.

mod client;
mod commands;
mod dev;
mod error;
mod exit;
mod output;
mod patience;
mod sse;
mod watch;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::commands::{Cli, Command};
use crate::output::Format;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    // It has a runtime with telemetry and signals of its own, as every part does.
    let cli = match cli {
        Cli { command: Command::Dev(dev), .. } => return dev.main(),
        cli => cli,
    };
    // Only one provider is linked, and reqwest asks for it by this default.
    rustls::crypto::ring::default_provider().install_default().expect("nothing else has installed a provider");
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return output::failure(cli.global.output, &error.into()),
    };
    let format = cli.global.output;
    let code = runtime.block_on(cli.run()).unwrap_or_else(|error| output::failure(format, &error));
    // Without waiting for a write to a pipe that nobody reads.
    runtime.shutdown_background();
    code
}

/// Tells what is wrong with the command line, or answers `--help` and `--version`. Exit code 2, by convention.
fn misused(error: &clap::Error) -> ExitCode {
    let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !asked_for && Format::asked_for_by(std::env::args()) == Format::Json {
        return output::failure(Format::Json, &error::Error::Usage(error.to_string().trim().to_owned()));
    }
    // Nothing is left to be told if even this cannot be printed.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
}
