//! An executor, an engine, and a fleet of the test's own that is swept away behind it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::StreamExt;
use gantry_core::host::Host;
use gantry_core::naming::external_name;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{FleetId, JobId};
use gantry_executor_docker::DockerExecutor;
use gantry_worker::executor::{End, ExecutionId, Executor, Launch, LogCursor, Observed, Stream};
use serde_json::{Value, json};

use crate::common::{endpoint, host_at};

/// The longest that anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) executor: DockerExecutor,
    pub(crate) host: Host,
    pub(crate) fleet: FleetId,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(json!({}))
    }

    pub(crate) fn with(executor_config: Value) -> Self {
        Self::at(&endpoint(), executor_config)
    }

    pub(crate) fn at(endpoint: &str, executor_config: Value) -> Self {
        Self { executor: DockerExecutor::new(), host: host_at(endpoint, executor_config), fleet: FleetId::new() }
    }

    /// A client that is not the executor's own.
    pub(crate) async fn docker(&self) -> Docker {
        client(&self.host).await
    }

    pub(crate) fn launch_of(&self, spec: ResolvedSpec) -> Launch {
        let (job, attempt) = (JobId::new(), 1);
        Launch { name: external_name(self.fleet, job, attempt), fleet: self.fleet, job, attempt, spec }
    }

    pub(crate) async fn start(&self, spec: ResolvedSpec) -> ExecutionId {
        self.executor.launch(&self.host, &self.launch_of(spec)).await.expect("launches")
    }

    pub(crate) async fn run(&self, spec: ResolvedSpec) -> (ExecutionId, End) {
        let id = self.start(spec).await;
        let end = self.until_ended(&id).await;
        (id, end)
    }

    /// Runs it to its end without asking the executor for changes.
    pub(crate) async fn run_unwatched(&self, spec: ResolvedSpec) {
        let id = self.start(spec).await;
        let docker = self.docker().await;
        // An exit code other than 0 would come as an error.
        docker.wait_container(&id.0, None).next().await.expect("an answer").expect("it ends with 0");
    }

    pub(crate) async fn observe(&self, id: &ExecutionId) -> Observed {
        let mut states = self.executor.observe(&self.host, std::slice::from_ref(id)).await.expect("the host answers");
        states.pop().expect("the engine can say what it is").1
    }

    pub(crate) async fn until_ended(&self, id: &ExecutionId) -> End {
        let began = Instant::now();
        loop {
            match self.observe(id).await {
                Observed::Ended(end) => return end,
                Observed::Gone => panic!("gone before anybody removed it"),
                state => assert!(began.elapsed() < PATIENCE, "still {state:?}"),
            }
            self.executor.changed(&self.host, Duration::from_millis(100)).await;
        }
    }

    /// Both streams from `cursor` to the end of what there is, and the place reached.
    pub(crate) async fn read(
        &self,
        id: &ExecutionId,
        cursor: Option<LogCursor>,
        max_bytes: usize,
    ) -> (Vec<u8>, Vec<u8>, Option<LogCursor>) {
        let (mut out, mut err, mut cursor) = (Vec::new(), Vec::new(), cursor);
        loop {
            let page = self.executor.logs(&self.host, id, cursor.as_ref(), max_bytes).await.expect("reads the log");
            for (stream, bytes) in page.chunks {
                match stream {
                    Stream::Stdout => out.extend_from_slice(&bytes),
                    Stream::Stderr => err.extend_from_slice(&bytes),
                }
            }
            cursor = page.cursor;
            if !page.more {
                return (out, err, cursor);
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let (host, fleet) = (self.host.clone(), self.fleet);
        // A thread with a runtime of its own, because the test's cannot be waited for from here.
        let sweep = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(sweep(&host, fleet));
        });
        if sweep.join().is_err() {
            eprintln!("containers of {fleet} may be left");
        }
    }
}

async fn client(host: &Host) -> Docker {
    let endpoint = host.connection_config["endpoint"].as_str().expect("a test's endpoint is a string");
    let docker = Docker::connect_with_unix(endpoint, 10, API_DEFAULT_VERSION).expect("the socket is there");
    docker.negotiate_version().await.expect("the engine answers")
}

async fn sweep(host: &Host, fleet: FleetId) {
    let docker = client(host).await;
    let filters = HashMap::from([("label", vec![format!("gantry.fleet={fleet}")])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(all)).await.expect("lists") {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let id = container.id.expect("a container has an id");
        // One that is being removed already is fine.
        let _ = docker.remove_container(&id, Some(force)).await;
    }
}
