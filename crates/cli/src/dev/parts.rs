//! The parts as tasks of one process. A worker that is declared dead ends and starts again as another worker, as
//! its supervisor would have it in production.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gantry_broker::Broker;
use gantry_core::ExecutorType;
use gantry_executor_cloudrun::CloudRunExecutor;
use gantry_executor_docker::DockerExecutor;
use gantry_executor_fargate::FargateExecutor;
use gantry_executor_mock::MockExecutor;
use gantry_executor_scaleway::ScalewayExecutor;
use gantry_runtime::Shutdown;
use gantry_store::{Config, Store};
use gantry_worker::executor::Executor;
use gantry_worker::secrets::Secrets;
use gantry_worker::{DeclaredDead, Settings};
use tokio::task::JoinSet;

use super::fleet::Fleet;
use super::folder::Folder;

/// Between the end of a worker and the start of the next one.
const RESTART: Duration = Duration::from_secs(1);

/// Where the servers are, each for its user.
pub(super) struct Urls {
    pub(super) fleet: String,
    pub(super) api: String,
    pub(super) broker: String,
}

impl Urls {
    fn store(&self, part: &str) -> anyhow::Result<Store> {
        Ok(Store::new(&Config::new(self.fleet.as_str()), part)?)
    }

    async fn broker(&self, part: &str) -> anyhow::Result<Broker> {
        Ok(Broker::connect(gantry_broker::Config::new(self.broker.as_str()), part).await?)
    }
}

/// The running parts.
pub(super) struct Parts {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: Shutdown,
}

/// Starts them all; returns the address of the API.
pub(super) async fn start(
    urls: &Urls,
    listen: SocketAddr,
    fleet: &Fleet,
    folder: &Folder,
    shutdown: &Shutdown,
) -> anyhow::Result<(Parts, SocketAddr)> {
    let mut parts = Parts { tasks: JoinSet::new(), shutdown: shutdown.clone() };
    let http = gantry_api::Http { listen };
    let nudges = gantry_api::Nudges::new(&urls.broker("api").await?);
    let store = Store::new(&Config::new(urls.api.as_str()), "gantry-api")?;
    let (api, address) = gantry_api::Service::bind(&http, store, nudges).await?;

    let settings = gantry_dispatcher::Settings::default();
    let dispatcher =
        gantry_dispatcher::Service::new(urls.store("gantry-dispatcher")?, urls.broker("dispatcher").await?, settings);
    let recorder = gantry_recorder::Service::new(urls.store("gantry-recorder")?, urls.broker("recorder").await?);
    parts.spawn("dispatcher", dispatcher.run(shutdown.clone()));
    parts.spawn("recorder", recorder.run(shutdown.clone()));
    for executor in &fleet.executors {
        // What hosts name as credentials is found in the folder.
        let secrets = Secrets::in_folder(folder.secrets());
        match executor {
            ExecutorType::Docker => parts.pool(urls, *executor, DockerExecutor::new).await?,
            ExecutorType::Mock => parts.pool(urls, *executor, MockExecutor::new).await?,
            ExecutorType::Cloudrun => {
                parts.pool(urls, *executor, move || CloudRunExecutor::with_secrets(secrets.clone())).await?;
            }
            ExecutorType::Fargate => {
                parts.pool(urls, *executor, move || FargateExecutor::with_secrets(secrets.clone())).await?;
            }
            ExecutorType::Scaleway => {
                parts.pool(urls, *executor, move || ScalewayExecutor::with_secrets(secrets.clone())).await?;
            }
            // It adds no host of any other.
            other => anyhow::bail!("gantry dev has no workers of {other}"),
        }
    }
    let api_shutdown = shutdown.clone();
    parts.spawn("api", async move { Ok(api.run(api_shutdown).await?) });
    Ok((parts, address))
}

/// One worker after another.
struct Pool<F> {
    store: Store,
    broker: Broker,
    executor: F,
}

impl<E: Executor, F: Fn() -> E> Pool<F> {
    async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            let executor = Arc::new((self.executor)());
            let worker =
                gantry_worker::Service::new(self.store.clone(), self.broker.clone(), executor, Settings::default());
            match worker.run(shutdown.clone()).await {
                Err(error) if error.is::<DeclaredDead>() => {
                    tracing::warn!(%error, "a worker ended and is started again");
                    tokio::time::sleep(RESTART).await;
                }
                ended => return ended,
            }
        }
    }
}

impl Parts {
    async fn pool<E: Executor>(
        &mut self,
        urls: &Urls,
        executor_type: ExecutorType,
        executor: impl Fn() -> E + Send + 'static,
    ) -> anyhow::Result<()> {
        let store = urls.store(&format!("gantry-worker-{executor_type}"))?;
        let broker = urls.broker(&format!("worker-{executor_type}")).await?;
        self.spawn(executor_type.as_str(), Pool { store, broker, executor }.run(self.shutdown.clone()));
        Ok(())
    }

    fn spawn(&mut self, name: &'static str, part: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (name, part.await) });
    }

    /// Waits for all of them. The first that fails stops the others, and is the result.
    pub(super) async fn join(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let failed = match ended {
                Ok((name, Err(error))) => Some(error.context(format!("the part {name} failed"))),
                Ok((_, Ok(()))) => None,
                Err(panicked) => Some(panicked.into()),
            };
            if let Some(error) = failed {
                self.shutdown.request();
                result = result.and(Err(error));
            }
        }
        result
    }
}
