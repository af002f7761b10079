//! The `main` of `gantry-api`.

use std::process::ExitCode;

use anyhow::Context as _;
use gantry_runtime::process::{self, Threads};
use gantry_store::Store;

use crate::{Config, Nudges, Service};

/// Runs the process until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    process::run_configured("gantry-api", Threads::Many, |config: Config, shutdown| async move {
        let store = Store::new(&config.database, "gantry-api").context("the database's address is not valid")?;
        let nudges = Nudges::connecting(config.broker);
        let (service, _) = Service::bind(&config.http, store, nudges).await.context("could not listen")?;
        service.run(shutdown).await.context("could not serve")
    })
}
