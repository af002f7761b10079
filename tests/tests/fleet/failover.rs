//! A place that refuses a job hands it on, and nothing else does.

use std::time::Duration;

use gantry_core::{ExecutorType, JobId};
use gantry_store::templates::{self, NewTemplate};
use gantry_store::{Scope, hosts};
use gantry_testkit::{eventually, eventually_some};
use gantry_tests::{Client, Fleet, PATIENCE, Part, Process, Role, jobs, quick};
use gantry_worker::Settings;
use serde_json::{Value, json};

use ExecutorType::{Cloudrun, Docker, Fargate, Mock, Scaleway};

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// Stores a template that may run in these places, and returns a submission of it with these labels.
async fn template(fleet: &Fleet, supported: &[ExecutorType], labels: &[(&str, &str)]) -> Value {
    let template = NewTemplate {
        supported_executors: supported,
        ..NewTemplate::new(fleet.tenant, "anywhere", "simulated", "test")
    };
    templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
    json!({ "template": "anywhere", "labels": jobs::mock(labels)["labels"] })
}

/// A host of another type with a worker that throttles nobody and waits for nothing.
async fn place(fleet: &Fleet, name: ExecutorType, config: Value) -> Part {
    let host = fleet.host_elsewhere(name, config).await;
    let worker = fleet.worker_elsewhere(name, impatient(), 0);
    fleet.served(host, 1).await;
    worker
}

fn impatient() -> Settings {
    Settings { throttle_patience_seconds: 0, ..quick() }
}

fn refusing(class: &str) -> Value {
    json!({ "fail": class })
}

/// The executor types of a job's attempts, first to last.
async fn went(fleet: &Fleet, id: JobId) -> Vec<String> {
    let hosts = hosts::list(&fleet.store, Scope::Fleet).await.expect("hosts");
    let executor = |attempt: Value| {
        let host = hosts.iter().find(|host| attempt["executor_host_id"] == host.host.id.to_string());
        host.expect("a host").host.executor_type.to_string()
    };
    fleet.attempts(id).await.into_iter().map(executor).collect()
}

async fn trace(client: &Client, id: JobId) -> Vec<Value> {
    client.job(id).await["routing"].as_array().expect("a trace").clone()
}

/// The candidates of a decision that were considered, in order, which are the first `count`. All others are told of,
/// however many there are: nobody named them.
fn considered(decision: &Value, count: usize) -> &[Value] {
    let candidates = decision["candidates"].as_array().expect("candidates");
    let (considered, others) = candidates.split_at(count);
    assert!(others.iter().all(|other| other["verdict"] == "not_named"), "{others:?}");
    considered
}

#[tokio::test]
async fn each_reason_of_a_place_goes_on_at_once_and_is_told() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let _places = [
        place(&fleet, Cloudrun, refusing("no_capacity")).await,
        place(&fleet, Fargate, refusing("throttled")).await,
        place(&fleet, Scaleway, refusing("host_unreachable")).await,
        place(&fleet, Docker, refusing("invalid_spec")).await,
    ];
    let (_api, client) = fleet.api().await;
    let job = template(&fleet, &[Cloudrun, Fargate, Scaleway, Docker, Mock], &[]).await;
    let id = client.submit(&job).await;
    let row = fleet.ended(id).await;
    assert_eq!(
        (&row["status"], &row["attempt"], &row["executor_type"]),
        (&json!("completed"), &json!(5), &json!("mock"))
    );
    assert_eq!(went(&fleet, id).await, ["cloudrun", "fargate", "scaleway", "docker", "mock"]);
    assert_eq!((&row["infrastructure_retries"], &row["user_retries"]), (&json!(4), &json!(0)));
    let attempts = fleet.attempts(id).await;
    let classes: Vec<_> = attempts.iter().map(|attempt| attempt["failure_class"].clone()).collect();
    let refused = ["no_capacity", "throttled", "host_unreachable", "invalid_spec"];
    assert_eq!(classes[..4], refused.map(Value::from));
    assert!(attempts[..4].iter().all(|attempt| attempt["retried_by"] == "infrastructure"));
    assert_eq!(fleet.ledger().starts().len(), 1, "one container in all");
    let reason = row["routing_reason"].as_str().expect("a reason");
    assert!(reason.starts_with("docker refused attempt 4 (invalid_spec: simulated"), "{reason}");

    let trace = trace(&client, id).await;
    let steps: Vec<_> = trace.iter().map(|step| (step["after_attempt"].clone(), step["executor"].clone())).collect();
    let expected = [(0, "cloudrun"), (1, "fargate"), (2, "scaleway"), (3, "docker"), (4, "mock")];
    assert_eq!(steps, expected.map(|(after, executor)| (json!(after), json!(executor))));
    let last = considered(&trace[4], 5);
    let verdicts: Vec<_> = last.iter().map(|candidate| candidate["verdict"].clone()).collect();
    assert_eq!(verdicts, ["refused", "refused", "refused", "unfit", "chosen"].map(Value::from));
    assert!(last[0]["detail"].as_str().is_some_and(|detail| detail.starts_with("attempt 1: no_capacity")), "{last:?}");
    let why = client.get(&format!("/v1/jobs/{id}/why")).await.body;
    let told = why["attempts"][0]["summary"].as_str().expect("a summary");
    assert!(told.ends_with("never launched there, it went on to fargate"), "{told}");
}

