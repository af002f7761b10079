//! One definition for all jobs that share it.

use futures::future::join_all;
use gantry_core::{FailureClass, FleetId};
use gantry_double::{Fault, Faults, Rule};
use gantry_worker::executor::{Executor as _, LaunchError};
use serde_json::json;

use crate::common::{double, executor, host_at, sh};
use crate::{arrived, launch_of};

const REGISTRATION: &str = "/job-definitions";

#[tokio::test]
async fn many_jobs_of_one_content_register_once() {
    let double = double(Faults::new(1)).await;
    let (one, host) = (executor(), host_at(&double.url(), "main"));
    let spec = |memory| {
        let mut spec = sh("exit 0");
        spec.container.memory_limit_mb = Some(memory);
        spec
    };
    // 100 and 120 MiB are both the smallest size on offer, 300 is another.
    let specs = [spec(100), spec(120), spec(100), spec(300)];
    for prepared in join_all(specs.iter().map(|spec| one.prepare(&host, spec))).await {
        prepared.expect("can be prepared");
    }
    assert_eq!(arrived(&double, REGISTRATION), 2);
    executor().prepare(&host, &spec(100)).await.expect("another worker finds it");
    assert_eq!(arrived(&double, REGISTRATION), 2);
    let recorded = double.recorded();
    let body: serde_json::Value = serde_json::from_slice(&recorded[0].body).expect("JSON");
    assert_eq!(body["retry_policy"], json!({ "max_retries": 0 }), "the service must not retry");
    double.end().await.expect("ends");
}

#[tokio::test]
async fn a_registration_that_lost_its_answer_is_looked_up() {
    let faults = Faults::new(1);
    faults.add(Rule::new(Fault::LostResponse).to("POST", REGISTRATION));
    let double = double(faults).await;
    executor().prepare(&host_at(&double.url(), "main"), &sh("exit 0")).await.expect("it was registered");
    assert_eq!(arrived(&double, REGISTRATION), 1);
    double.end().await.expect("ends");
}

/// Somebody deletes the definition under a worker: the start is refused for certain, not repeated, and the next attempt
/// has a definition again.
#[tokio::test]
async fn a_definition_that_was_deleted_is_registered_by_the_next_attempt() {
    let double = double(Faults::new(1)).await;
    let (executor, host) = (executor(), host_at(&double.url(), "main"));
    let launch = launch_of(FleetId::new(), sh("exit 0"));
    executor.prepare(&host, &launch.spec).await.expect("can be prepared");
    let client = reqwest::Client::new();
    let base = format!("{}/serverless-jobs/v1alpha2/regions/fr-par/job-definitions", double.url());
    let key = ("x-auth-token", gantry_executor_scaleway::double::SECRET_KEY);
    let listed = client.get(&base).header(key.0, key.1).send().await.expect("answers").bytes().await.expect("a body");
    let listed: serde_json::Value = serde_json::from_slice(&listed).expect("JSON");
    let id = listed["job_definitions"][0]["id"].as_str().expect("one definition");
    client.delete(format!("{base}/{id}")).header(key.0, key.1).send().await.expect("answers");
    match executor.launch(&host, &launch).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::BackendError, "{failure}"),
        other => panic!("there is no such definition, and it is {other:?}"),
    }
    assert_eq!(arrived(&double, "/start"), 1);
    let next = launch_of(launch.fleet, launch.spec);
    executor.prepare(&host, &next.spec).await.expect("registers again");
    executor.launch(&host, &next).await.expect("launches");
    assert_eq!(arrived(&double, REGISTRATION), 2);
    double.end().await.expect("ends");
}
