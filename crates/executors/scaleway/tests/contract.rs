//! The suite that every executor passes, on a double with real containers.

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::{double, executor, host_at, sh, words};
use gantry_core::FailureClass;
use gantry_core::host::Host;
use gantry_core::spec::{Mount, ResolvedSpec};
use gantry_double::{Fault, Faults, Rule};
use gantry_executor_scaleway::ScalewayExecutor;
use gantry_executor_scaleway::double::Double;
use gantry_worker::contract::{LogKind, Need, NotApplicable, Subject};
use gantry_worker::executor::{ExecutionId, Executor};
use serde_json::json;

/// What a job says for the double to do this to its start.
const LOST: &str = "fault: lost answer";
const HIDDEN: &str = "fault: hidden";
const NO_ROOM: &str = "fault: no room";
const THROTTLED: &str = "fault: throttled";
const REFUSED: &str = "fault: refused";

/// A port that nobody listens at.
const NOWHERE: &str = "http://127.0.0.1:1";

struct OnScaleway {
    executor: ScalewayExecutor,
    host: Host,
    double: Double,
}

async fn subject() -> OnScaleway {
    let faults = Faults::new(1);
    let refused = |status, kind: &str| Fault::Status { status, body: json!({ "type": kind, "message": "no" }) };
    for (marker, fault) in [
        (LOST, Fault::LostResponse),
        (HIDDEN, Fault::Hidden { millis: 1_500 }),
        (NO_ROOM, refused(403, "quotas_exceeded")),
        (THROTTLED, refused(429, "too_many_requests")),
        (REFUSED, refused(400, "invalid_arguments")),
    ] {
        faults.add(Rule::new(fault).to("POST", "/start").containing(marker));
    }
    let double = double(faults).await;
    OnScaleway { executor: executor(), host: host_at(&double.url(), "main"), double }
}

/// The job with a variable that the double's faults look for.
fn marked(mut spec: ResolvedSpec, fault: &str) -> ResolvedSpec {
    spec.container.environment.insert("FAULT".into(), fault.into());
    spec
}

#[async_trait]
impl Subject for OnScaleway {
    fn executor(&self) -> &dyn Executor {
        &self.executor
    }

    fn another(&self) -> Box<dyn Executor> {
        Box::new(executor())
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn unreachable_host(&self) -> Host {
        host_at(NOWHERE, "main")
    }

    fn unknown_id(&self) -> ExecutionId {
        ExecutionId("5ca1e3a7-0000-4000-8000-00000000dead".into())
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
        // By a shell of its own, because the first process of a container cannot be killed from inside. And not at once:
        // every run has a memory limit, and the double's engine cannot tell a SIGKILL of the first second from the
        // limit's own.
        Ok(sh(&format!("sh -c 'kill -{signal} $$'; code=$?; sleep 1; exit $code")))
    }

    fn oom(&self) -> Need {
        let mut spec = words(&["awk", r#"BEGIN { s = "x"; while (1) s = s s }"#]);
        spec.container.memory_limit_mb = Some(16);
        Ok(spec)
    }

    fn log_kind(&self) -> LogKind {
        LogKind::Lines
    }

    fn missing_image(&self) -> Need {
        let mut spec = words(&["true"]);
        spec.container.image = "gantry/no-such-image:1".into();
        Ok(spec)
    }

    fn denied_image(&self) -> Need {
        let mut spec = words(&["true"]);
        spec.container.image = "denied.invalid/image:1".into();
        Ok(spec)
    }

    fn fails_to_start(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((words(&["/no/such/program"]), FailureClass::LaunchRejected))
    }

    fn no_room(&self) -> Need {
        Ok(marked(words(&["true"]), NO_ROOM))
    }

    fn throttled(&self) -> Need {
        Ok(marked(words(&["true"]), THROTTLED))
    }

    fn hidden_at_first(&self) -> Need {
        Ok(marked(self.sleep(Duration::from_secs(120))?, HIDDEN))
    }

    async fn sick_host(&self) -> Result<(Host, FailureClass), NotApplicable> {
        Ok((host_at(&self.double.url(), "sick"), FailureClass::BackendError))
    }

    fn refused_launch(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((marked(words(&["true"]), REFUSED), FailureClass::InvalidSpec))
    }

    fn invalid(&self) -> Need {
        let mut spec = words(&["true"]);
        spec.container.mounts = vec![Mount { source: "/etc".into(), target: "/mnt".into(), writable: false }];
        Ok(spec)
    }

    fn lost_response(&self) -> Need {
        Ok(marked(self.sleep(Duration::from_secs(120))?, LOST))
    }
}

gantry_worker::contract_tests!(subject);