#[tokio::test]
async fn when_all_have_refused_it_begins_again_and_the_budget_ends_it() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let _places =
        [place(&fleet, Cloudrun, refusing("no_capacity")).await, place(&fleet, Fargate, refusing("no_capacity")).await];
    // A simulated container is never a surprise: the mock's host is free, and nobody named it.
    let id = fleet.producer().await.submit(&template(&fleet, &[Cloudrun, Fargate], &[]).await).await;
    for round in 1..=2 {
        let parked = eventually_some(PATIENCE, async || {
            let row = fleet.job(id).await;
            (row["attempt"] == 2 * round && row["waiting_reason"] == "retry_backoff").then_some(row)
        })
        .await;
        assert_eq!(parked["executor_type"], "cloudrun", "a round begins at the first");
        fleet.execute("update container_jobs set parked_until = now() where parked_until is not null").await;
    }
    let row = fleet.ended(id).await;
    assert_eq!((&row["status"], &row["failure_class"]), (&json!("failed"), &json!("no_capacity")));
    assert_eq!(went(&fleet, id).await, ["cloudrun", "fargate", "cloudrun", "fargate", "cloudrun", "fargate"]);
    assert_eq!(row["infrastructure_retries"], 5);
    assert!(fleet.ledger().starts().is_empty());
}

#[tokio::test]
async fn without_a_list_a_job_stays_and_what_was_launched_stays_too() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let _places =
        [place(&fleet, Cloudrun, refusing("no_capacity")).await, place(&fleet, Fargate, refusing("lost")).await];
    let (_api, client) = fleet.api().await;
    // Its own wish is for one place alone. The other one's container was launched, and is nowhere to be found.
    let wish = client.submit(&json!({ "preferred_executor": "cloudrun", "spec": { "image": "simulated" } })).await;
    let lost = client.submit(&template(&fleet, &[Fargate, Mock], &[]).await).await;
    for (id, executor, class) in [(wish, "cloudrun", "no_capacity"), (lost, "fargate", "lost")] {
        let row = eventually_some(PATIENCE, async || {
            let row = fleet.job(id).await;
            (row["waiting_reason"] == "retry_backoff").then_some(row)
        })
        .await;
        assert_eq!((&row["executor_type"], &row["failure_class"]), (&json!(executor), &json!(class)));
        assert_eq!(trace(&client, id).await.len(), 1);
        assert_eq!(client.cancel(id).await.status, 200);
    }
}

#[tokio::test]
async fn a_cancel_meets_the_failover_at_any_moment() {
    let (fleet, _parts) = Fleet::simulated(60).await;
    let _places =
        [place(&fleet, Cloudrun, refusing("no_capacity")).await, place(&fleet, Fargate, refusing("no_capacity")).await];
    let (_api, client) = fleet.api().await;
    let job = template(&fleet, &[Cloudrun, Fargate, Mock], &[("duration", "1h")]).await;
    let ids = client.submit_all(&vec![job; 60]).await;
    for (n, id) in ids.iter().enumerate() {
        // Spread over all that becomes of them: the first are hardly dispatched, the last run.
        let wanted = i64::try_from(n / 20).expect("few");
        eventually(PATIENCE, async || {
            let moved = "select count(*) from container_jobs where executor_type <> 'cloudrun' or status = 'cancelled'";
            fleet.scalar::<i64>(moved).await >= 20 * wanted
        })
        .await;
        assert!(matches!(client.cancel(*id).await.status, 200 | 202));
    }
    for id in &ids {
        let row = fleet.ended(*id).await;
        assert_eq!(row["status"], "cancelled", "{row}");
    }
}

