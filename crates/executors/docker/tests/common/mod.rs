//! The engine and image that the tests run on.

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};
use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, HostId};
use gantry_worker::executor::{ExecutionId, Launch};
use serde_json::{Value, json};

/// The test engine's address.
pub(crate) fn endpoint() -> String {
    variable("GANTRY_TEST_DOCKER_HOST")
}

/// A busybox that the test engine has.
pub(crate) fn image() -> String {
    variable("GANTRY_TEST_IMAGE")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `make test` starts the servers and sets it"))
}

/// A host, reached in any way.
pub(crate) fn host_to(connection_config: Value, executor_config: Value) -> Host {
    Host {
        id: HostId::new(),
        name: "test".into(),
        executor_type: ExecutorType::Docker,
        connection_config,
        executor_config,
    }
}

/// A container of the test image that runs these words.
pub(crate) fn words(command: &[&str]) -> ResolvedSpec {
    serde_json::from_value(json!({ "image": image(), "command": command })).expect("the least that a spec needs")
}

/// A container of the test image that runs this shell script.
pub(crate) fn sh(script: &str) -> ResolvedSpec {
    words(&["sh", "-c", script])
}

/// A launch that ended between its two requests.
pub(crate) async fn leave_created(endpoint: &str, launch: &Launch) -> ExecutionId {
    let docker = Docker::connect_with_unix(endpoint, 10, API_DEFAULT_VERSION).expect("the socket is there");
    let labels = [
        ("gantry.fleet", launch.fleet.to_string()),
        ("gantry.job", launch.job.to_string()),
        ("gantry.attempt", launch.attempt.to_string()),
    ];
    let body = ContainerCreateBody {
        image: Some(launch.spec.container.image.clone()),
        cmd: launch.spec.container.command.clone(),
        labels: Some(labels.map(|(key, value)| (key.into(), value)).into()),
        ..Default::default()
    };
    let named = CreateContainerOptionsBuilder::new().name(&launch.name).build();
    let docker = docker.negotiate_version().await.expect("the engine answers");
    ExecutionId(docker.create_container(Some(named), body).await.expect("creates").id)
}
