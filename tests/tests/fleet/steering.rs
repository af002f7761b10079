//! What an operator does to hosts while jobs run there.

use gantry_core::{HostId, JobId};
use gantry_testkit::eventually;
use gantry_tests::{Client, Fleet, PATIENCE, Part, jobs, quick};
use reqwest::Method;
use serde_json::{Value, json};

/// Two hosts on engines of their own, and what serves them. The second is named by its id: both have one name.
struct Two {
    first: HostId,
    second: HostId,
    operator: Client,
    client: Client,
    _parts: [Part; 4],
}

async fn two(fleet: &Fleet, slots: i32) -> Two {
    let first = fleet.mock_host(slots).await;
    let second = fleet.mock_host_elsewhere(slots).await;
    let (api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    assert_eq!(operator.post(&format!("/v1/hosts/{second}/cordon"), "").await.status, 200);
    let parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick()), api];
    fleet.served(first, 1).await;
    fleet.served(second, 1).await;
    Two { first, second, operator, client, _parts: parts }
}

async fn started(fleet: &Fleet, job: JobId, attempt: usize) {
    eventually(PATIENCE, async || {
        fleet.attempts(job).await.get(attempt - 1).is_some_and(|attempt| !attempt["started_at"].is_null())
    })
    .await;
}

#[tokio::test]
async fn a_drained_host_s_jobs_are_moved() {
    let fleet = Fleet::new().await;
    let Two { first, second, operator, client, .. } = &two(&fleet, 2).await;
    let job = client.submit(&jobs::mock(&[("duration", "3s"), ("stdout", "done\n")])).await;
    let long = client.submit(&jobs::mock(&[("duration", "1h")])).await;
    started(&fleet, job, 1).await;
    started(&fleet, long, 1).await;

    assert_eq!(client.post(&format!("/v1/hosts/{first}/drain"), "{}").await.status, 403, "not everyone may");
    assert_eq!(operator.post(&format!("/v1/hosts/{second}/activate"), "").await.status, 200);
    let answer = operator.post(&format!("/v1/hosts/{first}/drain"), r#"{"move": true}"#).await;
    assert_eq!((answer.status, &answer.body["slots"]), (200, &json!(2)), "{answer:?}");

    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["attempt"], &row["exit_code"]), (&json!("completed"), &json!(2), &json!(0)));
    assert_eq!((&row["user_retries"], &row["infrastructure_retries"]), (&json!(0), &json!(0)), "nobody paid");
    let attempts = fleet.attempts(job).await;
    assert_eq!(
        (&attempts[0]["stop_reason"], &attempts[0]["retried_by"], &attempts[0]["exit_code"]),
        (&json!("drain"), &json!("operator"), &Value::Null)
    );
    assert_eq!(attempts[1]["executor_host_id"], second.to_string());
    eventually(PATIENCE, async || fleet.slots_used(*first).await == 0).await;

    started(&fleet, long, 2).await;
    client.cancel(long).await;
    assert_eq!(fleet.ended(long).await["status"], "cancelled");
}

#[tokio::test]
async fn a_drained_host_s_jobs_run_to_their_end() {
    let fleet = Fleet::new().await;
    let Two { first, second, operator, client, .. } = &two(&fleet, 2).await;
    let job = client.submit(&jobs::mock(&[("duration", "3s")])).await;
    started(&fleet, job, 1).await;
    operator.post(&format!("/v1/hosts/{second}/activate"), "").await;
    assert_eq!(operator.post(&format!("/v1/hosts/{first}/drain"), "").await.status, 200);
    let later = client.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[job, later]).await;
    assert_eq!(fleet.attempts(later).await[0]["executor_host_id"], second.to_string());
    assert_eq!(fleet.attempts(job).await[0]["executor_host_id"], first.to_string());
}

#[tokio::test]
async fn a_limit_below_what_runs_drains_down() {
    let fleet = Fleet::new().await;
    let Two { first, operator, client, .. } = &two(&fleet, 3).await;
    let running = client.submit_all(&vec![jobs::mock(&[("duration", "4s")]); 3]).await;
    for job in &running {
        started(&fleet, *job, 1).await;
    }
    let change = operator.request(Method::PATCH, &format!("/v1/hosts/{first}")).body(r#"{"max_concurrent_jobs": 1}"#);
    assert_eq!(change.send().await.expect("an answer").status(), 200);
    let refused = operator.request(Method::PATCH, &format!("/v1/hosts/{first}")).body(r#"{"max_concurrent_jobs": -1}"#);
    assert_eq!(refused.send().await.expect("an answer").status(), 400);
    let waiting = client.submit_all(&vec![jobs::mock(&[("duration", "300ms")]); 3]).await;
    fleet.all_complete(&[running, waiting.clone()].concat()).await;
    let together: i64 = fleet
        .scalar(
            "select count(*) from container_executions a join container_executions b
             on a.job_id <> b.job_id and a.claimed_at < b.ended_at and b.claimed_at < a.claimed_at
             where a.claimed_at > (select min(ended_at) from container_executions)",
        )
        .await;
    assert_eq!(together, 0, "one after the other, once the first have ended");
}

#[tokio::test]
async fn slots_tell_who_holds_them() {
    let fleet = Fleet::new().await;
    let Two { first, operator, client, .. } = &two(&fleet, 2).await;
    fleet.other_tenant("other").await;
    let job = client.submit(&jobs::with(jobs::mock(&[("duration", "1h")]), json!({ "name": "held" }))).await;
    let theirs = client.with_key(Some("other")).submit(&jobs::mock(&[("duration", "1h")])).await;
    started(&fleet, job, 1).await;
    started(&fleet, theirs, 1).await;
    let held = operator.get(&format!("/v1/slots?host={first}")).await;
    let slots = held.body["slots"].as_array().expect("slots");
    assert_eq!(slots.len(), 1, "another tenant's job is not shown: {held:?}");
    assert_eq!((&slots[0]["job"], &slots[0]["name"]), (&json!(job.to_string()), &json!("held")));
    assert_eq!((&slots[0]["condition"], &slots[0]["stopping"]), (&json!("owned"), &json!(false)));
    assert_eq!(operator.get("/v1/slots?host=nowhere").await.status, 404);
    client.cancel(job).await;
    client.with_key(Some("other")).cancel(theirs).await;
    fleet.count_reaches("cancelled", 2).await;
    assert_eq!(client.get("/v1/slots").await.body["slots"], json!([]));
}
