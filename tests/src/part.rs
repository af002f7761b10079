//! A part of the fleet, as near to a process of its own as a test's process can hold it.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use gantry_runtime::Shutdown;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;

/// A running part. It must not end by itself; dropping it ends it like [`Part::crash`].
#[derive(Debug)]
pub struct Part {
    name: String,
    /// Of its own, because a part spawns tasks: only with the runtime do they all end, and at once.
    runtime: Option<Runtime>,
    shutdown: Shutdown,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Part {
    pub(crate) fn spawn<F>(name: impl Into<String>, run: impl FnOnce(Shutdown) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let name = name.into();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(&name)
            .enable_all()
            .build()
            .expect("the system has threads");
        let shutdown = Shutdown::new();
        let task = runtime.spawn(run(shutdown.clone()));
        Self { name, runtime: Some(runtime), shutdown, task: Some(task) }
    }

    /// Ends it as SIGTERM would; returns how long it took.
    pub async fn stop(mut self) -> Duration {
        let began = Instant::now();
        self.shutdown.request();
        let task = self.task.take().expect("a part is stopped once");
        let ended = timeout(PATIENCE, task).await;
        let ended = ended.unwrap_or_else(|_| panic!("{} does not stop", self.name));
        ended.expect("it does not panic").unwrap_or_else(|error| panic!("{} failed: {error:#}", self.name));
        began.elapsed()
    }

    /// Ends it as SIGKILL would: whatever it was doing, nothing is finished, answered or handed over.
    pub fn crash(mut self) {
        self.task = None;
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_some_and(JoinHandle::is_finished)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        let ended = self.task.take().filter(JoinHandle::is_finished).and_then(|task| task.now_or_never());
        if let Some(Ok(ended)) = ended
            && !std::thread::panicking()
        {
            panic!("{} ended by itself: {ended:?}", self.name);
        }
    }
}
