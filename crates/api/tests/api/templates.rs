//! Container templates and environment templates.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Client, answer};

async fn put(client: &Client, path: &str, body: &Value) -> Answer {
    answer(client.request(Method::PUT, path).json(body)).await
}

fn report() -> Value {
    json!({
        "description": "The nightly report", "image": "registry.example/report:7", "command": ["report", "--all"],
        "working_dir": "/srv", "environment": { "B": "template" }, "environment_template": "base",
        "cpu_limit": 0.5, "memory_limit_mb": 256, "timeout_seconds": 600, "supported_executors": ["cloudrun", "docker"],
        "retry": { "max_attempts": 3 }, "on_lost": { "action": "retry", "after_seconds": 60 },
    })
}

#[tokio::test]
async fn a_template_is_made_replaced_and_makes_jobs() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let missing = put(&client, "/v1/templates/report", &report()).await;
    assert_eq!(missing.problem(), (400, "unknown_template", Some("environment_template")));

    let base = put(&client, "/v1/environments/base", &json!({ "environment": { "A": "base", "B": "base" } })).await;
    assert_eq!((base.status.as_u16(), &base.body["environment"]["A"]), (201, &json!("base")), "{base:?}");
    let made = put(&client, "/v1/templates/report", &report()).await;
    assert_eq!(made.status, 201, "{made:?}");
    for (key, value) in report().as_object().expect("an object") {
        if !value.is_object() {
            assert_eq!(&made.body[key], value, "{key}");
        }
    }
    assert_eq!((&made.body["retry"]["max_attempts"], &made.body["on_lost"]["action"]), (&json!(3), &json!("retry")));

    let mut changed = report();
    changed["image"] = json!("registry.example/report:8");
    let replaced = put(&client, "/v1/templates/report", &changed).await;
    assert_eq!((replaced.status.as_u16(), &replaced.body["id"]), (200, &made.body["id"]));
    let job = client.post("/v1/jobs", &json!({ "template": "report" })).await;
    let id = job.body["id"].as_str().expect("accepted");
    let shown = client.get(&format!("/v1/jobs/{id}")).await.body;
    let spec = &shown["spec"];
    assert_eq!(
        (&spec["image"], &spec["timeout_seconds"]),
        (&json!("registry.example/report:8"), &json!(600)),
        "{shown}"
    );
    assert_eq!((&spec["environment"]["A"], &spec["environment"]["B"]), (&json!("base"), &json!("template")));
}

#[tokio::test]
async fn a_template_is_checked_as_its_jobs_will_be() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    for (field, value, code) in [
        ("image", json!("has a space"), "invalid_field"),
        ("timeout_seconds", json!(0), "invalid_field"),
        ("memory_limit_mb", json!(1), "invalid_field"),
        ("supported_executors", json!(["docker", "docker"]), "invalid_field"),
        ("supported_executors[0]", json!(null), "invalid_field"),
        ("environment.B", json!("two\nlines"), "invalid_environment"),
        ("colour", json!("red"), "invalid_field"),
    ] {
        let mut body = report();
        match field {
            "environment.B" => body["environment"]["B"] = value,
            "supported_executors[0]" => body["supported_executors"] = json!(["lambda"]),
            field => body[field] = value,
        }
        let refused = put(&client, "/v1/templates/report", &body).await;
        let (status, got, at) = refused.problem();
        assert_eq!((status, got), (400, code), "{field}: {refused:?}");
        assert!(at.is_some(), "{field}: {refused:?}");
    }
    assert_eq!(client.get("/v1/templates/report").await.problem(), (404, "not_found", None));
    let mut body = report();
    body["environment_template"] = json!("a\0");
    let refused = put(&client, "/v1/templates/report", &body).await;
    assert_eq!(refused.problem(), (400, "invalid_field", Some("environment_template")));
    for path in ["/v1/templates/%00", "/v1/templates?after=%00", "/v1/environments?after=%00"] {
        assert_eq!(client.get(path).await.problem().0, 400, "{path}");
    }
    let long = "x".repeat(256);
    assert_eq!(put(&client, &format!("/v1/templates/{long}"), &report()).await.problem().0, 400);
    let bad = json!({ "environment": { "GANTRY_X": "1" } });
    assert_eq!(
        put(&client, "/v1/environments/base", &bad).await.problem(),
        (400, "invalid_environment", Some("environment"))
    );
}

#[tokio::test]
async fn a_tenant_sees_and_uses_only_its_own() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme").await, api.tenant("globex").await);
    let plain = json!({ "image": "i" });
    for name in ["a", "b", "c"] {
        assert_eq!(put(&acme, &format!("/v1/templates/{name}"), &plain).await.status, 201);
    }
    assert_eq!(put(&globex, "/v1/templates/b", &plain).await.status, 201);
    assert_eq!(put(&acme, "/v1/environments/base", &json!({ "environment": {} })).await.status, 201);

    let names = |list: &Value| -> Vec<Value> {
        list["templates"].as_array().expect("a list").iter().map(|template| template["name"].clone()).collect()
    };
    let page = acme.get("/v1/templates?limit=2").await.body;
    assert_eq!((names(&page), &page["next"]), (vec![json!("a"), json!("b")], &json!("b")));
    let page = acme.get("/v1/templates?limit=2&after=b").await.body;
    assert_eq!((names(&page), page.get("next")), (vec![json!("c")], None));
    assert_eq!(names(&globex.get("/v1/templates").await.body), [json!("b")]);
    assert_eq!(globex.get("/v1/environments").await.body["environments"], json!([]));

    let on_anothers = json!({ "image": "i", "environment_template": "base" });
    let refused = put(&globex, "/v1/templates/d", &on_anothers).await;
    assert_eq!(refused.problem(), (400, "unknown_template", Some("environment_template")));
    let job = globex.post("/v1/jobs", &json!({ "template": "a" })).await;
    assert_eq!(job.problem().1, "unknown_template");
}
