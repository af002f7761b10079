//! The engine and image that the tests run on, the double, and the check of what went over its wire.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};

use gantry_core::host::Host;
use gantry_core::spec::ResolvedSpec;
use gantry_core::{ExecutorType, HostId};
use gantry_double::Faults;
use gantry_executor_cloudrun::double::{Double, Exchange};
use serde_json::json;

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
pub(crate) async fn double(faults: &Faults) -> Double {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Double::start(listen, &endpoint(), faults.clone()).await.expect("the double starts")
}

/// A host in this project of a double.
pub(crate) fn host_at(url: &str, project: &str) -> Host {
    Host {
        id: HostId::new(),
        name: "test".into(),
        executor_type: ExecutorType::Cloudrun,
        connection_config: json!({ "project": project, "region": "europe-west1", "endpoint": url, "anonymous": true }),
        // A test reads as often as it likes, and the double is late by 0.3 s.
        executor_config: json!({ "log_delay_seconds": 1, "log_reads_per_minute": 100_000 }),
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

/// Runs one of the scripts beside the tests.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Output {
    let home = std::env::var("GANTRY_PYTHON").unwrap_or_else(|_| {
        panic!("GANTRY_PYTHON is not set: `deploy/scripts/install.sh python` makes it, with Google's own clients in it")
    });
    let script = format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR"));
    let run = Command::new(format!("{home}/bin/python")).arg(script).args(arguments).output();
    run.unwrap_or_else(|error| panic!("{home}/bin/python does not run: {error}"))
}

/// Holds what went over the wire against Google's published documents; what is wrong is the error.
pub(crate) fn validate(exchanges: &[Exchange]) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    serde_json::to_writer(&file, exchanges).expect("exchanges are JSON");
    let path = file.path().to_str().expect("a path of plain characters");
    let output = python("validate.py", &[path]);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(said) }
}
