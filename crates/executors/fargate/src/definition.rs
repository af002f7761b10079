//! Task definitions. Registering is limited to one a second, so that what can be said at launch is not in them, and
//! their family's name is the hash of what is: whoever needs the same finds the one that exists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ecs::operation::register_task_definition::builders::RegisterTaskDefinitionFluentBuilder;
use aws_sdk_ecs::types::{
    Compatibility, ContainerDefinition, CpuArchitecture, EphemeralStorage, LogConfiguration, LogDriver,
    NetworkMode as EcsNetworkMode, OsFamily, RuntimePlatform,
};
use backon::{ExponentialBuilder, Retryable as _};
use gantry_core::spec::ContainerSpec;
use gantry_core::{Failure, FailureClass};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::client::Client;
use crate::config::{Architecture, NetworkMode, Options};
use crate::error::{Kind, Trouble};
use crate::overrides::CONTAINER;
use crate::size;

/// A registration that AWS refused as one too many is tried again after pauses from one second, doubled.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(16))
    .with_max_times(5);
/// Definitions that this process remembers; more than that and it asks again.
const REMEMBERED: usize = 10_000;

/// All that a definition says. Its JSON is what is hashed: a field that is added makes all definitions anew, once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Definition {
    image: String,
    entrypoint: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    cpu: u32,
    memory: u32,
    is_fargate: bool,
    network_mode: NetworkMode,
    architecture: Architecture,
    ephemeral_storage_gib: Option<u32>,
    execution_role: Option<String>,
    task_role: Option<String>,
    stop_timeout_seconds: u32,
    region: String,
    log_group: String,
    log_prefix: String,
    create_log_group: bool,
}

impl Definition {
    pub(crate) fn of(region: &str, options: &Options, spec: &ContainerSpec) -> Result<Self, Failure> {
        let size = size::of(options, spec)?;
        Ok(Self {
            image: spec.image.clone(),
            entrypoint: spec.entrypoint.clone(),
            working_dir: spec.working_dir.clone(),
            user: spec.user.clone(),
            cpu: size.cpu,
            memory: size.memory,
            is_fargate: options.is_fargate(),
            network_mode: options.network_mode,
            architecture: options.cpu_architecture,
            ephemeral_storage_gib: options.ephemeral_storage_gib,
            execution_role: options.execution_role.clone(),
            task_role: options.task_role.clone(),
            stop_timeout_seconds: options.stop_timeout_seconds,
            region: region.to_owned(),
            log_group: options.log_group.clone(),
            log_prefix: options.log_prefix.clone(),
            create_log_group: options.create_log_group,
        })
    }

    /// `gantry-` and half of the content's SHA-256.
    pub(crate) fn family(&self) -> String {
        let content = serde_json::to_vec(self).expect("plain fields");
        let hash: String = Sha256::digest(content).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("gantry-{hash}")
    }

    fn request(&self, client: &Client) -> RegisterTaskDefinitionFluentBuilder {
        let compatibility = if self.is_fargate { Compatibility::Fargate } else { Compatibility::Ec2 };
        let network_mode = match self.network_mode {
            NetworkMode::Awsvpc => EcsNetworkMode::Awsvpc,
            NetworkMode::Bridge => EcsNetworkMode::Bridge,
            NetworkMode::Host => EcsNetworkMode::Host,
            NetworkMode::None => EcsNetworkMode::None,
        };
        let architecture = match self.architecture {
            Architecture::X8664 => CpuArchitecture::X8664,
            Architecture::Arm64 => CpuArchitecture::Arm64,
        };
        let platform = RuntimePlatform::builder().cpu_architecture(architecture);
        let storage = self
            .ephemeral_storage_gib
            .map(|gib| EphemeralStorage::builder().size_in_gib(i32::try_from(gib).unwrap_or(i32::MAX)).build());
        client
            .ecs
            .register_task_definition()
            .family(self.family())
            .requires_compatibilities(compatibility)
            .network_mode(network_mode)
            .runtime_platform(platform.operating_system_family(OsFamily::Linux).build())
            .cpu(self.cpu.to_string())
            .memory(self.memory.to_string())
            .set_ephemeral_storage(storage)
            .set_execution_role_arn(self.execution_role.clone())
            .set_task_role_arn(self.task_role.clone())
            .container_definitions(self.container())
    }

    fn container(&self) -> ContainerDefinition {
        let mut log = LogConfiguration::builder()
            .log_driver(LogDriver::Awslogs)
            .options("awslogs-group", &self.log_group)
            .options("awslogs-region", &self.region)
            .options("awslogs-stream-prefix", &self.log_prefix);
        if self.create_log_group {
            log = log.options("awslogs-create-group", "true");
        }
        ContainerDefinition::builder()
            .name(CONTAINER)
            .image(&self.image)
            .essential(true)
            // All of the task's: with a limit of its own, a container that goes beyond it says so.
            .memory(i32::try_from(self.memory).unwrap_or(i32::MAX))
            .set_entry_point(self.entrypoint.clone())
            .set_working_directory(self.working_dir.clone())
            .set_user(self.user.clone())
            .stop_timeout(i32::try_from(self.stop_timeout_seconds).unwrap_or(i32::MAX))
            .log_configuration(log.build().expect("the driver is set"))
            .build()
    }
}

