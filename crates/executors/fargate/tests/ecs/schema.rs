//! What is sent and answered, against the models that AWS publishes with its own clients.

use std::collections::HashSet;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use gantry_core::FleetId;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::Outcome;
use gantry_executor_fargate::double::Exchange;
use gantry_worker::executor::{Executor, Found, Launch};
use serde_json::json;

use crate::common::Lab;
use crate::{launch_of, new_definition, python, until_ended};

/// Each request that the executor can send is valid by botocore's own schema, and each answer of the double is what
/// botocore reads, nothing left over.
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
    let exchanges = lab.double.exchanges();
    let mut lines = String::new();
    for Exchange { target, request, status, answer, .. } in &exchanges {
        lines += &json!({ "target": target, "request": request, "status": status, "answer": answer }).to_string();
        lines.push('\n');
    }
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ecs/schema.py");
    let mut check = Command::new(python())
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    check.stdin.take().expect("it was piped").write_all(lines.as_bytes()).expect("python reads");
    let output = check.wait_with_output().expect("python ends");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let operations: HashSet<_> = said.lines().collect();
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
    assert_eq!(operations, HashSet::from(sent), "all that the executor knows was sent");
}
