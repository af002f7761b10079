//! What a host's configuration makes of the requests: roles, what a task runs on, its network.

use std::time::Duration;

use gantry_worker::executor::Executor;
use serde_json::{Value, json};

use crate::common::Lab;
use crate::{launch_of, new_definition, of};

const EXECUTION_ROLE: &str = "arn:aws:iam::123456789012:role/gantry-execution";
const TASK_ROLE: &str = "arn:aws:iam::123456789012:role/jobs";

/// The bodies of the one RegisterTaskDefinition and the one RunTask of a host with this `executor_config`.
async fn sent(config: Value) -> (Value, Value) {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host_with(json!({}), config));
    let id = executor.launch(&host, &launch_of(new_definition())).await.expect("launches");
    executor.stop(&host, &id, Duration::ZERO).await.expect("stops");
    let exchanges = lab.double.exchanges();
    let body = |operation| match of(&exchanges, operation)[..] {
        [exchange] => exchange.request.clone(),
        ref sent => panic!("{operation} was sent {} times", sent.len()),
    };
    (body("RegisterTaskDefinition"), body("RunTask"))
}

/// These fields and no others of these names: what a host does not name is not in the request.
fn assert_has(body: &Value, names: &[&str], expected: Value) {
    let body = body.as_object().expect("an object").iter();
    let has: Value =
        body.filter(|(name, _)| names.contains(&name.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(has, expected);
}

const DEFINITION: [&str; 6] = [
    "taskRoleArn",
    "executionRoleArn",
    "requiresCompatibilities",
    "networkMode",
    "runtimePlatform",
    "ephemeralStorage",
];
const RUN: [&str; 5] = ["cluster", "launchType", "capacityProviderStrategy", "networkConfiguration", "platformVersion"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fargate_with_all_that_a_host_can_name() {
    let (definition, run) = sent(json!({
        "execution_role": EXECUTION_ROLE, "task_role": TASK_ROLE, "cpu_architecture": "ARM64",
        "subnets": ["subnet-a", "subnet-b"], "security_groups": ["sg-a"], "assign_public_ip": true,
        "platform_version": "1.4.0", "ephemeral_storage_gib": 30,
    }))
    .await;
    let expected = json!({
        "taskRoleArn": TASK_ROLE, "executionRoleArn": EXECUTION_ROLE,
        "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc",
        "runtimePlatform": { "cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX" },
        "ephemeralStorage": { "sizeInGiB": 30 },
    });
    assert_has(&definition, &DEFINITION, expected);
    let network = json!({ "awsvpcConfiguration": {
        "subnets": ["subnet-a", "subnet-b"], "securityGroups": ["sg-a"], "assignPublicIp": "ENABLED",
    } });
    let expected = json!({
        "cluster": "gantry", "launchType": "FARGATE", "networkConfiguration": network, "platformVersion": "1.4.0",
    });
    assert_has(&run, &RUN, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spot_is_a_capacity_provider_and_no_launch_type() {
    let (definition, run) = sent(json!({ "launch_type": "FARGATE_SPOT", "subnets": ["subnet-a"] })).await;
    let platform = json!({ "cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX" });
    let expected = json!({
        "requiresCompatibilities": ["FARGATE"], "networkMode": "awsvpc", "runtimePlatform": platform,
    });
    assert_has(&definition, &DEFINITION, expected);
    let network = json!({ "awsvpcConfiguration": { "subnets": ["subnet-a"], "assignPublicIp": "DISABLED" } });
    // The SDK sends a base in any case, and 0 is ECS' own.
    let strategy = json!([{ "capacityProvider": "FARGATE_SPOT", "weight": 1, "base": 0 }]);
    let expected =
        json!({ "cluster": "gantry", "capacityProviderStrategy": strategy, "networkConfiguration": network });
    assert_has(&run, &RUN, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ec2_with_and_without_a_network_interface_of_its_own() {
    let platform = json!({ "cpuArchitecture": "X86_64", "operatingSystemFamily": "LINUX" });
    let own =
        json!({ "launch_type": "EC2", "subnets": ["subnet-a"], "security_groups": ["sg-a"], "task_role": TASK_ROLE });
    let (definition, run) = sent(own).await;
    let expected = json!({
        "taskRoleArn": TASK_ROLE, "requiresCompatibilities": ["EC2"], "networkMode": "awsvpc", "runtimePlatform": platform,
    });
    assert_has(&definition, &DEFINITION, expected);
    // `assignPublicIp` is Fargate's.
    let network = json!({ "awsvpcConfiguration": { "subnets": ["subnet-a"], "securityGroups": ["sg-a"] } });
    assert_has(&run, &RUN, json!({ "cluster": "gantry", "launchType": "EC2", "networkConfiguration": network }));

    let (definition, run) = sent(json!({ "launch_type": "EC2", "network_mode": "bridge", "subnets": [] })).await;
    let expected = json!({ "requiresCompatibilities": ["EC2"], "networkMode": "bridge", "runtimePlatform": platform });
    assert_has(&definition, &DEFINITION, expected);
    assert_has(&run, &RUN, json!({ "cluster": "gantry", "launchType": "EC2" }));
}
