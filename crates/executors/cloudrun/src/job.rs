//! The Job of one attempt: what is refused of a spec, and what becomes of the rest.

use std::time::Duration;

use gantry_core::spec::{ContainerSpec, ResolvedSpec};
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::Launch;
use google_cloud_run_v2::model::vpc_access::{NetworkInterface, VpcEgress};
use google_cloud_run_v2::model::{
    Container, EnvVar, ExecutionEnvironment as Sandbox, ExecutionTemplate, Job, ResourceRequirements, TaskTemplate,
    VpcAccess,
};

use crate::config::{Egress, ExecutionEnvironment, Options, Vpc};
use crate::labels;
use crate::resources::Resources;

/// What the name of an attempt's one execution ends in: `{job}-run`. Google wants fewer than 63 characters of Job and
/// token together; a Job's name has up to 48.
pub(crate) const TOKEN: &str = "run";
/// Gantry's own deadline is the law. Cloud Run's comes so much later, for the day on which no worker is left.
const MARGIN: Duration = Duration::from_secs(600);
/// The longest that Cloud Run lets a task run.
const LONGEST: Duration = Duration::from_secs(168 * 3600);
/// Variables that Cloud Run sets itself, and refuses.
const RESERVED: [&str; 5] =
    ["CLOUD_RUN_JOB", "CLOUD_RUN_EXECUTION", "CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_ATTEMPT", "CLOUD_RUN_TASK_COUNT"];
/// The longest value of a variable, in bytes, and the most variables.
const VALUE_BYTES: usize = 32 << 10;
const VARIABLES: usize = 1000;

/// The name of an attempt's execution, within its Job.
pub(crate) fn execution(job: &str) -> String {
    format!("{job}-{TOKEN}")
}

/// Refuses what Cloud Run cannot do.
pub(crate) fn validate(spec: &ResolvedSpec) -> Result<(), Failure> {
    let container = &spec.container;
    Resources::of(container)?;
    if let Some(mount) = container.mounts.first() {
        return Err(invalid(format!("mounts[0]: Cloud Run has no directory {} of a host to mount", mount.source)));
    }
    if let Some(network) = &container.network {
        return Err(invalid(format!("network: Cloud Run has no network {network:?}; the host's `vpc` names its own")));
    }
    if let Some(user) = &container.user {
        return Err(invalid(format!("user: Cloud Run runs an image as its own user, and cannot make it {user:?}")));
    }
    if container.read_only_root {
        return Err(invalid("read_only_root: Cloud Run's root file system is in memory, and can be written to".into()));
    }
    if container.gpus.is_some() {
        return Err(invalid("gpus: this executor asks Cloud Run for none".into()));
    }
    let timeout = u64::from(spec.timeout_seconds());
    if timeout > LONGEST.as_secs() {
        let most = LONGEST.as_secs();
        return Err(invalid(format!(
            "timeout_seconds: Cloud Run runs a job for at most {most} seconds, not {timeout}"
        )));
    }
    validate_environment(container)
}

fn validate_environment(container: &ContainerSpec) -> Result<(), Failure> {
    // Gantry's own four come on top.
    if container.environment.len() + 4 > VARIABLES {
        let count = container.environment.len();
        return Err(invalid(format!("environment: Cloud Run takes at most {VARIABLES} variables, not {count}")));
    }
    for (name, value) in &container.environment {
        if RESERVED.contains(&name.as_str()) || name.starts_with("X_GOOGLE_") {
            return Err(invalid(format!("environment.{name}: Cloud Run keeps this name for itself")));
        }
        if value.len() > VALUE_BYTES {
            let bytes = value.len();
            let message = format!("environment.{name}: Cloud Run takes at most {VALUE_BYTES} bytes, not {bytes}");
            return Err(invalid(message));
        }
    }
    Ok(())
}

