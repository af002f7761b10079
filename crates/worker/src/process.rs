//! The `main` of every worker binary.

use std::process::ExitCode;
use std::sync::Arc;

use gantry_broker::Broker;
use gantry_runtime::process::{self, Threads};
use gantry_runtime::serve;
use gantry_store::Store;

use crate::config::Config;
use crate::executor::Executor;
use crate::service::Service;

/// Runs a worker for `executor` until SIGTERM or SIGINT.
pub fn main<E: Executor>(service_name: &'static str, executor: impl FnOnce() -> E) -> ExitCode {
    process::run_configured(service_name, Threads::One, async |config: Config, shutdown| {
        let store = Store::new(&config.database, service_name)?;
        let part = service_name.strip_prefix("gantry-").unwrap_or(service_name);
        let broker = Broker::connect(config.broker, part).await?;
        let readiness = serve::Readiness::new();
        readiness.watch("database", &store, |store: Store| async move {
            store.ping().await.map_err(|error| error.to_string())
        });
        readiness.watch("broker", &broker, |broker: Broker| async move {
            if broker.is_connected() { Ok(()) } else { Err("not connected".to_owned()) }
        });
        let server = serve::Server::start(&config.serve, readiness, shutdown.clone()).await?;
        Service::new(store, broker, Arc::new(executor()), config.worker).run(shutdown).await?;
        server.stopped().await?;
        Ok(())
    })
}