/// Before the commit nothing has happened, after it nothing happens twice.
#[tokio::test]
async fn a_recorder_dies_on_either_side_of_the_commit() {
    for side in ["before", "after"] {
        let fleet = Fleet::new().await;
        let host = fleet.mock_host(4).await;
        let point = format!("commit.reports::apply.{side}");
        let mut dying: Process = fleet.process(PART, Role::Recorder, &[("FAILPOINT", &point)]).await;
        let _parts =
            [fleet.dispatcher(), fleet.mock_worker(quick()), place(&fleet, Cloudrun, refusing("throttled")).await];
        fleet.served(host, 1).await;
        let (_api, client) = fleet.api().await;
        let id = client.submit(&template(&fleet, &[Cloudrun, Mock], &[]).await).await;
        eventually(PATIENCE, async || dying.has_ended()).await;
        dying.kill();
        let row = fleet.job(id).await;
        let moved = row["executor_type"] == "mock";
        assert_eq!(moved, side == "after", "{row}");
        let _recorder = fleet.recorder();
        let row = fleet.ended(id).await;
        assert_eq!((&row["status"], &row["infrastructure_retries"]), (&json!("completed"), &json!(1)), "{row}");
        assert_eq!(went(&fleet, id).await, ["cloudrun", "mock"]);
        assert_eq!(trace(&client, id).await.len(), 2);
    }
}

#[tokio::test]
async fn throttling_costs_no_attempt_and_an_adopter_goes_on_with_it() {
    let fleet = Fleet::new().await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let host = fleet.host_elsewhere(Cloudrun, json!({})).await;
    // It is asked again and again, and dies meanwhile.
    let first = fleet.worker_elsewhere(Cloudrun, Settings { throttle_patience_seconds: 600, ..quick() }, 1_000);
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let id = producer.submit(&json!({ "preferred_executor": "cloudrun", "spec": { "image": "simulated" } })).await;
    eventually(PATIENCE, async || fleet.job(id).await["status"] == "running").await;
    tokio::time::sleep(Duration::from_millis(1_200)).await; // It has been throttled more than once.
    assert_eq!(fleet.job(id).await["attempt"], 1);
    first.crash();
    let _second = fleet.worker_elsewhere(Cloudrun, quick(), 2);
    let row = fleet.ended(id).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("completed"), &json!(1)), "{row}");
    assert_eq!(row["infrastructure_retries"], 0);
    assert_eq!(fleet.ledger().starts().len(), 1);
}

#[tokio::test]
async fn an_explanation_is_what_then_happens_and_stores_nothing() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let _place = place(&fleet, Cloudrun, json!({})).await;
    let (_api, client) = fleet.api().await;
    let mut job = template(&fleet, &[Scaleway, Cloudrun, Mock], &[]).await;
    job["concurrency_key"] = json!("nightly");
    job["idempotency_key"] = json!("once");
    let explain = async |body: &Value| client.post("/v1/route/explain", body.to_string()).await;
    let answer = explain(&job).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = answer.body;
    let candidate = |executor, verdict| json!({ "executor": executor, "verdict": verdict });
    let candidates = [candidate("scaleway", "no_host"), candidate("cloudrun", "chosen"), candidate("mock", "later")];
    assert_eq!(considered(&told, 3), candidates);
    assert_eq!(told["candidates"].as_array().map(Vec::len), Some(ExecutorType::ALL.len()));
    assert_eq!((&told["executor_type"], &told["failover"]), (&json!("cloudrun"), &json!(["mock", "scaleway"])));
    let hosts: Vec<_> = told["hosts"].as_array().expect("hosts").iter().map(|host| host["name"].clone()).collect();
    assert_eq!(hosts, ["cloudrun", "mock"].map(Value::from));
    let limit = json!({ "kind": "key", "name": "nightly", "max_running": 1, "running": 0, "waiting": 0 });
    assert_eq!(told["limits"], json!([limit]));
    assert_eq!((&told["waiting"]["reason"], &told["waiting"]["ahead"]["jobs"]), (&json!("dispatching"), &json!(0)));
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 0);
    assert_eq!(fleet.scalar::<i64>("select count(*) from idempotency_keys").await, 0);
    assert_eq!(told["backlog"], Value::Null);
    fleet.execute("update tenants set max_pending = 7").await;
    assert_eq!(explain(&job).await.body["backlog"], json!({ "max_pending": 7, "waiting": 0 }));

    let id = client.submit(&job).await;
    let row = fleet.ended(id).await;
    assert_eq!((&row["routing_reason"], &row["executor_type"]), (&told["reason"], &told["executor_type"]));
    let stored = trace(&client, id).await;
    assert_eq!(stored[0]["candidates"], told["candidates"]);
    let refused = explain(&json!({ "template": "anywhere", "preferred_executor": "fargate" })).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("unsupported_executor")));
    let refused = explain(&json!({ "template": "nowhere" })).await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("unknown_template")));
}
