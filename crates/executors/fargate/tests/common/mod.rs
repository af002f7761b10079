//! A double in front of the test's ministack, and executors and hosts that use it.

pub(crate) mod schema;

use std::path::Path;

use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, HostId};
use gantry_executor_fargate::FargateExecutor;
use gantry_executor_fargate::double::Double;
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The worker's secret in tests.
const SECRET: &str = "aws";

/// A double, and what a worker needs to use it. Whatever went over its wire must be what AWS' own models describe, both
/// ways.
pub(crate) struct Lab {
    pub(crate) double: Double,
    secrets: TempDir,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        let double = Double::start(([127, 0, 0, 1], 0).into(), &ministack()).await.expect("ministack answers");
        Self { double, secrets: secrets() }
    }

    /// An executor with nothing in memory.
    pub(crate) fn executor(&self) -> FargateExecutor {
        executor(self.secrets.path())
    }

    /// A host at the double.
    pub(crate) fn host(&self) -> Host {
        self.host_with(json!({}), json!({}))
    }

    /// The same host with other settings.
    pub(crate) fn host_with(&self, connection: Value, config: Value) -> Host {
        host(merged(self.double.connection_config(), connection), merged(Double::executor_config(), config))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Err(said) = schema::check(&self.double.exchanges()) {
            panic!("what went over the wire is not what AWS documents:\n{said}");
        }
    }
}

/// A folder with credentials that any counterpart takes.
pub(crate) fn secrets() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = json!({ "access_key_id": "test", "secret_access_key": "test" }).to_string();
    std::fs::write(folder.path().join(SECRET), keys).expect("writes the secret");
    folder
}

/// An executor with nothing in memory.
pub(crate) fn executor(secrets: &Path) -> FargateExecutor {
    FargateExecutor::with_secrets(Secrets::in_folder(secrets))
}

/// A host with the test's credentials, unless it names others.
pub(crate) fn host(connection: Value, executor_config: Value) -> Host {
    Host {
        id: HostId::new(),
        name: "test".into(),
        executor_type: ExecutorType::Fargate,
        connection_config: merged(json!({ "credentials": SECRET }), connection),
        executor_config,
    }
}

fn merged(mut one: Value, other: Value) -> Value {
    let (Some(all), Value::Object(more)) = (one.as_object_mut(), other) else { panic!("objects") };
    all.extend(more);
    one
}

/// A container of the test image that runs these words.
pub(crate) fn words(command: &[&str]) -> ResolvedSpec {
    serde_json::from_value(json!({ "image": image(), "command": command })).expect("the least that a spec needs")
}

/// A container of the test image that runs this shell script.
pub(crate) fn sh(script: &str) -> ResolvedSpec {
    words(&["sh", "-c", script])
}

/// The same with another image.
pub(crate) fn image_of(image: &str) -> ResolvedSpec {
    let mut spec = words(&["true"]);
    spec.container.image = image.into();
    spec
}

/// Marks a spec for a fault: in a variable, which only its RunTask has.
pub(crate) fn marked(mut spec: ResolvedSpec, mark: &str) -> ResolvedSpec {
    spec.container.environment.insert("MARK".into(), mark.into());
    spec
}

fn image() -> String {
    variable("GANTRY_TEST_IMAGE")
}

fn ministack() -> String {
    variable("GANTRY_TEST_MINISTACK_URL")
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: `make test` sets it, as does `gantry-servers run --with docker,ministack`")
    })
}
