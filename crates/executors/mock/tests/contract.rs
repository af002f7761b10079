//! The executor contract suite on the mock.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, FailureClass, HostId};
use gantry_executor_mock::MockExecutor;
use gantry_worker::contract::{Need, NotApplicable, Subject};
use gantry_worker::executor::{ExecutionId, Executor, Launch};
use serde_json::json;
use tempfile::TempDir;

struct Mock {
    executor: MockExecutor,
    host: Host,
    dir: TempDir,
}

async fn subject() -> Mock {
    let dir = tempfile::tempdir().expect("a directory");
    Mock { executor: MockExecutor::new(), host: host(dir.path().join("engine")), dir }
}

fn host(dir: PathBuf) -> Host {
    Host {
        id: HostId::new(),
        name: "mock".into(),
        executor_type: ExecutorType::Mock,
        connection_config: json!({ "dir": dir }),
        executor_config: json!({}),
    }
}

fn labelled(labels: &[(&str, String)]) -> ResolvedSpec {
    let labels: serde_json::Map<_, _> =
        labels.iter().map(|(key, value)| (format!("mock.{key}"), json!(value))).collect();
    serde_json::from_value(json!({"image": "any", "labels": labels})).expect("a spec")
}

#[async_trait]
impl Subject for Mock {
    fn executor(&self) -> &dyn Executor {
        &self.executor
    }

    fn another(&self) -> Box<dyn Executor> {
        Box::new(MockExecutor::new())
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn unreachable_host(&self) -> Host {
        host(self.dir.path().join("nowhere").join("engine"))
    }

    fn unknown_id(&self) -> ExecutionId {
        ExecutionId("gffffffff-never-1.ff".into())
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn print(&self, stdout: &str, stderr: &str) -> Need {
        Ok(labelled(&[("stdout", stdout.into()), ("stderr", stderr.into())]))
    }

    fn exit(&self, code: i32) -> Need {
        Ok(labelled(&[("exit_code", code.to_string())]))
    }

    fn sleep(&self, time: Duration) -> Need {
        Ok(labelled(&[("duration", format!("{}ms", time.as_millis()))]))
    }

    fn lines(&self, count: u32, time: Duration) -> Need {
        Ok(labelled(&[("lines", count.to_string()), ("duration", format!("{}ms", time.as_millis()))]))
    }

    fn ignore_term(&self, time: Duration) -> Need {
        let duration = format!("{}ms", time.as_millis());
        Ok(labelled(&[("stdout", "ready\n".into()), ("duration", duration), ("stop_ignores_term", "true".into())]))
    }

    fn killed(&self, signal: i32) -> Need {
        self.exit(128 + signal)
    }

    fn oom(&self) -> Need {
        Ok(labelled(&[("fail", "oom_killed".into())]))
    }

    fn missing_image(&self) -> Need {
        Ok(labelled(&[("fail", "image_not_found".into())]))
    }

    fn denied_image(&self) -> Need {
        Ok(labelled(&[("fail", "image_pull_denied".into())]))
    }

    fn fails_to_start(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        let spec = labelled(&[("fail", "start_failed".into()), ("start_delay", "200ms".into())]);
        Ok((spec, FailureClass::BackendError))
    }

    fn no_room(&self) -> Need {
        Ok(labelled(&[("fail", "no_capacity".into())]))
    }

    fn throttled(&self) -> Need {
        Ok(labelled(&[("fail", "throttled".into())]))
    }

    fn hidden_at_first(&self) -> Need {
        Ok(labelled(&[("hidden_for", "2s".into()), ("duration", "2m".into())]))
    }

    async fn sick_host(&self) -> Result<(Host, FailureClass), NotApplicable> {
        let sick = Host { executor_config: json!({"sick": "no_capacity"}), ..self.host.clone() };
        Ok((sick, FailureClass::NoCapacity))
    }

    fn refused_launch(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((labelled(&[("fail", "no_capacity".into())]), FailureClass::NoCapacity))
    }

    fn invalid(&self) -> Need {
        Ok(labelled(&[("duration", "soon".into())]))
    }

    fn lost_response(&self) -> Need {
        Ok(labelled(&[("fail", "lost_response".into()), ("duration", "1m".into())]))
    }

    async fn leave_created(&self, launch: &Launch) -> Result<ExecutionId, NotApplicable> {
        let mut slow = launch.clone();
        slow.spec.labels.insert("mock.start_delay".into(), "500ms".into());
        Ok(self.executor.launch(&self.host, &slow).await.expect("launches"))
    }
}

gantry_worker::contract_tests!(subject);
