//! Bad input of every kind, at both doors: each is refused with its code and its field, and makes no job.

use gantry_core::ExecutorType;
use gantry_store::Scope;
use gantry_store::templates::{self, NewTemplate};
use gantry_tests::{Fleet, jobs};
use serde_json::{Value, json};

type Case = (Vec<u8>, &'static str, Option<&'static str>);

fn inline(spec: Value) -> Value {
    jobs::with(json!({ "spec": { "image": "i" } }), json!({ "spec": spec }))
}

fn beside(more: Value) -> Value {
    jobs::with(json!({ "spec": { "image": "i" } }), more)
}

fn cases() -> Vec<Case> {
    let many_labels: serde_json::Map<String, Value> = (0..65).map(|n| (format!("l{n}"), json!("x"))).collect();
    let fields = [
        (json!({}), "spec"),
        (json!({ "spec": null, "template": null }), "spec"),
        (beside(json!({ "template": "t" })), "template"),
        (json!({ "template": "" }), "template"),
        (json!({ "spec": {} }), "spec"),
        (json!({ "spec": "busybox" }), "spec"),
        (inline(json!({ "image": "" })), "spec.image"),
        (inline(json!({ "image": "a b" })), "spec.image"),
        (inline(json!({ "image": "x".repeat(256) })), "spec.image"),
        (inline(json!({ "image": 7 })), "spec.image"),
        (inline(json!({ "imgae": "i" })), "spec.imgae"),
        (inline(json!({ "command": "echo" })), "spec.command"),
        (inline(json!({ "command": ["echo", 1] })), "spec.command[1]"),
        (inline(json!({ "command": ["a", "b\u{0}"] })), "spec.command[1]"),
        (inline(json!({ "entrypoint": ["\u{0}"] })), "spec.entrypoint[0]"),
        (inline(json!({ "working_dir": "tmp" })), "spec.working_dir"),
        (inline(json!({ "working_dir": "/tmp/../etc" })), "spec.working_dir"),
        (inline(json!({ "environment": { "1A": "x" } })), "spec.environment.1A"),
        (inline(json!({ "environment": { "A": "x\u{0}" } })), "spec.environment.A"),
        (inline(json!({ "environment": { "A": 1 } })), "spec.environment.A"),
        (inline(json!({ "environment": { "GANTRY_JOB_ID": "x" } })), "spec.environment.GANTRY_JOB_ID"),
        (inline(json!({ "cpu_limit": 0 })), "spec.cpu_limit"),
        (inline(json!({ "cpu_limit": 10_000 })), "spec.cpu_limit"),
        (inline(json!({ "memory_limit_mb": 5 })), "spec.memory_limit_mb"),
        (inline(json!({ "memory_limit_mb": "64" })), "spec.memory_limit_mb"),
        (inline(json!({ "timeout_seconds": 0 })), "spec.timeout_seconds"),
        (inline(json!({ "timeout_seconds": 604_801 })), "spec.timeout_seconds"),
        (inline(json!({ "timeout_seconds": -1 })), "spec.timeout_seconds"),
        (inline(json!({ "mounts": [{ "source": "etc", "target": "/x" }] })), "spec.mounts[0].source"),
        (inline(json!({ "mounts": [{ "source": "/etc" }] })), "spec.mounts[0]"),
        (inline(json!({ "network": "" })), "spec.network"),
        (inline(json!({ "retry": { "max_attempts": 0 } })), "spec.retry.max_attempts"),
        (inline(json!({ "retry": { "max_attempts": 101 } })), "spec.retry.max_attempts"),
        (inline(json!({ "retry": { "on_failures": ["bad_luck"] } })), "spec.retry.on_failures[0]"),
        (beside(json!({ "nmae": "x" })), "nmae"),
        (beside(json!({ "name": "" })), "name"),
        (beside(json!({ "name": "n\u{0}" })), "name"),
        (beside(json!({ "name": "n".repeat(256) })), "name"),
        (beside(json!({ "idempotency_key": "" })), "idempotency_key"),
        (beside(json!({ "idempotency_key": "k\u{0}" })), "idempotency_key"),
        (beside(json!({ "project": "" })), "project"),
        (beside(json!({ "priority": 101 })), "priority"),
        (beside(json!({ "priority": 1.5 })), "priority"),
        (beside(json!({ "preferred_executor": "lambda" })), "preferred_executor"),
        (beside(json!({ "override_command": ["\u{0}"] })), "override_command[0]"),
        (beside(json!({ "override_environment": { "A-B": "x" } })), "override_environment.A-B"),
        (beside(json!({ "labels": { "a": "\u{0}" } })), "labels.a"),
        (beside(json!({ "labels": { "": "x" } })), "labels"),
        (beside(json!({ "labels": many_labels })), "labels"),
        (beside(json!({ "not_before": "tomorrow" })), "not_before"),
        (beside(json!({ "queue_timeout_seconds": 0 })), "queue_timeout_seconds"),
    ];
    let mut cases: Vec<Case> =
        fields.into_iter().map(|(body, field)| (body.to_string().into_bytes(), "invalid_field", Some(field))).collect();
    let others = [
        (beside(json!({ "version": "2" })), "unsupported_version", Some("version")),
        (beside(json!({ "version": 1 })), "unsupported_version", Some("version")),
        (json!({ "template": "none" }), "unknown_template", Some("template")),
        (json!({ "template": "of globex" }), "unknown_template", Some("template")),
        (beside(json!({ "project": "none" })), "unknown_project", Some("project")),
        (json!({ "template": "no equals sign" }), "invalid_environment", Some("template")),
        (
            json!({ "template": "docker only", "preferred_executor": "mock" }),
            "unsupported_executor",
            Some("preferred_executor"),
        ),
        (inline(json!({ "command": ["x".repeat(65_536)] })), "too_large", Some("spec.command")),
        (inline(json!({ "environment": { "A": "x".repeat(65_536) } })), "too_large", Some("spec.environment")),
        (beside(json!({ "name": "x".repeat(300_000) })), "too_large", None),
        (json!(7), "invalid_field", None),
        (json!("text"), "invalid_field", None),
        (Value::Null, "invalid_field", None),
    ];
    cases.extend(others.into_iter().map(|(body, code, field)| (body.to_string().into_bytes(), code, field)));
    let broken: [&[u8]; 7] =
        [b"", b"{", b"{\"spec\": }", b"nonsense", b"\0", b"\xff\xfe", b"{\"spec\": {\"image\": \"i\"}} and more"];
    cases.extend(broken.map(|body| (body.to_vec(), "invalid_json", None)));
    cases
}