/// The Job, which starts its one execution as soon as it is stored.
pub(crate) fn body(options: &Options, launch: &Launch) -> Result<Job, Failure> {
    validate(&launch.spec)?;
    let container = container(options, &launch.spec.container)?;
    let mut template =
        TaskTemplate::new().set_containers([container]).set_max_retries(0).set_timeout(timeout(&launch.spec)?);
    if let Some(account) = &options.service_account {
        template = template.set_service_account(account);
    }
    if let Some(environment) = options.execution_environment {
        template.execution_environment = match environment {
            ExecutionEnvironment::Gen1 => Sandbox::Gen1,
            ExecutionEnvironment::Gen2 => Sandbox::Gen2,
        };
    }
    if let Some(vpc) = &options.vpc {
        template = template.set_vpc_access(access(vpc));
    }
    let execution = ExecutionTemplate::new()
        .set_labels(labels::of(launch))
        .set_task_count(1)
        .set_parallelism(1)
        .set_template(template);
    Ok(Job::new().set_labels(labels::of(launch)).set_template(execution).set_start_execution_token(TOKEN))
}

fn container(options: &Options, spec: &ContainerSpec) -> Result<Container, Failure> {
    let environment = spec.environment.iter().map(|(name, value)| EnvVar::new().set_name(name).set_value(value));
    let mut container = Container::new().set_image(image(options, &spec.image)).set_env(environment);
    // Kubernetes' words: `command` is Docker's entrypoint, `args` its command.
    if let Some(entrypoint) = &spec.entrypoint {
        container = container.set_command(entrypoint);
    }
    if let Some(command) = &spec.command {
        container = container.set_args(command);
    }
    if let Some(dir) = &spec.working_dir {
        container = container.set_working_dir(dir);
    }
    if let Some(Resources { cpus, memory }) = Resources::of(spec)? {
        let limits = [("cpu", cpus.to_string()), ("memory", format!("{memory}Mi"))];
        container = container.set_resources(ResourceRequirements::new().set_limits(limits));
    }
    Ok(container)
}

/// The image with its registry. Whether the first part names one is decided as everywhere: by a dot or a port in it.
fn image(options: &Options, image: &str) -> String {
    let names_registry = image
        .split_once('/')
        .is_some_and(|(first, _)| first.contains('.') || first.contains(':') || first == "localhost");
    match &options.image_registry {
        Some(registry) if !names_registry => format!("{registry}/{image}"),
        _ => image.to_owned(),
    }
}

fn timeout(spec: &ResolvedSpec) -> Result<google_cloud_wkt::Duration, Failure> {
    let timeout = (Duration::from_secs(spec.timeout_seconds().into()) + MARGIN).min(LONGEST);
    google_cloud_wkt::Duration::try_from(timeout).map_err(|error| invalid(format!("timeout_seconds: {error}")))
}

fn access(vpc: &Vpc) -> VpcAccess {
    let mut access = VpcAccess::new();
    if let Some(egress) = vpc.egress {
        access.egress = match egress {
            Egress::AllTraffic => VpcEgress::AllTraffic,
            Egress::PrivateRangesOnly => VpcEgress::PrivateRangesOnly,
        };
    }
    match &vpc.connector {
        Some(connector) => access.set_connector(connector),
        None => access.set_network_interfaces([NetworkInterface::new()
            .set_network(vpc.network.clone().unwrap_or_default())
            .set_subnetwork(vpc.subnetwork.clone().unwrap_or_default())
            .set_tags(&vpc.tags)]),
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureClass::InvalidSpec, message)
}

#[cfg(test)]
mod tests {
    use gantry_core::naming::{MAX_EXTERNAL_NAME, external_name};
    use gantry_core::{FleetId, JobId};
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> ResolvedSpec {
        serde_json::from_value(value).expect("a spec")
    }

    fn launch(spec: ResolvedSpec) -> Launch {
        let (fleet, job, attempt) = (FleetId::new(), JobId::new(), 2);
        Launch { name: external_name(fleet, job, attempt), fleet, job, attempt, spec }
    }

