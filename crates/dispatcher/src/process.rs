//! The `main` of `gantry-dispatcher`.

use std::process::ExitCode;

use gantry_broker::Broker;
use gantry_runtime::process::{self, Threads};
use gantry_runtime::serve;
use gantry_store::Store;

use crate::{Config, Service};

/// Runs the process until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    process::run_configured("gantry-dispatcher", Threads::One, async |config: Config, shutdown| {
        let store = Store::new(&config.database, "gantry-dispatcher")?;
        let broker = Broker::connect(config.broker, "dispatcher").await?;
        let readiness = serve::Readiness::new();
        readiness.watch("database", &store, |store: Store| async move {
            store.ping().await.map_err(|error| error.to_string())
        });
        readiness.watch("broker", &broker, |broker: Broker| async move {
            if broker.is_connected() { Ok(()) } else { Err("not connected".to_owned()) }
        });
        let server = serve::Server::start(&config.serve, readiness, shutdown.clone()).await?;
        Service::new(store, broker, config.dispatcher).run(shutdown).await?;
        server.stopped().await?;
        Ok(())
    })
}
