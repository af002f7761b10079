//! A private Docker Engine runs the test image and keeps it over restarts.

use std::path::Path;
use std::process::{Command, Output};

use crate::common;
use gantry_servers::{DockerEngine, TEST_IMAGE};

fn run(engine: &DockerEngine, network: &str, script: &str) -> Output {
    Command::new("docker")
        .args(["run", "--rm", "--network", network, TEST_IMAGE, "sh", "-c", script])
        .env("DOCKER_HOST", format!("unix://{}", engine.socket_path().display()))
        .output()
        .expect("the docker program is installed")
}

#[tokio::test]
async fn runs_the_test_image_and_keeps_it_over_a_restart() {
    let folder = common::folder();
    let engine = DockerEngine::start(folder.path()).await.expect("starts");
    engine.import_test_image().await.expect("imports");
    engine.import_test_image().await.expect("importing it again changes nothing");
    let output = run(&engine, "none", "echo out; echo err >&2; id -un; : > /tmp/file; exit 3");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\nroot\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert_eq!(output.status.code(), Some(3));
    // Nobody waits for the grace period of a container that is still running.
    let detached = Command::new("docker")
        .args(["run", "--detach", "--network=none", TEST_IMAGE, "sleep", "600"])
        .env("DOCKER_HOST", format!("unix://{}", engine.socket_path().display()))
        .output()
        .expect("docker runs");
    assert!(detached.status.success(), "{detached:?}");
    assert_eq!(run(&engine, "host", "exit 5").status.code(), Some(5));
    engine.stop().await.expect("stops");
    assert_eq!(common::processes(folder.path()), [""; 0]);
    assert_nothing_mounted(folder.path());

    let engine = DockerEngine::start(folder.path()).await.expect("starts again");
    assert_eq!(run(&engine, "none", "exit 4").status.code(), Some(4));
    engine.stop().await.expect("stops again");

    let engine = DockerEngine::start(folder.path()).await.expect("starts to be killed");
    engine.crash().await.expect("is killed");

    common::leave_running(folder.path(), "docker");
    let engine = DockerEngine::start(folder.path()).await.expect("replaces the one left");
    engine.stop().await.expect("stops once more");
    assert_eq!(common::processes(folder.path()), [""; 0]);
    assert_nothing_mounted(folder.path());
}

/// Or the folder could not be removed.
fn assert_nothing_mounted(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("it is always there");
    assert!(!mounts.contains(folder.to_str().expect("text")), "the engine left something mounted: {mounts}");
}
