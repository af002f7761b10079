//! A part's `main`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use serde::de::DeserializeOwned;

use crate::{Shutdown, config, telemetry};

/// What [`run_configured`] must find in a part's configuration.
pub trait Config: DeserializeOwned {
    /// The section `[telemetry]`.
    fn telemetry(&self) -> &telemetry::Config;
}

/// The arguments of every part.
#[derive(Debug, clap::Parser)]
struct Arguments {
    /// Configuration file (TOML); GANTRY_SECTION__KEY variables override it.
    #[arg(long, value_name = "FILE", env = "GANTRY_CONFIG")]
    config: Option<PathBuf>,
}

/// What a process' tasks run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// One thread. For a part whose tasks hand batches to each other and wait for servers: to wake another thread for the next
    /// step costs more than most steps do, and who wants more of such a part starts another.
    One,
    /// As many as there are cores. For a part that much may be asked of at the same time.
    Many,
}

/// How long tasks that nobody waits for may go on after the end of `main`.
const LINGER: Duration = Duration::from_secs(1);

/// A whole process: reads `--config` and the environment, then [`run`]s `main`.
pub fn run_configured<C, F, Fut>(service_name: &'static str, threads: Threads, main: F) -> ExitCode
where
    C: Config,
    F: FnOnce(C, Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let arguments = Arguments::parse();
    match config::load::<C>(arguments.config.as_deref()) {
        Ok(config) => {
            let telemetry = config.telemetry().clone();
            run(service_name, threads, &telemetry, |shutdown| main(config, shutdown))
        }
        Err(error) => failure(service_name, &error.into()),
    }
}

/// Runs `main` with telemetry, TLS and signals in place, until it ends by
/// itself or, after a second SIGTERM or SIGINT, at once. An error is printed
/// with its causes, and the exit code is then 1.
pub fn run<F, Fut>(service_name: &'static str, threads: Threads, telemetry: &telemetry::Config, main: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    match try_run(service_name, threads, telemetry, main) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(service_name, &error),
    }
}

fn try_run<F, Fut>(
    service_name: &'static str,
    threads: Threads,
    telemetry: &telemetry::Config,
    main: F,
) -> anyhow::Result<()>
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    install_tls();
    let mut runtime = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build().context("could not start the async runtime")?;
    let guard = {
        let _entered = runtime.enter();
        telemetry::init(service_name, telemetry).context("could not start telemetry")?
    };
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("could not listen for signals")?;
        tokio::select! {
            result = main(shutdown.clone()) => result,
            () = shutdown.insisted() => anyhow::bail!("stopped at once, as asked a second time"),
        }
    });
    // While the runtime still runs, and from outside of it: the exporters wait for what it does.
    let exported = runtime.block_on(runtime.spawn_blocking(move || drop(guard)));
    runtime.shutdown_timeout(LINGER);
    // What `main` says comes first.
    result.and(exported.context("could not stop telemetry"))
}

/// Makes rustls use ring. Every process does this before its first connection;
/// doing it again changes nothing.
pub fn install_tls() {
    // An error means that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn failure(service_name: &str, error: &anyhow::Error) -> ExitCode {
    eprint!("{}", describe(service_name, error));
    ExitCode::FAILURE
}

/// The error and its causes, one a line, for a person at a terminal.
pub fn describe(service_name: &str, error: &anyhow::Error) -> String {
    let mut text = format!("{service_name}: {error}\n");
    let mut above = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if !above.contains(&cause) {
            text.push_str(&format!("  because: {cause}\n"));
        }
        above = cause;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_described_with_its_causes_and_no_repetition() {
        let error =
            anyhow::anyhow!("connection refused").context("no database: connection refused").context("could not start");
        assert_eq!(
            describe("gantry-test", &error),
            "gantry-test: could not start\n  because: no database: connection refused\n"
        );
    }
}
