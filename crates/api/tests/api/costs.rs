//! What jobs cost: of one's own, in days and pages, and of everyone for whoever pays for the hosts.

use serde_json::{Value, json};

use crate::support::{Api, Client, job};
use crate::worker::Worker;

async fn costs(client: &Client, query: &str) -> Value {
    let answer = client.get(&format!("/v1/costs?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[tokio::test]
async fn what_failed_is_told_apart_and_nobody_sees_what_others_pay() {
    let api = Api::start().await;
    let (acme, globex, operator) = (api.tenant("acme").await, api.tenant("globex").await, api.operator("globex").await);
    // A start costs 0.5 and a second 1; each run takes a second and a half.
    let worker = Worker::start_at(&api.fleet, "0.5", "3600").await;
    let mut ids = Vec::new();
    for exit_code in [0, 3] {
        ids.push(acme.submit(&job()).await);
        let running = worker.claim().await;
        worker.end(&running, exit_code).await;
    }

    let shown = acme.get(&format!("/v1/jobs/{}", ids[0])).await.body;
    assert_eq!((&shown["estimated_cost"], &shown["actual_cost"]), (&json!("3600.5"), &json!("2")));
    assert_eq!(shown["attempts"][0]["cost"], json!("2"));

    let both = json!({"runs": 2, "completed": 1, "failed": 1, "untimed": 0, "run_millis": 3_000, "cost": "4",
        "failed_cost": "2", "estimated_cost": "7201"});
    for (by, id, name) in [
        ("executor", Some("mock"), Some("mock")),
        ("template", None, None),
        ("host", Some(""), Some("mock")),
        ("tenant", Some(""), Some("acme")),
    ] {
        let seen = costs(&acme, &format!("by={by}")).await;
        assert_eq!((&seen["by"], seen.get("next")), (&json!(by), None));
        let mut line = seen["costs"][0].clone();
        let fields = line.as_object_mut().expect("a line");
        let (of, named) = (fields.remove("id"), fields.remove("name"));
        assert_eq!((of.is_some(), named), (id.is_some(), name.map(Value::from)), "{by}");
        assert!(id.is_none_or(|id| id.is_empty() || of == Some(json!(id))), "{by}");
        assert_eq!((line, seen["costs"].as_array().map(Vec::len)), (both.clone(), Some(1)), "{by}");
        assert_eq!(costs(&globex, &format!("by={by}")).await["costs"], json!([]), "{by}");
    }
    assert_eq!(costs(&operator, "by=tenant").await["costs"][0]["name"], json!("acme"));
    assert_eq!(costs(&operator, "by=host").await["costs"], json!([]));
    assert_eq!(costs(&operator, "by=host&all_tenants=true").await["costs"][0]["cost"], json!("4"));

    // Pages, the latest first.
    let first = costs(&acme, "by=job&limit=1").await;
    assert_eq!((&first["costs"][0]["id"], &first["costs"][0]["failed"]), (&json!(ids[1]), &json!(1)));
    let next = first["next"].as_str().expect("another page");
    let second = costs(&acme, &format!("by=job&limit=1&after={next}")).await;
    assert_eq!((&second["costs"][0]["id"], second.get("next")), (&json!(ids[0]), None));
    assert_eq!(costs(&acme, "by=job&until=2020-01-01").await["costs"], json!([]));
    let day = costs(&acme, "by=executor&since=2020-01-01&until=2020-01-31").await;
    assert_eq!((&day["since"], &day["costs"]), (&json!("2020-01-01"), &json!([])));
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_said() {
    let api = Api::start().await;
    let (client, operator) = (api.tenant("acme").await, api.operator("acme").await);
    for (query, field) in [
        ("", "by"),
        ("by=year", "by"),
        ("by=job&since=yesterday", "since"),
        ("by=job&since=0001-01-01", "since"),
        ("by=job&until=10000-01-01", "until"),
        ("by=job&since=2026-02-01&until=2026-01-01", "since"),
        ("by=job&after=x", "after"),
        ("by=template&after=x", "after"),
        ("by=tenant&after=%00", "after"),
        ("by=executor&after=lambda", "after"),
        ("by=job&limit=1001", "limit"),
        ("by=host&page=2", "page"),
    ] {
        let refused = client.get(&format!("/v1/costs?{query}")).await;
        assert_eq!(refused.problem(), (400, "invalid_field", Some(field)), "{query}");
    }
    let refused = operator.get("/v1/costs?by=template&all_tenants=true").await;
    assert_eq!(refused.problem(), (400, "invalid_field", Some("all_tenants")));
    assert_eq!(client.get("/v1/costs?by=host&all_tenants=true").await.problem(), (403, "forbidden", None));
    assert_eq!(client.with_key("wrong").get("/v1/costs?by=host").await.status, 401);
}
