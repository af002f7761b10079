//! The double that the tests run on, and an executor for it.

use std::net::SocketAddr;
use std::path::Path;

use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, HostId};
use gantry_double::Faults;
use gantry_executor_scaleway::ScalewayExecutor;
use gantry_executor_scaleway::double::{Double, PROJECT, SECRET_KEY};
use gantry_worker::secrets::Secrets;
use serde_json::{Value, json};

/// How long the double may hide what it has taken, in milliseconds.
pub(crate) const VISIBLE_WITHIN: u64 = 3_000;

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

/// A double with these faults.
pub(crate) async fn double(faults: Faults) -> Double {
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    Double::start(any, &endpoint(), faults).await.expect("the test engine is there")
}

/// An executor that knows the credentials `main`, and `sick` with a key that is not taken.
pub(crate) fn executor() -> ScalewayExecutor {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("scaleway-secrets");
    std::fs::create_dir_all(&folder).expect("a folder of this test's own target");
    for (name, value) in [("main", SECRET_KEY), ("sick", "an old key")] {
        // At once: other tests read it.
        let file = tempfile::NamedTempFile::new_in(&folder).expect("a file");
        std::fs::write(file.path(), value).expect("is written");
        file.persist(folder.join(name)).expect("is renamed");
    }
    ScalewayExecutor::with_secrets(Secrets::in_folder(folder))
}

/// A host at a URL.
pub(crate) fn host_at(url: &str, credentials: &str) -> Host {
    Host {
        id: HostId::new(),
        name: "test".into(),
        executor_type: ExecutorType::Scaleway,
        connection_config: json!({
            "region": "fr-par",
            "project": PROJECT,
            "credentials": credentials,
            "api_url": url,
            "logs": { "url": url, "settle_millis": 200 },
            "visible_within_millis": VISIBLE_WITHIN,
        }),
        executor_config: Value::Null,
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