    #[test]
    fn job_and_token_stay_below_googles_limit() {
        assert!(MAX_EXTERNAL_NAME + TOKEN.len() < 63);
    }

    #[test]
    fn an_attempt_becomes_a_job_that_starts_itself_once() {
        let options: Options = serde_json::from_value(json!({
            "service_account": "runner@p.iam.gserviceaccount.com",
            "execution_environment": "gen2",
            "vpc": { "network": "n", "tags": ["t"], "egress": "all_traffic" },
            "image_registry": "europe-docker.pkg.dev/p/i",
        }))
        .expect("options");
        let launch = launch(spec(json!({
            "image": "tool:1", "entrypoint": ["/bin/tool"], "command": ["a", ""], "working_dir": "/w",
            "environment": { "EMPTY": "" }, "cpu_limit": 2, "timeout_seconds": 60, "labels": { "Any Key": "Ünfit" },
        })));
        let labels = json!({
            "gantry-fleet": launch.fleet.to_string(), "gantry-job": launch.job.to_string(), "gantry-attempt": "2",
        });
        let body = serde_json::to_value(body(&options, &launch).expect("a job")).expect("JSON");
        assert_eq!(
            body,
            json!({
                "labels": labels,
                "startExecutionToken": "run",
                "template": {
                    "labels": labels, "taskCount": 1, "parallelism": 1,
                    "template": {
                        // Left out it would be 3.
                        "maxRetries": 0,
                        "timeout": "660s",
                        "serviceAccount": "runner@p.iam.gserviceaccount.com",
                        "executionEnvironment": 2,
                        "vpcAccess": { "egress": 1, "networkInterfaces": [{ "network": "n", "tags": ["t"] }] },
                        "containers": [{
                            "image": "europe-docker.pkg.dev/p/i/tool:1",
                            "command": ["/bin/tool"], "args": ["a", ""], "workingDir": "/w",
                            "env": [{ "name": "EMPTY", "value": "" }],
                            "resources": { "limits": { "cpu": "2", "memory": "512Mi" } },
                        }],
                    },
                },
            })
        );
    }

    #[test]
    fn an_image_with_a_registry_keeps_it() {
        let options = Options { image_registry: Some("r.example/p".into()), ..Options::default() };
        for (given, expected) in [
            ("tool", "r.example/p/tool"),
            ("team/tool:1", "r.example/p/team/tool:1"),
            ("localhost/tool", "localhost/tool"),
            ("docker.io/library/busybox", "docker.io/library/busybox"),
            ("host:5000/tool", "host:5000/tool"),
        ] {
            assert_eq!(image(&options, given), expected);
        }
        assert_eq!(image(&Options::default(), "tool"), "tool");
    }

    #[test]
    fn what_cloud_run_cannot_do_is_refused_by_name() {
        for (given, named) in [
            (json!({ "image": "i", "mounts": [{ "source": "/a", "target": "/b" }] }), "mounts[0]"),
            (json!({ "image": "i", "network": "host" }), "network"),
            (json!({ "image": "i", "user": "nobody" }), "user"),
            (json!({ "image": "i", "read_only_root": true }), "read_only_root"),
            (json!({ "image": "i", "gpus": 1 }), "gpus"),
            (json!({ "image": "i", "cpu_limit": 9 }), "cpu_limit"),
            (json!({ "image": "i", "timeout_seconds": 604_801 }), "timeout_seconds"),
            (json!({ "image": "i", "environment": { "CLOUD_RUN_JOB": "1" } }), "environment.CLOUD_RUN_JOB"),
            (json!({ "image": "i", "environment": { "A": "x".repeat(VALUE_BYTES + 1) } }), "environment.A"),
        ] {
            let failure = validate(&spec(given)).expect_err("cannot be done");
            assert_eq!(failure.class, FailureClass::InvalidSpec);
            assert!(failure.message.starts_with(named), "{failure}");
        }
        validate(&spec(json!({ "image": "i", "timeout_seconds": 604_800 }))).expect("the longest");
    }
}
