//! From a place that has no room to a real engine.

use gantry_core::ExecutorType::{Docker, Mock};
use gantry_store::Scope;
use gantry_store::templates::{self, NewTemplate};
use gantry_testkit::TestDocker;
use gantry_tests::{Fleet, quick};
use serde_json::json;

#[tokio::test]
async fn a_refused_job_runs_in_a_real_container() {
    let (fleet, _parts) = Fleet::docker(2).await;
    let full = fleet.host_elsewhere(Mock, json!({ "fail": "no_capacity" })).await;
    let _worker = fleet.mock_worker(quick());
    fleet.served(full, 1).await;
    let (docker, command) = (TestDocker::find(), ["sh", "-c", "echo $GANTRY_ATTEMPT"].map(str::to_owned));
    let template = NewTemplate {
        command: Some(&command),
        supported_executors: &[Mock, Docker],
        ..NewTemplate::new(fleet.tenant, "anywhere", docker.image(), "test")
    };
    templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
    let id = fleet.producer().await.submit(&json!({ "template": "anywhere" })).await;
    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["executor_type"]), (&json!("completed"), &json!("docker")), "{job}");
    assert_eq!(fleet.log(id, 2, "stdout").await, b"2\n");
    assert!(fleet.ledger().starts().is_empty(), "nothing was simulated");
}
