//! Schedules: what is due becomes jobs that run, once each, whatever becomes of the dispatchers.

use std::time::Instant;

use gantry_store::Scope;
use gantry_store::templates::{self, NewTemplate};
use gantry_testkit::eventually;
use gantry_tests::{Client, Fleet, PATIENCE, jobs, quick};
use reqwest::Method;
use serde_json::{Value, json};

async fn put(client: &Client, name: &str, schedule: Value) {
    let request = client.request(Method::PUT, &format!("/v1/schedules/{name}")).json(&schedule);
    let answer = request.send().await.expect("an answer");
    let (status, body) = (answer.status(), answer.text().await.expect("a body"));
    assert_eq!(status, 201, "{body}");
}

async fn show(client: &Client, name: &str) -> Value {
    let answer = client.get(&format!("/v1/schedules/{name}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

async fn pause(client: &Client, name: &str) {
    assert_eq!(client.post(&format!("/v1/schedules/{name}/pause"), "").await.status, 200);
}

/// Waits until all jobs have ended; none is made any more.
async fn settled(fleet: &Fleet) {
    let open = "select count(*) from container_jobs where status in ('pending', 'running')";
    eventually(PATIENCE, async || fleet.scalar::<i64>(open).await == 0).await;
}

#[tokio::test]
async fn every_second_makes_one_job_though_a_dispatcher_is_killed() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(20).await;
    let first = fleet.dispatcher();
    let _parts = [fleet.dispatcher(), fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let (_api, client) = fleet.api().await;
    let submission = jobs::mock(&[]);
    put(&client, "tick", json!({ "cron": "* * * * * *", "missed": "all", "submission": submission })).await;
    eventually(PATIENCE, async || fleet.count("completed").await >= 2).await;
    first.crash();
    let before = fleet.count("completed").await;
    eventually(PATIENCE, async || fleet.count("completed").await >= before + 4).await;
    pause(&client, "tick").await;
    settled(&fleet).await;

    let seconds = "select extract(epoch from max(due_at) - min(due_at))::bigint + 1 from schedule_runs";
    let runs: i64 = fleet.scalar("select count(*) from schedule_runs where outcome = 'submitted'").await;
    let made: i64 = fleet.scalar("select count(*) from container_jobs where schedule_id is not null").await;
    let ended = i64::try_from(fleet.count("completed").await).expect("few");
    assert_eq!((runs, made, ended), (fleet.scalar(seconds).await, runs, runs), "each second one job, and each ran");

    let list = client.get("/v1/schedules/tick/runs?limit=1").await.body;
    let run = &list["runs"][0];
    let job = client.get(&format!("/v1/jobs/{}", run["job_id"].as_str().expect("a job"))).await.body;
    assert_eq!((&job["name"], &run["job_status"]), (&json!("tick"), &json!("completed")));
    let told = &job["spec"]["environment"];
    assert_eq!((&told["GANTRY_SCHEDULE"], &told["GANTRY_DUE_AT"]), (&json!("tick"), &run["due_at"]), "{job}");
    assert_eq!(
        job["created_by"],
        json!(format!("schedule:{}", show(&client, "tick").await["id"].as_str().expect("an id")))
    );
}

#[tokio::test]
async fn a_thousand_due_at_once_make_a_thousand_jobs() {
    let fleet = Fleet::new().await;
    fleet
        .execute(
            r#"insert into schedules (id, tenant_id, name, cron, time_zone, submission, next_due_at, created_by)
            select gen_random_uuid(), t.id, 's' || n, '0 0 1 1 *', 'UTC',
                '{"spec": {"image": "simulated"}, "preferred_executor": "mock"}', date_trunc('second', now()), 'test'
            from tenants t, generate_series(1, 1000) n where t.name = 'acme'"#,
        )
        .await;
    let began = Instant::now();
    let _dispatchers = [fleet.dispatcher(), fleet.dispatcher(), fleet.dispatcher()];
    let due = "select count(*) from schedules where next_due_at <= now()";
    eventually(PATIENCE, async || fleet.scalar::<i64>(due).await == 0).await;
    println!("all were submitted {:?} after the dispatchers were started", began.elapsed());
    assert_eq!(fleet.count("pending").await, 1_000);
    let distinct = "select count(distinct r.schedule_id) from schedule_runs r
        join container_jobs j on j.id = r.job_id and j.schedule_id = r.schedule_id";
    assert_eq!(fleet.scalar::<i64>(distinct).await, 1_000);
}

#[tokio::test]
async fn queued_jobs_run_one_after_the_other() {
    let (fleet, _parts) = Fleet::simulated(20).await;
    let _second = fleet.dispatcher();
    let (_api, client) = fleet.api().await;
    let submission = jobs::mock(&[("duration", "1500ms")]);
    put(&client, "long", json!({ "cron": "* * * * * *", "overlap": "queue", "submission": submission })).await;
    eventually(PATIENCE, async || fleet.count("completed").await >= 3).await;
    assert!(show(&client, "long").await["waiting"].as_i64() > Some(0), "it is due more often than it can run");
    pause(&client, "long").await;
    settled(&fleet).await;
    let mut runs: Vec<(u64, u64)> = fleet.ledger().runs().map(|run| (run.started_ns, run.planned_end_ns)).collect();
    runs.sort_unstable();
    assert!(runs.len() >= 3 && runs.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{runs:?}");
    // What waits is kept over the pause.
    assert_eq!(client.post("/v1/schedules/long/resume", "").await.status, 200);
    eventually(PATIENCE, async || fleet.count("completed").await > runs.len()).await;
    assert_eq!(client.request(Method::DELETE, "/v1/schedules/long").send().await.expect("an answer").status(), 204);
    settled(&fleet).await;
}

#[tokio::test]
async fn a_template_that_is_gone_is_told_and_stops_no_other() {
    let (fleet, _parts) = Fleet::simulated(5).await;
    let (_api, client) = fleet.api().await;
    let template = NewTemplate::new(fleet.tenant, "t", "simulated", "test");
    templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
    let orphan = json!({ "template": "t", "preferred_executor": "mock" });
    put(&client, "orphan", json!({ "cron": "* * * * * *", "submission": orphan })).await;
    eventually(PATIENCE, async || fleet.count("completed").await >= 1).await;
    pause(&client, "orphan").await;
    settled(&fleet).await;
    fleet.execute("update container_jobs set template = null").await;
    fleet.execute("delete from container_templates").await;
    assert_eq!(client.post("/v1/schedules/orphan/resume", "").await.status, 200);
    put(&client, "healthy", json!({ "cron": "* * * * * *", "submission": jobs::mock(&[]) })).await;
    eventually(PATIENCE, async || show(&client, "orphan").await["last_error"].is_string()).await;
    let made = fleet.count("completed").await;
    eventually(PATIENCE, async || fleet.count("completed").await > made).await;
    let orphan = show(&client, "orphan").await;
    assert!(orphan["last_error"].as_str().is_some_and(|error| error.contains("no template `t`")), "{orphan}");
    assert!(orphan["next_due_at"].is_string(), "it goes on: {orphan}");
    pause(&client, "healthy").await;
    settled(&fleet).await;
}
