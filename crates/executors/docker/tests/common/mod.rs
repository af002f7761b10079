//! The engine and image that the tests run on.

use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, HostId};
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
