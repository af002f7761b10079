//! The suite that every executor passes, on the double. Whatever a case sends and gets must be what Google's discovery
//! documents describe.

mod common;

use std::time::Duration;

use async_trait::async_trait;
use common::{double, host_at, sh, validate, words};
use gantry_core::FailureClass;
use gantry_core::host::Host;
use gantry_core::spec::{Mount, ResolvedSpec};
use gantry_double::{Fault, Faults, Rule};
use gantry_executor_cloudrun::CloudRunExecutor;
use gantry_executor_cloudrun::double::Double;
use gantry_worker::contract::{LogKind, Need, NotApplicable, Subject};
use gantry_worker::executor::{ExecutionId, Executor, Launch};
use google_cloud_auth::credentials::anonymous;
use google_cloud_run_v2::client::Jobs;
use google_cloud_run_v2::model::{Container, ExecutionTemplate, Job, TaskTemplate};
use serde_json::json;

/// Environment variables that the double's faults go by.
const LOSE_ANSWER: &str = "LOSE_ANSWER";
const HIDDEN: &str = "HIDDEN";
const THROTTLED: &str = "THROTTLED";

struct OnDouble {
    executor: CloudRunExecutor,
    host: Host,
    double: Double,
}

async fn subject() -> OnDouble {
    let faults = Faults::new(1);
    let create = |fault, marker: &str| Rule::new(fault).to("POST", "/jobs?jobId=").containing(marker);
    faults.add(create(Fault::LostResponse, LOSE_ANSWER).times(1));
    faults.add(create(Fault::Hidden { millis: 3_000 }, HIDDEN));
    let body = json!({ "error": {
        "code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Quota exceeded for quota metric 'Write requests'",
        "details": [{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED",
            "domain": "googleapis.com", "metadata": { "quota_limit": "WriteRequestsPerMinutePerProject" },
        }],
    } });
    faults.add(create(Fault::Status { status: 429, body }, THROTTLED));
    let double = double(&faults).await;
    OnDouble { executor: CloudRunExecutor::new(), host: host_at(&double.url(), "contract"), double }
}

impl Drop for OnDouble {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let exchanges = self.double.exchanges();
        // A case whose reason is printed asks for nothing.
        if !exchanges.is_empty()
            && let Err(said) = validate(&exchanges)
        {
            panic!("what went over the wire is not what Google documents:\n{said}");
        }
    }
}

fn with(mut spec: ResolvedSpec, variable: &str) -> ResolvedSpec {
    spec.container.environment.insert(variable.into(), "1".into());
    spec
}

fn image(name: &str) -> ResolvedSpec {
    let mut spec = words(&["true"]);
    spec.container.image = name.into();
    spec
}

#[async_trait]
impl Subject for OnDouble {
    fn executor(&self) -> &dyn Executor {
        &self.executor
    }

    fn another(&self) -> Box<dyn Executor> {
        Box::new(CloudRunExecutor::new())
    }

    fn host(&self) -> &Host {
        &self.host
    }

    fn unreachable_host(&self) -> Host {
        host_at("http://127.0.0.1:1", "contract")
    }

    fn unknown_id(&self) -> ExecutionId {
        ExecutionId("g00000000-never-1".into())
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
        let mut spec = words(&["awk", r#"BEGIN { s = "x"; while (1) s = s s }"#]);
        // Rounded up to the least that Cloud Run has.
        spec.container.memory_limit_mb = Some(16);
        Ok(spec)
    }

    fn log_kind(&self) -> LogKind {
        LogKind::Lines
    }

    fn missing_image(&self) -> Need {
        Ok(image("gantry/no-such-image:1"))
    }

    fn denied_image(&self) -> Need {
        Ok(image("denied.invalid/gantry/test:1"))
    }

    fn fails_to_start(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((image("broken.invalid/gantry/test:1"), FailureClass::BackendError))
    }

    fn no_room(&self) -> Need {
        Ok(image("full.invalid/gantry/test:1"))
    }

    fn throttled(&self) -> Need {
        Ok(with(self.exit(0)?, THROTTLED))
    }

    fn hidden_at_first(&self) -> Need {
        Ok(with(self.sleep(Duration::from_secs(120))?, HIDDEN))
    }

    async fn sick_host(&self) -> Result<(Host, FailureClass), NotApplicable> {
        Ok((host_at(&self.double.url(), "denied"), FailureClass::BackendError))
    }

    fn refused_launch(&self) -> Result<(ResolvedSpec, FailureClass), NotApplicable> {
        Ok((image("Not/A/Reference:1"), FailureClass::InvalidSpec))
    }

    fn invalid(&self) -> Need {
        let mut spec = words(&["true"]);
        spec.container.mounts = vec![Mount { source: "/etc".into(), target: "/mnt".into(), writable: false }];
        Ok(spec)
    }

    fn lost_response(&self) -> Need {
        Ok(with(self.sleep(Duration::from_secs(120))?, LOSE_ANSWER))
    }

    /// A Job that somebody created without the token that starts it.
    async fn leave_created(&self, launch: &Launch) -> Result<ExecutionId, NotApplicable> {
        let jobs = Jobs::builder().with_endpoint(self.double.url()).with_credentials(anonymous::Builder::new().build());
        let jobs = jobs.build().await.expect("a client");
        let spec = &launch.spec.container;
        let container = Container::new().set_image(&spec.image).set_args(spec.command.clone().unwrap_or_default());
        let template = TaskTemplate::new().set_containers([container]).set_max_retries(0);
        let labels = [
            ("gantry-fleet", launch.fleet.to_string()),
            ("gantry-job", launch.job.to_string()),
            ("gantry-attempt", launch.attempt.to_string()),
        ];
        let job = Job::new().set_labels(labels).set_template(ExecutionTemplate::new().set_template(template));
        let parent = "projects/contract/locations/europe-west1";
        jobs.create_job().set_parent(parent).set_job_id(&launch.name).set_job(job).send().await.expect("creates");
        Ok(ExecutionId(launch.name.clone()))
    }
}

gantry_worker::contract_tests!(subject);
