//! The suite that every executor passes, on ECS as ministack answers it, with real containers.

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::{Lab, image_of, marked, sh, words};
use gantry_core::FailureClass;
use gantry_core::host::Host;
use gantry_core::spec::{Mount, ResolvedSpec};
use gantry_double::{Fault, Rule};
use gantry_executor_fargate::FargateExecutor;
use gantry_worker::contract::{LogKind, Need, NotApplicable, Subject};
use gantry_worker::executor::{ExecutionId, Executor};
use serde_json::{Value, json};

struct OnEcs {
    executor: FargateExecutor,
    host: Host,
    lab: Lab,
}

async fn subject() -> OnEcs {
    let lab = Lab::new().await;
    OnEcs { executor: lab.executor(), host: lab.host(), lab }
}

impl OnEcs {
    /// A spec whose launch meets a fault.
    fn with_fault(&self, spec: ResolvedSpec, mark: &str, times: Option<u32>, fault: Fault) -> ResolvedSpec {
        self.lab.double.faults().add(Rule { times, ..Rule::new(fault).containing(mark) });
        marked(spec, mark)
    }

    /// A spec whose launch is answered so, and not done.
    fn answered(&self, mark: &str, status: u16, body: Value) -> ResolvedSpec {
        self.with_fault(words(&["true"]), mark, None, Fault::Status { status, body })
    }
}

#[async_trait]
impl Subject for OnEcs {
    fn executor(&self) -> &dyn Executor {
        &self.executor
    }

    fn another(&self) -> Box<dyn Executor> {
        Box::new(self.lab.executor())
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn unreachable_host(&self) -> Host {
        self.lab.host_with(json!({ "endpoint_url": "http://127.0.0.1:1" }), json!({}))
    }

    fn unknown_id(&self) -> ExecutionId {
        ExecutionId("arn:aws:ecs:us-east-1:000000000000:task/gantry/0123456789abcdef0123456789abcdef".into())
    }

    fn print(&self, stdout: &str, stderr: &str) -> Need {
        let mut spec = sh(r#"printf %s "$OUT"; printf %s "$ERR" >&2"#);
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
        Ok(words(&["awk", r#"BEGIN { s = "x"; while (1) s = s s }"#]))
    }

    fn log_kind(&self) -> LogKind {
        LogKind::MixedLines
    }

    fn missing_image(&self) -> Need {
        Ok(image_of("gantry/no-such-image:1"))
    }

    fn denied_image(&self) -> Need {
        Ok(image_of("denied.invalid/image:1"))
    }

    fn fails_to_start(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((image_of("never-starts.invalid/image:1"), FailureClass::BackendError))
    }

    fn no_room(&self) -> Need {
        let failure =
            json!({ "arn": "arn:aws:ecs:us-east-1:000000000000:cluster/gantry", "reason": "RESOURCE:MEMORY" });
        Ok(self.answered("no-room", 200, json!({ "tasks": [], "failures": [failure] })))
    }

    fn throttled(&self) -> Need {
        Ok(self.answered("throttled", 400, json!({ "__type": "ThrottlingException", "message": "Rate exceeded" })))
    }

    fn hidden_at_first(&self) -> Need {
        let spec = self.sleep(Duration::from_secs(120))?;
        Ok(self.with_fault(spec, "hidden", None, Fault::Hidden { millis: 2_000 }))
    }

    async fn sick_host(&self) -> Result<(Host, FailureClass), NotApplicable> {
        Ok((self.lab.host_with(json!({ "cluster": "nowhere" }), json!({})), FailureClass::BackendError))
    }

    fn refused_launch(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        let body = json!({ "__type": "InvalidParameterException", "message": "Override is not valid." });
        Ok((self.answered("refused", 400, body), FailureClass::LaunchRejected))
    }

    fn invalid(&self) -> Need {
        let mut spec = words(&["true"]);
        spec.container.mounts = vec![Mount { source: "/etc".into(), target: "/mnt".into(), writable: false }];
        Ok(spec)
    }

    fn lost_response(&self) -> Need {
        let spec = self.sleep(Duration::from_secs(120))?;
        Ok(self.with_fault(spec, "lost-answer", Some(1), Fault::LostResponse))
    }
}

gantry_worker::contract_tests!(subject);