async fn templates(fleet: &Fleet) {
    let globex = fleet.other_tenant("globex").await;
    let of = |tenant, name, environment_text, supported_executors| NewTemplate {
        environment_text,
        supported_executors,
        ..NewTemplate::new(tenant, name, "i", "test")
    };
    let docker = &[ExecutorType::Docker];
    for template in [
        of(fleet.tenant, "no equals sign", "A=1\nB", &[]),
        of(fleet.tenant, "docker only", "", docker),
        of(globex, "of globex", "", &[]),
    ] {
        templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
    }
}

#[tokio::test]
async fn is_refused_at_both_doors_alike() {
    let fleet = Fleet::new().await;
    templates(&fleet).await;
    let _dispatcher = fleet.dispatcher();
    let (_api, client) = fleet.api().await;
    let producer = fleet.producer().await;
    let cases = cases();
    let messages = cases.iter().map(|(body, ..)| {
        let mut message = producer.message(&Value::Null);
        message.body.clone_from(body);
        message
    });
    let answers = producer.ask_all(messages.collect()).await;
    for ((body, code, field), answer) in cases.into_iter().zip(answers) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        assert_eq!(answer["result"], "rejected", "{shown}: {answer}");
        assert_eq!((answer["code"].as_str(), answer["field"].as_str()), (Some(code), field), "{shown}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|message| !message.is_empty()), "{shown}: {answer}");

        let refused = client.post("/v1/jobs", body).await;
        let status = if code == "too_large" { 413 } else { 400 };
        assert_eq!(refused.status, status, "{shown}: {refused:?}");
        assert_eq!(refused.headers["content-type"], "application/problem+json", "{shown}");
        let problem = &refused.body;
        assert_eq!((problem["code"].as_str(), problem["field"].as_str()), (Some(code), field), "{shown}: {problem}");
    }
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 0);
    assert_eq!(fleet.scalar::<i64>("select count(*) from idempotency_keys").await, 0);
}

#[tokio::test]
async fn whoever_has_no_key_is_refused_before_anything_is_read() {
    let fleet = Fleet::new().await;
    let _dispatcher = fleet.dispatcher();
    let (_api, client) = fleet.api().await;
    let producer = fleet.producer().await;
    for key in [None, Some(""), Some("unknown"), Some("the-key-of-acm")] {
        for body in [jobs::mock(&[]), json!({})] {
            let mut message = producer.message(&body);
            message.api_key = key.map(str::to_owned);
            let answer = producer.ask(message).await;
            assert_eq!(answer["code"], "unauthorized", "{answer}");
            let refused = client.with_key(key).post("/v1/jobs", body.to_string()).await;
            assert_eq!((refused.status, refused.body["code"].as_str()), (401, Some("unauthorized")), "{refused:?}");
        }
    }
    let mut unkeyed = producer.message(&jobs::mock(&[]));
    unkeyed.message_id = None;
    let answer = producer.ask(unkeyed).await;
    let expected = (Some("missing_idempotency_key"), Some("idempotency_key"));
    assert_eq!((answer["code"].as_str(), answer["field"].as_str()), expected, "{answer}");
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 0);
}
