//! The suite that every executor passes, on a real engine.

mod common;
mod lossy;
mod registry;

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use common::{endpoint, host_to, leave_created, sh, words};
use gantry_core::FailureClass;
use gantry_core::host::Host;
use gantry_core::spec::{Mount, ResolvedSpec};
use gantry_executor_docker::DockerExecutor;
use gantry_worker::contract::{Need, NotApplicable, Subject};
use gantry_worker::executor::{ExecutionId, Executor, Launch};
use lossy::{LOSE_ANSWER, Lossy};
use registry::Registry;
use serde_json::json;

struct OnDocker {
    executor: DockerExecutor,
    host: Host,
    _way: Lossy,
    /// Those that a case has asked for; most ask for none.
    registries: Mutex<Vec<Registry>>,
}

impl OnDocker {
    /// An image that a registry of the case's own does not give.
    fn image_of(&self, registry: impl Future<Output = Registry>) -> ResolvedSpec {
        let registry = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(registry));
        let mut spec = words(&["true"]);
        spec.container.image = format!("{}/gantry/no-such-image:1", registry.address);
        self.registries.lock().expect("no case panics with it").push(registry);
        spec
    }
}

async fn subject() -> OnDocker {
    let way = Lossy::to(&endpoint());
    let host = host_to(json!({ "endpoint": way.endpoint }), json!({}));
    OnDocker { executor: DockerExecutor::new(), host, _way: way, registries: Mutex::default() }
}

#[async_trait]
impl Subject for OnDocker {
    fn executor(&self) -> &dyn Executor {
        &self.executor
    }

    fn another(&self) -> Box<dyn Executor> {
        Box::new(DockerExecutor::new())
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn unreachable_host(&self) -> Host {
        host_to(json!({ "endpoint": "unix:///nowhere/docker.sock" }), json!({}))
    }

    fn unknown_id(&self) -> ExecutionId {
        ExecutionId("0123456789abcdef".repeat(4))
    }

    fn print(&self, stdout: &str, stderr: &str) -> Need {
        let script = r#"printf %s "$OUT"; printf %s "$ERR" >&2"#;
        let mut spec = sh(script);
        spec.container.environment = [("OUT", stdout), ("ERR", stderr)].map(|(k, v)| (k.into(), v.into())).into();
        Ok(spec)
    }

    fn exit(&self, code: i32) -> Need {
        Ok(sh(&format!("exit {code}")))
    }

    fn sleep(&self, time: Duration) -> Need {
        Ok(sh(&format!("trap 'exit 143' TERM; sleep {} & wait", time.as_secs_f64())))
    }

    fn lines(&self, count: u32, time: Duration) -> Need {
        let pause = time.as_secs_f64() / f64::from(count.max(1));
        Ok(sh(&format!("for n in $(seq 1 {count}); do echo line $n; sleep {pause}; done")))
    }

    fn ignore_term(&self, time: Duration) -> Need {
        Ok(sh(&format!("trap '' TERM; echo ready; exec sleep {}", time.as_secs_f64())))
    }

    fn killed(&self, signal: i32) -> Need {
        // By a shell of its own, because the first process of a container cannot be killed from inside.
        Ok(sh(&format!("sh -c 'kill -{signal} $$'; exit $?")))
    }

    fn oom(&self) -> Need {
        let mut spec = words(&["awk", r#"BEGIN { s = "x"; while (1) s = s s }"#]);
        spec.container.memory_limit_mb = Some(16);
        Ok(spec)
    }

    fn missing_image(&self) -> Need {
        Ok(self.image_of(Registry::start()))
    }

    fn denied_image(&self) -> Need {
        Ok(self.image_of(Registry::locked()))
    }

    fn fails_to_start(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Err(NotApplicable("the engine answers a launch only once the container has started"))
    }

    fn no_room(&self) -> Need {
        Err(NotApplicable("an engine knows no bound on its containers but its disk, which no test may fill"))
    }

    fn throttled(&self) -> Need {
        Err(NotApplicable("an engine takes whatever comes; a registry's limit is met before the launch"))
    }

    fn hidden_at_first(&self) -> Need {
        Err(NotApplicable("an engine knows its containers from the moment they are created"))
    }

    async fn sick_host(&self) -> Result<(Host, FailureClass), NotApplicable> {
        let full = host_to(json!({ "endpoint": endpoint() }), json!({ "min_free_disk_mb": u64::MAX }));
        Ok((full, FailureClass::NoCapacity))
    }

    fn refused_launch(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((words(&["/no/such/program"]), FailureClass::LaunchRejected))
    }

    fn invalid(&self) -> Need {
        let mut spec = words(&["true"]);
        spec.container.mounts = vec![Mount { source: "/etc".into(), target: "/mnt".into(), writable: false }];
        Ok(spec)
    }

    fn lost_response(&self) -> Need {
        let mut spec = self.sleep(Duration::from_secs(120))?;
        spec.container.environment.insert(LOSE_ANSWER.into(), "1".into());
        Ok(spec)
    }

    async fn leave_created(&self, launch: &Launch) -> Result<ExecutionId, NotApplicable> {
        Ok(leave_created(&endpoint(), launch).await)
    }
}

gantry_worker::contract_tests!(subject);
