//! Executor hosts.

use serde_json::{Value, json};

use crate::support::{Api, job};

fn host(name: &str) -> Value {
    json!({"name": name, "executor_type": "docker", "connection_config": {"endpoint": "unix:///var/run/docker.sock"}})
}

#[tokio::test]
async fn operators_add_hosts_and_others_see_them() {
    let api = Api::start().await;
    let (operator, client) = (api.operator("acme").await, api.tenant("acme").await);
    let other = api.tenant("globex").await;

    assert_eq!(client.post("/v1/hosts", &host("own")).await.problem(), (403, "forbidden", None));
    let created = operator.post("/v1/hosts", &host("own")).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert!(created.body["id"].is_string());
    let mut shared = host("shared");
    shared["shared"] = json!(true);
    shared["cost_per_hour"] = json!("0.25");
    assert_eq!(operator.post("/v1/hosts", &shared).await.status, 201);

    let names = |list: &Value| -> Vec<Value> {
        list["hosts"].as_array().expect("hosts").iter().map(|h| h["name"].clone()).collect()
    };
    assert_eq!(names(&client.get("/v1/hosts").await.body), [json!("own"), json!("shared")]);
    assert_eq!(names(&other.get("/v1/hosts").await.body), [json!("shared")]);

    let seen = |list: Value| list["hosts"][0].clone();
    let by_operator = seen(operator.get("/v1/hosts").await.body);
    assert_eq!(by_operator["connection_config"], json!({"endpoint": "unix:///var/run/docker.sock"}));
    assert_eq!((&by_operator["max_concurrent_jobs"], &by_operator["shared"]), (&json!(10), &json!(false)));
    assert_eq!(seen(client.get("/v1/hosts").await.body).get("connection_config"), None);

    // A job for the new host says what it waits for.
    let id = client.submit(&json!({"spec": {"image": "i"}})).await;
    let job = client.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&job.body["executor_type"], &job.body["waiting_reason"]), (&json!("docker"), &json!("no_worker")));
}

#[tokio::test]
async fn a_taken_name_is_a_conflict() {
    let api = Api::start().await;
    let (acme, globex) = (api.operator("acme").await, api.operator("globex").await);
    assert_eq!(acme.post("/v1/hosts", &host("h")).await.status, 201);
    assert_eq!(acme.post("/v1/hosts", &host("h")).await.problem(), (409, "conflict", Some("name")));
    assert_eq!(globex.post("/v1/hosts", &host("h")).await.status, 201);
}

#[tokio::test]
async fn a_bad_host_is_refused_with_its_field() {
    let api = Api::start().await;
    let operator = api.operator("acme").await;
    let with = |field: &str, value: Value| {
        let mut host = host("h");
        host[field] = value;
        host
    };
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("a\u{0}")),
        ("executor_type", json!("lambda")),
        ("connection_config", json!("x")),
        ("executor_config", json!({"a": ["\u{0}"]})),
        ("max_concurrent_jobs", json!(-1)),
        ("cost_per_job", json!("-1")),
        ("cost_per_job", json!("1000000001")),
        ("cost_per_hour", json!("much")),
        ("shard", json!(true)),
    ] {
        let refused = operator.post("/v1/hosts", &with(field, value)).await;
        assert_eq!(refused.problem(), (400, "invalid_field", Some(field)));
    }
    assert_eq!(operator.post("/v1/hosts", &job()).await.problem().1, "invalid_field");
}
