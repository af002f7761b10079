//! The whole path of a job, by both doors.

use gantry_core::ExecutorType;
use gantry_store::Scope;
use gantry_store::templates::{self, NewTemplate};
use gantry_testkit::{TestDocker, eventually};
use gantry_tests::{Fleet, PATIENCE, Received, jobs};
use serde_json::{Value, json};

const EXAMPLE: &str = include_str!("../../../docs/contracts/examples/submission.json");
const EVENT_SCHEMA: &str = include_str!("../../../docs/contracts/event.schema.json");

fn is_terminal(event: &Received) -> bool {
    ["completed", "failed", "timeout", "cancelled"].iter().any(|end| event.routing_key.contains(&format!(".{end}.")))
}

/// The example of the contract, as it stands there.
#[tokio::test]
async fn by_amqp() {
    let fleet = Fleet::new().await;
    let host = fleet.docker_host(4).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.docker_worker()];
    fleet.served(host, 1).await;
    let events = fleet.amqp.tap("gantry.events", "#").await;
    let producer = fleet.producer().await;

    let mut message = producer.message(&Value::Null);
    message.body = EXAMPLE.into();
    message.message_id = None;
    let answer = producer.ask(message).await;
    assert_eq!((&answer["result"], &answer["existing"]), (&json!("accepted"), &json!(false)), "{answer}");
    let id = answer["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");

    let job = fleet.ended(id).await;
    assert_eq!((&job["status"], &job["exit_code"]), (&json!("completed"), &json!(0)), "{job}");
    assert_eq!((&job["name"], &job["idempotency_key"]), (&json!("hello"), &json!("hello-2026-11-20-0001")));
    let attempts = fleet.attempts(id).await;
    let [attempt] = &attempts[..] else { panic!("one attempt: {attempts:?}") };
    assert_eq!(attempt["exit_code"], 0);
    assert_eq!(attempt["stdout_log"], "hello\n");
    assert_eq!(attempt["clean_output"], "hello\n");
    assert_eq!(attempt["slot_held"], false);
    assert_eq!(attempt["execution_id"], job["execution_id"]);
    for moment in ["launch_sent_at", "started_at", "ended_at"] {
        assert!(attempt[moment].is_string(), "{moment}: {attempt}");
    }
    assert_eq!(fleet.log(id, 1, "stdout").await, b"hello\n");
    assert_eq!(fleet.slots_used(host).await, 0);

    // The worker removes the container once it has seen that the row moved on.
    eventually(PATIENCE, async || fleet.containers().await.is_empty()).await;
    let ends: Vec<Received> = events.received().into_iter().filter(is_terminal).collect();
    let [end] = &ends[..] else { panic!("one terminal event: {ends:?}") };
    assert_eq!(end.routing_key, format!("job.completed.docker.{}", fleet.tenant));
    assert_eq!(end.content_type.as_deref(), Some("application/cloudevents+json"));
    let event = end.json();
    let schema = serde_json::from_str(EVENT_SCHEMA).expect("JSON");
    jsonschema::validate(&schema, &event).unwrap_or_else(|error| panic!("{error}: {event}"));
    assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("gantry.job.completed")));
    assert_eq!(event["subject"], json!(id));
    assert_eq!((&event["data"]["exit_code"], &event["data"]["status"]), (&json!(0), &json!("completed")));
}

#[tokio::test]
async fn by_http_and_waited_for() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let (_api, client) = fleet.api().await;
    let id = client.submit(&jobs::docker("echo out; echo err >&2; sleep 1")).await;
    let answer = client.get(&format!("/v1/jobs/{id}?wait=30s")).await;
    assert_eq!(answer.status, 200);
    let job = answer.body;
    assert_eq!((&job["status"], &job["exit_code"]), (&json!("completed"), &json!(0)), "{job}");
    assert_eq!(job["host"], "docker");
    assert_eq!(job["attempts"][0]["clean_output"], "out\n");
    assert!(job["attempts"][0]["run_millis"].as_u64() >= Some(900), "{job}");
    let log = client.get(&format!("/v1/jobs/{id}/logs")).await.body.to_string();
    assert!(log.contains("stdout") && log.contains("stderr"), "{log}");
    assert_eq!(fleet.log(id, 1, "stderr").await, b"err\n");
}

#[tokio::test]
async fn what_gantry_tells_the_container() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let body = jobs::with(
        jobs::docker("env"),
        json!({ "override_environment": { "OWN": "a=b c" }, "spec": { "timeout_seconds": 77 } }),
    );
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut message = producer.message(&body);
    message.traceparent = Some(format!("00-{trace}-b7ad6b7169203331-01"));
    let answer = producer.ask(message).await;
    let id = answer["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    let job = fleet.ended(id).await;
    assert_eq!(job["status"], "completed", "{job}");
    let printed = String::from_utf8(fleet.log(id, 1, "stdout").await).expect("text");
    let has = |line: String| assert!(printed.lines().any(|printed| printed == line), "no {line} in\n{printed}");
    has(format!("GANTRY_JOB_ID={id}"));
    has("GANTRY_ATTEMPT=1".into());
    has("GANTRY_TIMEOUT_SECONDS=77".into());
    has("OWN=a=b c".into());
    let context = printed.lines().find_map(|line| line.strip_prefix("TRACEPARENT=")).expect("a trace context");
    assert_eq!(context.split('-').nth(1), Some(trace), "{context}");
}

/// Environment template, then template, then job: later layers win.
#[tokio::test]
async fn a_template_with_all_its_layers() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let environment = "A=environment\nB=environment\nC=environment";
    templates::put_environment(&fleet.store, Scope::Fleet, fleet.tenant, "base", environment, "test")
        .await
        .expect("stored");
    let (docker, command) = (TestDocker::find(), ["sh", "-c", "echo template"].map(str::to_owned));
    let template = NewTemplate {
        command: Some(&command),
        environment_text: "# of the template\nB=template\nC=template",
        environment_template: Some("base"),
        timeout_seconds: 55,
        supported_executors: &[ExecutorType::Docker],
        ..NewTemplate::new(fleet.tenant, "report", docker.image(), "test")
    };
    templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
    let producer = fleet.producer().await;
    let plain = json!({ "template": "report" });
    let overridden = json!({
        "template": "report",
        "override_command": ["sh", "-c", "echo $A $B $C $GANTRY_TIMEOUT_SECONDS"],
        "override_environment": { "C": "job" },
    });
    let ids = producer.submit_all(&[plain, overridden]).await;
    fleet.all_complete(&ids).await;
    assert_eq!(fleet.log(ids[0], 1, "stdout").await, b"template\n");
    assert_eq!(fleet.log(ids[1], 1, "stdout").await, b"environment template job 55\n");
    let job = fleet.job(ids[1]).await;
    assert_eq!((&job["name"], &job["executor_type"]), (&json!("report"), &json!("docker")));
    assert_eq!(job["override_environment"], json!({ "C": "job" }));
    assert!(job["template"].is_string() && job["override_command"].is_array(), "{job}");
}
