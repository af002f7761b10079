//! The double answers Scaleway's own Python SDK, and what the executor sends is what the SDK would send.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use gantry_core::FleetId;
use gantry_double::Faults;
use gantry_executor_scaleway::double::{PROJECT, Recorded, SECRET_KEY};
use gantry_worker::executor::Executor as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::common::{double, executor, host_at, image, sh};
use crate::launch_of;

fn python() -> PathBuf {
    let folder = std::env::var("GANTRY_PYTHON")
        .expect("GANTRY_PYTHON is not set: `make test` installs Scaleway's SDK and sets it");
    Path::new(&folder).join("bin/python")
}

/// Runs the script; what it says is the test's own output.
async fn script(arguments: &[&str]) -> Result<(), String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk.py");
    let run = Command::new(python()).arg(script).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = run.await.expect("python runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[tokio::test]
async fn the_double_answers_scaleways_own_client() {
    let double = double(Faults::new(1)).await;
    let answered = script(&["client", &double.url(), SECRET_KEY, PROJECT, &image()]).await;
    double.end().await.expect("ends");
    answered.unwrap_or_else(|said| panic!("{said}"));
}

/// Everything that the executor sends, as the SDK would have marshalled it; and one field less or more would be seen.
#[tokio::test]
async fn what_the_executor_sends_is_what_the_sdk_would_send() {
    let double = double(Faults::new(1)).await;
    let (executor, host) = (executor(), host_at(&double.url(), "main"));
    let mut spec = sh("sleep 60");
    spec.container.entrypoint = Some(vec!["env".into(), "--".into()]);
    for spec in [spec, sh("sleep 60")] {
        let launch = launch_of(FleetId::new(), spec);
        executor.prepare(&host, &launch.spec).await.expect("can be prepared");
        let id = executor.launch(&host, &launch).await.expect("launches");
        executor.stop(&host, &id, Duration::ZERO).await.expect("stops");
    }
    let recorded = double.recorded();
    double.end().await.expect("ends");
    let paths: Vec<_> = recorded.iter().map(|request| request.path.rsplit('/').next().unwrap_or_default()).collect();
    assert_eq!(paths, ["job-definitions", "start", "stop", "start", "stop"]);
    let bodies: Vec<Value> = recorded.iter().map(written).collect();
    check(&bodies).await.unwrap_or_else(|said| panic!("{said}"));

    // The check can fail: by a field that the SDK does not know, one of another type, and one that it needs.
    for (field, value) in [("cpu", json!(70)), ("cpu_limit", json!("70")), ("image_uri", Value::Null)] {
        let mut wrong = bodies.clone();
        let body = wrong[0]["body"].as_object_mut().expect("an object");
        match value {
            Value::Null => body.remove(field),
            value => body.insert(field.into(), value),
        };
        let said = check(&wrong).await.expect_err("a wrong body is seen");
        assert!(said.contains(field), "{field}: {said}");
    }
}

fn written(request: &Recorded) -> Value {
    let body: Value = serde_json::from_slice(&request.body).expect("JSON");
    json!({ "method": request.method, "path": request.path, "body": body })
}

async fn check(requests: &[Value]) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), serde_json::to_vec(requests).expect("JSON")).expect("is written");
    script(&["bodies", file.path().to_str().expect("a plain path")]).await
}
