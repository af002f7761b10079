//! What is sent and answered, against the models that AWS publishes with its own clients. Every [`Lab`] is held to them
//! when it is done with; here is that nothing is left out, and that the check can fail.

use std::collections::HashSet;
use std::time::Duration;

use gantry_core::FleetId;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::Outcome;
use gantry_executor_fargate::double::Exchange;
use gantry_worker::executor::{Executor, Found, Launch};
use serde_json::{Value, json};

use crate::common::schema::check;
use crate::common::{Lab, sh};
use crate::{launch_of, new_definition, of, until_ended};

/// Each request that the executor can send is valid by botocore's own schema, and so is each answer of the double.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_is_valid_by_botocores_schema() {
    let lab = Lab::new().await;
    let executor = lab.executor();
    let rich: ResolvedSpec = serde_json::from_value(json!({
        "image": std::env::var("GANTRY_TEST_IMAGE").expect("the servers set it"),
        "entrypoint": ["sh", "-c"], "command": ["echo hello; exit 3"], "working_dir": new_definition().container.working_dir, "user": "root",
        "environment": { "A": "b" }, "cpu_limit": 0.5, "memory_limit_mb": 600, "labels": { "team": "x", "bad#": "y" },
    }))
    .expect("a spec");
    let vpc = json!({
        "security_groups": ["sg-1"], "assign_public_ip": true, "platform_version": "1.4.0", "ephemeral_storage_gib": 30,
    });
    let ec2 = json!({ "launch_type": "EC2", "network_mode": "host", "subnets": [] });
    let fleet = FleetId::new();
    for config in [json!({}), vpc, json!({ "launch_type": "FARGATE_SPOT" }), ec2] {
        let host = lab.host_with(json!({}), config);
        executor.check(&host).await.expect("answers");
        let launch = Launch { fleet, ..launch_of(rich.clone()) };
        executor.prepare(&host, &launch.spec).await.expect("prepares");
        let id = executor.launch(&host, &launch).await.expect("launches");
        assert_eq!(until_ended(&executor, &host, &id).await.outcome, Outcome::Exited(3));
        let page = executor.logs(&host, &id, None, 4_096).await.expect("reads");
        let text: Vec<u8> = page.chunks.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(String::from_utf8_lossy(&text), "hello\n");
        executor.logs(&host, &id, page.cursor.as_ref(), 4_096).await.expect("reads on");
        assert_eq!(lab.executor().find(&host, &launch.name).await, Found::Found(id.clone()));
        assert_eq!(executor.list_owned(&host, fleet).await.expect("lists").len(), 1);
        lab.executor().stop(&host, &id, Duration::ZERO).await.expect("stops");
        executor.remove(&host, &id).await.expect("removes");
    }
    let operations = check(&lab.double.exchanges()).unwrap_or_else(|said| panic!("{said}"));
    let sent = [
        "DescribeClusters",
        "DescribeTaskDefinition",
        "RegisterTaskDefinition",
        "RunTask",
        "DescribeTasks",
        "ListTasks",
        "StopTask",
        "GetLogEvents",
    ];
    let operations: HashSet<_> = operations.iter().map(String::as_str).collect();
    assert_eq!(operations, HashSet::from(sent), "all that the executor knows was sent");
}

/// A member that nobody knows and a value of another type are seen, on both sides and in errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_body_is_seen() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    // With a definition of its own, which is asked for in vain.
    let mut printing = sh("echo hello");
    printing.container.working_dir = new_definition().container.working_dir;
    let id = executor.launch(&host, &launch_of(printing)).await.expect("launches");
    until_ended(&executor, &host, &id).await;
    executor.logs(&host, &id, None, 4_096).await.expect("reads");
    let exchanges = lab.double.exchanges();
    let last = |operation: &str, is_ok: bool| {
        let found = of(&exchanges, operation).into_iter().rfind(|exchange| (exchange.status < 300) == is_ok);
        found.unwrap_or_else(|| panic!("{operation} was sent")).clone()
    };
    let (run, described) = (last("RunTask", true), last("DescribeTasks", true));
    let (refused, logs) = (last("DescribeTaskDefinition", false), last("GetLogEvents", true));
    check(&[run.clone(), described.clone(), refused.clone(), logs.clone()]).unwrap_or_else(|said| panic!("{said}"));
    let is_seen = |exchange: &Exchange, change: fn(&mut Value, &mut Value), said: &str| {
        let mut wrong = exchange.clone();
        change(&mut wrong.request, &mut wrong.answer);
        let seen = check(&[wrong]).expect_err(said);
        assert!(seen.contains(said), "{said}: {seen}");
    };
    is_seen(&run, |request, _| request["nonsense"] = json!(1), "nonsense");
    is_seen(&run, |request, _| request["count"] = json!("1"), "count");
    is_seen(&run, |request, _| request["taskDefinition"] = Value::Null, "taskDefinition");
    is_seen(&run, |request, _| request["overrides"]["containerOverrides"][0]["nonsense"] = json!(1), "nonsense");
    is_seen(&described, |_, answer| answer["nonsense"] = json!(1), "nonsense");
    is_seen(&described, |_, answer| answer["tasks"][0]["containers"][0]["nonsense"] = Value::Null, "nonsense");
    is_seen(&described, |_, answer| answer["tasks"][0]["containers"][0]["exitCode"] = json!("0"), "exitCode");
    is_seen(&described, |_, answer| answer["tasks"][0]["startedAt"] = json!("soon"), "soon");
    is_seen(&logs, |_, answer| answer["events"] = json!([{ "message": "m", "nonsense": 1 }]), "nonsense");
    is_seen(&refused, |_, answer| answer["nonsense"] = json!(1), "nonsense");
    is_seen(&refused, |_, answer| answer["__type"] = json!("NoSuchException"), "NoSuchException");

    let mut throttled = refused.clone();
    throttled.answer = json!({ "__type": "ThrottlingException", "message": "Rate exceeded" });
    check(std::slice::from_ref(&throttled)).unwrap_or_else(|said| panic!("AWS' common errors are errors: {said}"));
    is_seen(&throttled, |_, answer| answer["nonsense"] = json!(1), "nonsense");
    is_seen(&throttled, |_, answer| answer["message"] = json!(1), "message");
    throttled.status = 503;
    is_seen(&throttled, |_, _| {}, "503 ThrottlingException");
}
