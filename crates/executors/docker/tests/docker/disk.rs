//! A host whose disk is nearly full gets no jobs, and those that it has run on.

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_worker::executor::Executor;
use serde_json::json;

use crate::common::sh;
use crate::lab::Lab;

#[tokio::test]
async fn too_little_free_space_is_told_and_passes() {
    let lab = Lab::with(json!({ "min_free_disk_mb": u64::MAX }));
    let failure = lab.executor.check(&lab.host).await.expect_err("no disk is so large");
    assert_eq!(failure.class, FailureClass::NoCapacity);
    assert!(failure.message.contains("MiB free") && failure.message.contains("min_free_disk_mb"), "{failure}");
    // It is the engine that it was, and what runs there is looked after.
    let known = Lab::new();
    let health = known.executor.check(&known.host).await.expect("there is enough for the default");
    assert!(health.detail.contains("GiB of disk free"), "{}", health.detail);
    assert_eq!(lab.executor.identity(&lab.host).await, Ok(health.identity));
    assert_eq!(lab.run(sh("exit 3")).await.1.outcome, Outcome::Exited(3));
}
