//! Everything at a glance: of one's own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Api, Client, job};
use crate::worker::Worker;

async fn see(client: &Client) -> Value {
    let answer = client.get("/v1/overview").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[tokio::test]
async fn each_tenant_sees_its_own_jobs_and_the_hosts_that_it_may_use() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme").await, api.tenant("globex").await);
    acme.submit(&job()).await;
    let nobody = see(&acme).await;
    assert_eq!(nobody["backlog"], json!([{"executor_type": "mock", "reason": "no_host", "jobs": 1, "more": false}]));
    assert_eq!((&nobody["hosts"], &nobody["running"], &nobody["recent"]), (&json!([]), &json!([]), &json!([])));

    let worker = Worker::start(&api.fleet).await;
    let mut running = worker.claim().await;
    worker.log(&mut running, &[]).await;
    for _ in 0..2 {
        acme.submit(&job()).await;
    }
    let later = json!({"spec": {"image": "i"}, "preferred_executor": "mock", "not_before": "2999-01-01T00:00:00Z"});
    acme.submit(&later).await;

    let seen = see(&acme).await;
    assert_eq!(
        seen["backlog"],
        json!([
            {"executor_type": "mock", "reason": "dispatching", "jobs": 2, "more": false},
            {"executor_type": "mock", "reason": "not_before", "jobs": 1, "more": false},
        ])
    );
    assert_eq!(seen["running"], json!([{"executor_type": "mock", "jobs": 1, "starting": 1}]));
    let host = &seen["hosts"][0];
    assert_eq!(host.get("connection_config"), None);
    for (field, value) in [
        ("max_concurrent_jobs", json!(10)),
        ("current_job_count", json!(1)),
        ("available_slots", json!(9)),
        ("utilization_percent", json!(10.0)),
        ("condition", json!("ready")),
    ] {
        assert_eq!(host[field], value, "{field}");
    }

    // The host is shared, and what runs there is not told.
    let others = see(&globex).await;
    assert_eq!((&others["backlog"], &others["running"]), (&json!([]), &json!([])));
    assert_eq!(others["hosts"][0]["current_job_count"], json!(1));

    worker.end(&running, 3).await;
    let seen = see(&acme).await;
    let end = &seen["recent"][0];
    assert_eq!((&end["id"], &end["status"]), (&json!(running.id()), &json!("failed")));
    assert_eq!(
        (&end["failure_class"], &end["exit_code"], &end["host"]),
        (&json!("exit_nonzero"), &json!(3), &json!("mock"))
    );
    let rate = |pointer: &str| seen.pointer(pointer).and_then(Value::as_f64).expect("a rate");
    assert_eq!(rate("/rates/minute/failed_per_second"), 0.017);
    assert_eq!(rate("/rates/five_minutes/failed_per_second"), 0.003);
    assert_eq!((rate("/rates/minute/completed_per_second"), seen["running"].as_array().map(Vec::len)), (0.0, Some(0)));
    let others = see(&globex).await;
    assert_eq!((&others["recent"], &others["rates"]["minute"]["failed_per_second"]), (&json!([]), &json!(0.0)));
}

#[tokio::test]
async fn a_long_backlog_is_counted_so_far_and_no_further() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme").await, api.tenant("globex").await);
    for client in [&acme, &globex] {
        for _ in 0..11 {
            let many: Vec<Value> = (0..1_000).map(|_| job()).collect();
            assert!(client.post("/v1/jobs", &json!(many)).await.status.is_success());
        }
    }
    let began = Instant::now();
    let seen = see(&acme).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(seen["backlog"], json!([{"executor_type": "mock", "reason": "no_host", "jobs": 10_000, "more": true}]));
}
