//! Schedules.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Client, answer, job};

fn nightly() -> Value {
    json!({ "cron": "30 2 * * *", "time_zone": "Europe/Paris", "submission": job() })
}

async fn put(client: &Client, name: &str, body: &Value) -> Answer {
    answer(client.request(Method::PUT, &format!("/v1/schedules/{name}")).json(body)).await
}

fn with(field: &str, value: Value) -> Value {
    let mut body = nightly();
    body[field] = value;
    body
}

#[tokio::test]
async fn a_schedule_is_made_replaced_paused_and_deleted() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let made = put(&client, "nightly", &nightly()).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!((&made.body["missed"], &made.body["overlap"]), (&json!("one"), &json!("allow")));
    assert!(made.body["next_due_at"].is_string() && made.body.get("last_due_at").is_none(), "{made:?}");

    let replaced = put(&client, "nightly", &with("overlap", json!("queue"))).await;
    assert_eq!((replaced.status.as_u16(), &replaced.body["id"]), (200, &made.body["id"]), "{replaced:?}");
    assert_eq!(replaced.body["next_due_at"], made.body["next_due_at"], "the same calendar");
    let moved = put(&client, "nightly", &with("cron", json!("0 4 * * *"))).await;
    assert_ne!(moved.body["next_due_at"], made.body["next_due_at"]);

    let paused = client.post("/v1/schedules/nightly/pause", &json!({})).await;
    assert!(paused.body["paused_at"].is_string() && paused.body.get("next_due_at").is_none(), "{paused:?}");
    let replaced = put(&client, "nightly", &nightly()).await;
    assert!(replaced.body["paused_at"].is_string(), "it stays paused: {replaced:?}");
    let resumed = client.post("/v1/schedules/nightly/resume", &json!({})).await;
    assert_eq!(resumed.body["next_due_at"], made.body["next_due_at"], "{resumed:?}");

    let delete = || answer(client.request(Method::DELETE, "/v1/schedules/nightly"));
    assert_eq!(delete().await.status, 204);
    assert_eq!(delete().await.problem(), (404, "not_found", None));
}

#[tokio::test]
async fn a_trigger_makes_a_job_and_a_run() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    put(&client, "nightly", &nightly()).await;
    client.post("/v1/schedules/nightly/pause", &json!({})).await;
    let accepted = client.post("/v1/schedules/nightly/trigger", &json!({})).await;
    assert_eq!((accepted.status.as_u16(), &accepted.body["status"]), (201, &json!("pending")), "{accepted:?}");
    let again = client.post("/v1/schedules/nightly/trigger", &json!({})).await;
    assert_ne!(again.body["id"], accepted.body["id"]);

    let page = client.get("/v1/schedules/nightly/runs?limit=1").await.body;
    let (run, next) = (&page["runs"][0], page["next"].as_str().expect("there is another"));
    assert_eq!((&run["job_id"], &run["outcome"]), (&again.body["id"], &json!("submitted")));
    assert!(run["triggered_by"].as_str().is_some_and(|by| by.starts_with("key:")), "{run}");
    let page = client.get(&format!("/v1/schedules/nightly/runs?before={next}")).await.body;
    assert_eq!((&page["runs"][0]["job_id"], page.get("next")), (&accepted.body["id"], None));
    let shown = client.get("/v1/schedules/nightly").await.body;
    assert_eq!((&shown["last_job_id"], &shown["last_job_status"]), (&again.body["id"], &json!("pending")));
    let id = accepted.body["id"].as_str().expect("an id");
    assert_eq!(client.get(&format!("/v1/jobs/{id}")).await.body["name"], "nightly");
}

#[tokio::test]
async fn a_tenant_sees_and_changes_only_its_own() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme").await, api.tenant("globex").await);
    for name in ["a", "b", "c"] {
        assert_eq!(put(&acme, name, &nightly()).await.status, 201);
    }
    assert_eq!(put(&globex, "a", &nightly()).await.status, 201);
    let names = |list: &Value| -> Vec<Value> {
        list["schedules"].as_array().expect("schedules").iter().map(|schedule| schedule["name"].clone()).collect()
    };
    let page = acme.get("/v1/schedules?limit=2").await.body;
    assert_eq!((names(&page), &page["next"]), (vec![json!("a"), json!("b")], &json!("b")));
    assert_eq!(names(&acme.get("/v1/schedules?after=b").await.body), [json!("c")]);
    assert_eq!(names(&globex.get("/v1/schedules").await.body), [json!("a")]);
    for (method, path) in [
        (Method::GET, "/v1/schedules/b"),
        (Method::GET, "/v1/schedules/b/runs"),
        (Method::POST, "/v1/schedules/b/pause"),
        (Method::POST, "/v1/schedules/b/resume"),
        (Method::POST, "/v1/schedules/b/trigger"),
        (Method::DELETE, "/v1/schedules/b"),
    ] {
        assert_eq!(answer(globex.request(method, path)).await.problem(), (404, "not_found", None), "{path}");
    }
    assert_eq!(answer(globex.request(Method::DELETE, "/v1/schedules/a")).await.status, 204);
    assert_eq!(acme.get("/v1/schedules/a").await.status, 200);
}

#[tokio::test]
async fn a_bad_schedule_is_refused_with_its_field() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let submission = |field: &str, value: Value| {
        let mut submission = job();
        submission[field] = value;
        with("submission", submission)
    };
    for (body, code, field) in [
        (with("cron", json!("61 * * * *")), "invalid_field", "cron"),
        (with("cron", json!("0 0 30 2 *")), "invalid_field", "cron"),
        (with("time_zone", json!("Berlin")), "invalid_field", "time_zone"),
        (with("missed", json!("never")), "invalid_field", "missed"),
        (with("overlap", json!("maybe")), "invalid_field", "overlap"),
        (with("crown", json!("0 0 * * *")), "invalid_field", "crown"),
        (with("submission", json!({})), "invalid_field", "submission.spec"),
        (with("submission", json!({ "template": "t" })), "unknown_template", "submission.template"),
        (submission("project", json!("p")), "unknown_project", "submission.project"),
        (submission("priority", json!(101)), "invalid_field", "submission.priority"),
        (submission("not_before", json!("2030-01-01T00:00:00Z")), "invalid_field", "submission.not_before"),
        (submission("idempotency_key", json!("k")), "invalid_field", "submission.idempotency_key"),
        (submission("name", json!("a\u{0}")), "invalid_field", "submission.name"),
    ] {
        let refused = put(&client, "nightly", &body).await;
        assert_eq!(refused.problem(), (400, code, Some(field)), "{body}");
    }
    assert_eq!(put(&client, &"n".repeat(256), &nightly()).await.problem(), (400, "invalid_field", Some("name")));
    assert_eq!(put(&client, "a%00", &nightly()).await.problem().0, 400);
    let refused = put(&client, "nightly", &with("time_zone", json!("Berlin"))).await;
    assert!(refused.body["detail"].as_str().is_some_and(|text| text.contains("Europe/Berlin")), "{refused:?}");
    assert_eq!(client.get("/v1/schedules").await.body["schedules"], json!([]));
}
