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
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};

use crate::common::{endpoint, host_to};

/// The longest that anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) executor: DockerExecutor,
    pub(crate) host: Host,
    pub(crate) fleet: FleetId,
    /// The engine's own socket, by which the test looks at it.
    socket: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(json!({}))
    }

    pub(crate) fn with(executor_config: Value) -> Self {
        Self::at(&endpoint(), executor_config)
    }

    pub(crate) fn at(endpoint: &str, executor_config: Value) -> Self {
        Self::to(json!({ "endpoint": endpoint }), executor_config, Secrets::default())
    }

    /// A host that is reached in any way; if not by a socket, it is the test engine.
    pub(crate) fn to(connection_config: Value, executor_config: Value, secrets: Secrets) -> Self {
        let named = connection_config["endpoint"].as_str().filter(|named| named.starts_with("unix://"));
        let socket = named.map_or_else(endpoint, str::to_owned);
        let host = host_to(connection_config, executor_config);
        Self { executor: DockerExecutor::with_secrets(secrets), host, fleet: FleetId::new(), socket }
    }

    /// A client that is not the executor's own.
    pub(crate) async fn docker(&self) -> Docker {
        client(&self.socket).await
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
        let (socket, fleet) = (self.socket.clone(), self.fleet);
        // A thread with a runtime of its own, because the test's cannot be waited for from here.
        let sweep = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(sweep(&socket, fleet));
        });
        if sweep.join().is_err() {
            eprintln!("containers of {fleet} may be left");
        }
    }
}

async fn client(socket: &str) -> Docker {
    let docker = Docker::connect_with_unix(socket, 10, API_DEFAULT_VERSION).expect("the socket is there");
    docker.negotiate_version().await.expect("the engine answers")
}

async fn sweep(socket: &str, fleet: FleetId) {
    let docker = client(socket).await;
    let filters = HashMap::from([("label", vec![format!("gantry.fleet={fleet}")])]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    for container in docker.list_containers(Some(all)).await.expect("lists") {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let id = container.id.expect("a container has an id");
        // One that is being removed already is fine.
        let _ = docker.remove_container(&id, Some(force)).await;
    }
}