/// The definitions that are known to exist, by family. Who needs one that is being registered waits for it.
#[derive(Default)]
pub(crate) struct Definitions(Mutex<HashMap<String, Arc<OnceCell<String>>>>);

impl Definitions {
    /// The ARN of a definition with this content: one that exists, or a new one.
    pub(crate) async fn ensure(
        &self,
        client: &Client,
        options: &Options,
        definition: &Definition,
    ) -> Result<String, Failure> {
        let family = definition.family();
        let known = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= REMEMBERED {
                all.clear();
            }
            Arc::clone(all.entry(family.clone()).or_default())
        };
        let find = async || match existing(client, &family).await? {
            Some(arn) => Ok(arn),
            None => register(client, options, definition).await,
        };
        known.get_or_try_init(find).await.cloned()
    }

    /// Forgets a definition that ECS does not have, or will not run any more.
    pub(crate) fn forget(&self, definition: &Definition) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&definition.family());
    }
}

/// The family's latest revision that can be run.
async fn existing(client: &Client, family: &str) -> Result<Option<String>, Failure> {
    match client.ecs.describe_task_definition().task_definition(family).send().await {
        // A family without an active revision is refused by AWS, and answered by others.
        Ok(found) => Ok(found
            .task_definition
            .filter(|found| found.status.as_ref().is_none_or(|status| status.as_str() == "ACTIVE"))
            .and_then(|found| found.task_definition_arn)),
        Err(error) => {
            let trouble = Trouble::of("DescribeTaskDefinition", &error);
            if trouble.says("ClientException", "unable to describe") { Ok(None) } else { Err(trouble.failure()) }
        }
    }
}

/// Within this process' share of the account's limit.
async fn register(client: &Client, options: &Options, definition: &Definition) -> Result<String, Failure> {
    let registrations = client.pace().await?.registrations(options.registration_share);
    let attempt = async || {
        registrations.until_ready().await;
        // Not repeated by the SDK, which knows nothing of the limit.
        let once = aws_sdk_ecs::config::Config::builder().retry_config(aws_config::retry::RetryConfig::disabled());
        let answer = definition.request(client).customize().config_override(once).send().await;
        answer.map_err(|error| Trouble::of("RegisterTaskDefinition", &error))
    };
    let answer = attempt.retry(BACKOFF).when(|trouble: &Trouble| trouble.kind == Kind::Throttled).await;
    let registered = answer.map_err(refused)?.task_definition.and_then(|registered| registered.task_definition_arn);
    registered
        .ok_or_else(|| Failure::new(FailureClass::BackendError, "RegisterTaskDefinition: an answer without an ARN"))
}

/// A definition that ECS refuses is refused for ever, unless it is for what the host's configuration names.
fn refused(trouble: Trouble) -> Failure {
    let place = ["role", "access", "authorized", "log", "security token"];
    let words = trouble.text.to_ascii_lowercase();
    let of_the_job = trouble.kind == Kind::Refused
        && matches!(trouble.code.as_str(), "ClientException" | "InvalidParameterException")
        && !place.iter().any(|word| words.contains(word));
    if of_the_job { Failure::new(FailureClass::InvalidSpec, trouble.text) } else { trouble.failure() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn family(config: serde_json::Value, spec: serde_json::Value) -> String {
        let options: Options = serde_json::from_value(config).expect("options");
        let spec: ContainerSpec = serde_json::from_value(spec).expect("a spec");
        Definition::of("r", &options, &spec).expect("it fits").family()
    }

    #[test]
    fn what_is_said_at_launch_is_not_in_the_definition() {
        let one =
            family(json!({}), json!({"image": "i", "command": ["a"], "environment": {"A": "1"}, "timeout_seconds": 1}));
        assert_eq!(one, family(json!({"subnets": ["s"]}), json!({"image": "i", "command": ["b"], "cpu_limit": 0.2})));
        assert_eq!(one.len(), "gantry-".len() + 32);
    }

    #[test]
    fn what_is_in_the_definition_makes_another() {
        let specs = [
            json!({"image": "i"}),
            json!({"image": "j"}),
            json!({"image": "i", "entrypoint": ["e"]}),
            json!({"image": "i", "working_dir": "/w"}),
            json!({"image": "i", "user": "nobody"}),
            json!({"image": "i", "memory_limit_mb": 600}),
        ];
        let mut families: Vec<_> = specs.into_iter().map(|spec| family(json!({}), spec)).collect();
        for config in [json!({"task_role": "t"}), json!({"log_group": "g"}), json!({"launch_type": "EC2"})] {
            families.push(family(config, json!({"image": "i"})));
        }
        let count = families.len();
        families.sort();
        families.dedup();
        assert_eq!(families.len(), count);
    }
}
