//! What is done to many jobs at once, by filter: counted first, done by whichever dispatcher lives, told by each job.

use gantry_testkit::{eventually, eventually_some};
use gantry_tests::{Client, Fleet, PATIENCE, jobs};
use serde_json::{Value, json};

async fn dry(client: &Client, request: &Value) -> Value {
    let answer =
        client.post("/v1/jobs/bulk", jobs::with(request.clone(), json!({ "dry_run": true })).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Starts an operation and waits for its end.
async fn done(client: &Client, request: &Value) -> Value {
    let started = client.post("/v1/jobs/bulk", request.to_string()).await;
    assert_eq!(started.status, 202, "{started:?}");
    let id = started.body["id"].as_str().expect("an id").to_owned();
    eventually_some(PATIENCE, async || {
        let operation = client.get(&format!("/v1/bulk/{id}")).await.body;
        (operation["state"] == "done").then_some(operation)
    })
    .await
}

#[tokio::test]
async fn each_action_does_what_its_dry_run_counts() {
    let (fleet, _parts) = Fleet::simulated(2).await;
    let (_api, client) = fleet.api().await;
    let named = |name: &str, labels: &[(&str, &str)]| jobs::with(jobs::mock(labels), json!({ "name": name }));
    let running = client.submit_all(&vec![named("busy", &[("duration", "1h")]); 2]).await;
    fleet.count_reaches("running", 2).await;
    let team = |team| jobs::with(named("wait", &[]), json!({ "labels": { "team": team } }));
    let (a, b) = (client.submit_all(&vec![team("a"); 30]).await, client.submit_all(&vec![team("b"); 30]).await);

    // Another priority, but for the few that are next.
    let first = json!({ "action": "prioritise", "priority": 50, "filter": { "labels": { "team": "b" } } });
    let counted = dry(&client, &first).await;
    assert_eq!((&counted["matched"], &counted["complete"]), (&json!(30), &json!(true)), "{counted}");
    let operation = done(&client, &first).await;
    let changed = operation["changed"].as_i64().expect("a number");
    assert!(changed >= 26 && operation["matched"] == 30, "{operation}");
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs where priority = 50").await, changed);
    let shown = client.job(*b.last().expect("a job")).await;
    assert_eq!(shown["changes"][0]["detail"], json!({ "from": 0, "to": 50 }), "{shown}");

    // No fargate host: nothing can be moved, and the dry run says why.
    let away = json!({ "action": "move", "executor_type": "fargate", "filter": { "name_prefix": "wait" } });
    let counted = dry(&client, &away).await;
    assert_eq!(counted["changed"], 0, "{counted}");
    assert!(counted["skipped"]["no_host"].as_i64().is_some_and(|jobs| jobs >= 50), "{counted}");

    // An end for those that wait and those that run.
    let waiting = json!({ "action": "cancel", "filter": { "labels": { "team": "a" }, "statuses": ["pending"] } });
    assert_eq!(dry(&client, &waiting).await["changed"], 30);
    assert_eq!(done(&client, &waiting).await["changed"], 30);
    for id in &a {
        assert_eq!(fleet.job(*id).await["status"], "cancelled");
    }
    let busy = json!({ "action": "cancel", "filter": { "name_prefix": "busy", "executor_type": "mock" } });
    assert_eq!(done(&client, &busy).await["changed"], 2);
    for id in &running {
        assert_eq!(fleet.ended(*id).await["status"], "cancelled");
    }
    fleet.all_complete(&b).await;

    // Those that were cancelled, anew: other jobs with the same spec.
    let again = json!({ "action": "retry", "filter": { "labels": { "team": "a" } } });
    assert_eq!(dry(&client, &again).await["changed"], 30);
    assert_eq!(done(&client, &again).await["changed"], 30);
    let old = client.job(a[0]).await;
    assert_eq!(old["status"], "cancelled", "an end is final");
    let new = old["changes"][1]["detail"]["retried_as"].as_str().expect("the new job").parse().expect("an id");
    fleet.all_complete(&[new]).await;
    let new = client.job(new).await;
    assert_eq!((&new["changes"][0]["detail"]["retry_of"], &new["labels"]["team"]), (&json!(a[0]), &json!("a")));
    eventually(PATIENCE, async || {
        fleet.scalar::<i64>("select count(*) from container_jobs where status = 'completed'").await == 60
    })
    .await;
}

#[tokio::test]
async fn what_waits_in_vain_is_moved_to_where_it_runs() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let lost = jobs::with(jobs::mock(&[]), json!({ "preferred_executor": "fargate" }));
    let ids = client.submit_all(&vec![lost; 20]).await;
    let request = json!({ "action": "move", "executor_type": "mock", "filter": { "waiting_reason": "no_host" } });
    assert_eq!(dry(&client, &request).await["changed"], 20);
    assert_eq!(done(&client, &request).await["changed"], 20);
    fleet.all_complete(&ids).await;
    let job = client.job(ids[0]).await;
    assert!(
        job["routing_reason"].as_str().is_some_and(|reason| reason.starts_with("moved from fargate by key:")),
        "{job}"
    );
    let why = client.get(&format!("/v1/jobs/{}/why", ids[0])).await.body;
    assert_eq!(why["changes"][0]["detail"], json!({ "from": "fargate", "to": "mock" }), "{why}");
}

#[tokio::test]
async fn it_goes_on_when_its_dispatcher_dies() {
    let fleet = Fleet::new().await;
    let (_api, client) = fleet.api().await;
    for _ in 0..4 {
        client.submit_all(&vec![jobs::mock(&[]); 500]).await;
    }
    let parts = [fleet.dispatcher(), fleet.dispatcher()];
    let request = json!({ "action": "cancel", "all": true });
    let started = client.post("/v1/jobs/bulk", request.to_string()).await;
    assert_eq!(started.status, 202, "{started:?}");
    eventually(PATIENCE, async || fleet.scalar::<i64>("select max(changed) from bulk_operations").await > 0).await;
    for part in parts {
        part.crash();
    }
    let _dispatcher = fleet.dispatcher();
    fleet.count_reaches("cancelled", 2_000).await;
    let path = format!("/v1/bulk/{}", started.body["id"].as_str().expect("an id"));
    eventually(PATIENCE, async || client.get(&path).await.body["state"] == "done").await;
    let operation = client.get(&path).await.body;
    assert_eq!((&operation["matched"], &operation["changed"]), (&json!(2_000), &json!(2_000)), "{operation}");
    assert_eq!(fleet.scalar::<i64>("select count(*) from bulk_changes").await, 2_000);
    let _recorder = fleet.recorder();
}

#[tokio::test]
async fn what_makes_no_sense_or_is_not_ones_own_is_refused() {
    let fleet = Fleet::new().await;
    fleet.other_tenant("globex").await;
    let (_api, client) = fleet.api().await;
    let stranger = client.with_key(Some("globex"));
    let id = client.submit(&jobs::mock(&[])).await;
    for (request, code, field) in [
        (json!({ "action": "cancel" }), "confirmation_required", "all"),
        (json!({ "action": "prioritise", "all": true }), "invalid_field", "priority"),
        (json!({ "action": "prioritise", "priority": 101, "all": true }), "invalid_field", "priority"),
        (json!({ "action": "cancel", "priority": 1, "all": true }), "invalid_field", "priority"),
        (json!({ "action": "move", "all": true }), "invalid_field", "executor_type"),
        (json!({ "action": "cancel", "filter": { "template": "none" } }), "unknown_template", "filter.template"),
        (json!({ "action": "cancel", "filter": { "project": "none" } }), "unknown_project", "filter.project"),
        (json!({ "action": "cancel", "filter": { "colour": "red" } }), "invalid_field", "filter.colour"),
    ] {
        let refused = client.post("/v1/jobs/bulk", request.to_string()).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!(code)), "{request}: {refused:?}");
        assert_eq!(refused.body["field"], field, "{refused:?}");
    }
    assert_eq!(dry(&stranger, &json!({ "action": "cancel" })).await["matched"], 0, "only one's own");
    let started = stranger.post("/v1/jobs/bulk", r#"{"action": "cancel", "all": true}"#).await.body;
    let path = format!("/v1/bulk/{}", started["id"].as_str().expect("an id"));
    assert_eq!(client.get(&path).await.status, 404);
    assert_eq!(client.post(&format!("{path}/stop"), "").await.status, 404);
    assert_eq!(stranger.post(&format!("{path}/stop"), "").await.body["state"], "stopped");
    assert_eq!(stranger.post(&format!("{path}/stop"), "").await.status, 409);
    assert_eq!(fleet.job(id).await["status"], "pending");
}
