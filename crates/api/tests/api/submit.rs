//! `POST /v1/jobs`, without keys.

use reqwest::Method;
use reqwest::header::LOCATION;
use serde_json::{Value, json};

use crate::support::{Api, answer, job};

#[tokio::test]
async fn one_job_is_created_and_found_again() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let created = client.post("/v1/jobs", &job()).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.body["existing"], json!(false));
    assert_eq!(created.body["status"], json!("pending"));
    let path = created.headers[LOCATION].to_str().expect("a path").to_owned();
    assert_eq!(path, format!("/v1/jobs/{}", created.body["id"].as_str().expect("an id")));

    let shown = client.get(&path).await;
    assert_eq!(shown.status, 200);
    assert_eq!(shown.body["id"], created.body["id"]);
    assert_eq!(shown.body["name"], json!("busybox"));
    assert_eq!(shown.body["spec"]["image"], json!("busybox"));
    assert_eq!(shown.body["spec"]["timeout_seconds"], json!(3600));
    assert_eq!(shown.body["executor_type"], json!("mock"));
    assert_eq!(shown.body["waiting_reason"], json!("no_host"));
    assert_eq!(shown.body["attempts"], json!([]));
}

#[tokio::test]
async fn the_media_type_does_not_matter() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let request = client.request(Method::POST, "/v1/jobs").body(r#" {"spec": {"image": "i"}} "#);
    assert_eq!(answer(request).await.status, 201);
}

/// Each with the field at fault.
fn bad_submissions() -> Vec<(Value, &'static str, Option<&'static str>)> {
    let invalid = |spec: Value, field| (json!({"spec": spec}), "invalid_field", Some(field));
    vec![
        (json!({}), "invalid_field", Some("spec")),
        (json!(7), "invalid_field", None),
        (json!({"template": "t", "spec": {"image": "i"}}), "invalid_field", Some("template")),
        (json!({"spec": {"image": "i"}, "nmae": "x"}), "invalid_field", Some("nmae")),
        (json!({"spec": {"image": "i"}, "name": "n\u{0}"}), "invalid_field", Some("name")),
        (json!({"spec": {"image": "i"}, "priority": 101}), "invalid_field", Some("priority")),
        (json!({"spec": {"image": "i"}, "preferred_executor": "lambda"}), "invalid_field", Some("preferred_executor")),
        (json!({"spec": {"image": "i"}, "project": "none"}), "unknown_project", Some("project")),
        (json!({"template": "none"}), "unknown_template", Some("template")),
        (json!({"version": "2", "spec": {"image": "i"}}), "unsupported_version", Some("version")),
        (json!({"spec": {"image": "i"}, "queue_timeout_seconds": 0}), "invalid_field", Some("queue_timeout_seconds")),
        invalid(json!({"image": ""}), "spec.image"),
        invalid(json!({"image": "i", "imagee": 1}), "spec.imagee"),
        invalid(json!({"image": "i", "cpu_limit": -1}), "spec.cpu_limit"),
        invalid(json!({"image": "i", "memory_limit_mb": "1"}), "spec.memory_limit_mb"),
        invalid(json!({"image": "i", "command": ["a\u{0}"]}), "spec.command[0]"),
        invalid(json!({"image": "i", "environment": {"GANTRY_X": "1"}}), "spec.environment.GANTRY_X"),
        invalid(json!({"image": "i", "retry": {"max_attempts": 0}}), "spec.retry.max_attempts"),
        (json!({"spec": {"image": "i", "command": ["x".repeat(65_536)]}}), "too_large", Some("spec.command")),
        (json!({"spec": {"image": "i"}, "name": "x".repeat(300_000)}), "too_large", None),
    ]
}

#[tokio::test]
async fn a_bad_submission_is_refused_with_code_and_field() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    for (body, code, field) in bad_submissions() {
        let refused = client.post("/v1/jobs", &body).await;
        let status = if code == "too_large" { 413 } else { 400 };
        assert_eq!(refused.problem(), (status, code, field), "{refused:?}");
    }
    for body in ["", "{", "{\"spec\": }", "[{}", "nonsense", "\u{0}"] {
        let refused = answer(client.request(Method::POST, "/v1/jobs").body(body)).await;
        assert_eq!(refused.problem(), (400, "invalid_json", None), "{body:?}");
    }
    assert_eq!(client.get("/v1/jobs").await.body["jobs"], json!([]));
}

#[tokio::test]
async fn a_bad_item_hurts_only_itself() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let bad = bad_submissions();
    let mut items = vec![job(); 100 - bad.len()];
    for (index, (body, ..)) in bad.iter().enumerate() {
        items.insert(index * 4, body.clone());
    }
    let answer = client.post("/v1/jobs", &Value::Array(items)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.body.as_array().expect("an array");
    assert_eq!(results.len(), 100);
    for (index, result) in results.iter().enumerate() {
        if index % 4 == 0 && index / 4 < bad.len() {
            let (_, code, field) = &bad[index / 4];
            assert_eq!(result["result"], json!("rejected"), "{result}");
            assert_eq!((result["code"].as_str(), result["field"].as_str()), (Some(*code), *field), "{result}");
            assert!(result["status"].as_u64() >= Some(400), "{result}");
        } else {
            assert_eq!(result["result"], json!("accepted"), "{result}");
            assert_eq!(result["existing"], json!(false));
        }
    }
    let listed = client.get("/v1/jobs?limit=500").await;
    assert_eq!(listed.body["jobs"].as_array().map(Vec::len), Some(100 - bad.len()));
}

#[tokio::test]
async fn an_array_has_a_size() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    assert_eq!(client.post("/v1/jobs", &json!([])).await.problem(), (400, "invalid_field", None));
    let many = client.post("/v1/jobs", &Value::Array(vec![job(); 1_001])).await;
    assert_eq!(many.problem(), (413, "too_large", None));
    let most = client.post("/v1/jobs", &Value::Array(vec![job(); 1_000])).await;
    assert_eq!(most.body.as_array().map(Vec::len), Some(1_000));
    let body = vec![b' '; 32 * 1024 * 1024 + 1];
    let large = answer(client.request(Method::POST, "/v1/jobs").body(body)).await;
    assert_eq!(large.problem(), (413, "too_large", None));
}
