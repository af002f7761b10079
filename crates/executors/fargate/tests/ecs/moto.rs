//! The life of a task as moto has it on the wire: another ECS that nobody here wrote, without containers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use gantry_core::naming::external_name;
use gantry_core::state::Outcome;
use gantry_core::{FailureClass, FleetId, JobId};
use gantry_worker::executor::{ExecutionId, Executor, Found, Launch, Observed};
use serde_json::json;

use crate::common::schema::python;
use crate::common::{executor, host, image_of, secrets};

/// A running moto; it ends with its input.
struct Moto {
    process: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    url: String,
    subnet: String,
    group: String,
}

impl Moto {
    fn start() -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ecs/moto_double.py");
        let mut command = Command::new(python());
        command.arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("python starts");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("it was piped"));
        let mut moto = Self { process, input, output, url: String::new(), subnet: String::new(), group: String::new() };
        loop {
            // Before that it says that it starts.
            if let [url, subnet, group] = moto.line().split(' ').collect::<Vec<_>>()[..]
                && url.starts_with("http")
            {
                (moto.url, moto.subnet, moto.group) = (url.to_owned(), subnet.to_owned(), group.to_owned());
                return moto;
            }
        }
    }

    /// Writes three lines to a log stream.
    fn log(&mut self, stream: &str) {
        let input = self.input.as_mut().expect("it is open until the end");
        writeln!(input, "{stream}").expect("moto reads");
        assert_eq!(self.line(), "written");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.output.read_line(&mut line).expect("moto writes"), 0, "moto ended: does it run at all?");
        line.trim().to_owned()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_lives_on_motos_wire() {
    let mut moto = Moto::start();
    let folder = secrets();
    let connection = json!({ "region": "us-east-1", "cluster": "gantry", "endpoint_url": moto.url });
    let options = json!({ "subnets": [moto.subnet], "security_groups": [moto.group], "log_settle_seconds": 0, "settle_seconds": 1 });
    let (executor, host) = (executor(folder.path()), host(connection, options));
    let described = executor.check(&host).await.expect("moto answers");
    assert!(described.identity.ends_with(":cluster/gantry"), "{described:?}");
    let (fleet, job) = (FleetId::new(), JobId::new());
    let launch = Launch { name: external_name(fleet, job, 1), fleet, job, attempt: 1, spec: image_of("busybox") };
    executor.prepare(&host, &launch.spec).await.expect("registers");
    let id = executor.launch(&host, &launch).await.expect("launches");

    let mut seen = Vec::new();
    let end = loop {
        let state = executor.observe(&host, std::slice::from_ref(&id)).await.expect("moto answers");
        match state.into_iter().next() {
            Some((_, Observed::Ended(end))) => break end,
            Some((_, state)) => seen.push(state),
            None => panic!("moto shows what it has"),
        }
        assert!(seen.len() < 20, "each look is a step: {seen:?}");
    };
    assert!(!seen.is_empty() && seen.iter().all(|state| *state != Observed::Gone), "{seen:?}");
    assert_eq!(end.outcome, Outcome::Exited(0), "{end:?}");

    let task = id.0.rsplit('/').next().expect("an ARN has parts");
    moto.log(&format!("gantry/job/{task}"));
    let mut lines = Vec::new();
    let mut cursor = None;
    loop {
        let page = executor.logs(&host, &id, cursor.as_ref(), 1).await.expect("moto answers");
        lines.extend(page.chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()));
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    assert_eq!(String::from_utf8_lossy(&lines), "line 1\nline 2\nline 3\n", "three of one millisecond, one by one");

    let other = crate::common::executor(folder.path());
    assert_eq!(other.find(&host, &launch.name).await, Found::Found(id.clone()));
    assert_eq!(other.list_owned(&host, fleet).await.expect("lists").len(), 1);
    other.stop(&host, &id, Duration::ZERO).await.expect("stops what is over");
    executor.remove(&host, &id).await.expect("there is nothing to do");
    let nobody = ExecutionId(id.0.replace(task, &JobId::new().to_string()));
    assert_eq!(executor.observe(&host, &[nobody]).await.expect("moto answers"), [], "it may be slow to show");
    let failure = executor
        .check(&crate::common::host(
            json!({ "region": "us-east-1", "cluster": "x", "endpoint_url": moto.url }),
            host.executor_config,
        ))
        .await;
    assert_eq!(failure.expect_err("there is no such cluster").class, FailureClass::BackendError);
}
