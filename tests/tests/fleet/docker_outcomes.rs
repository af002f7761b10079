//! Every way in which a real container can end, and what its rows then say.

use gantry_core::JobId;
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, jobs};
use serde_json::{Value, json};

/// Waits for the end of a job with one attempt, and for its container to be gone.
async fn end_of(fleet: &Fleet, id: JobId) -> (Value, Value) {
    let job = fleet.ended(id).await;
    let attempts = fleet.attempts(id).await;
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    eventually(PATIENCE, async || fleet.containers().await.is_empty()).await;
    (job, attempts.into_iter().next().expect("one"))
}

fn failed(status: &str, class: &str, exit_code: Value) -> (Value, Value, Value) {
    (json!(status), json!(class), exit_code)
}

fn outcome(row: &Value) -> (Value, Value, Value) {
    (row["status"].clone(), row["failure_class"].clone(), row["exit_code"].clone())
}

#[tokio::test]
async fn an_exit_code_of_its_own() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let id = fleet.producer().await.submit(&jobs::docker("echo why >&2; exit 3")).await;
    let (job, attempt) = end_of(&fleet, id).await;
    assert_eq!(outcome(&job), failed("failed", "exit_nonzero", json!(3)), "{job}");
    assert_eq!((&attempt["failure_class"], &attempt["exit_code"]), (&json!("exit_nonzero"), &json!(3)));
    assert_eq!(attempt["stderr_log"], "why\n");
    assert!(job["error_message"].as_str().is_some_and(|message| message.contains('3')), "{job}");
}

#[tokio::test]
async fn killed_at_its_memory_limit() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let eat = jobs::docker(r#"exec awk 'BEGIN { s = "x"; while (1) s = s s }'"#);
    let id = fleet.producer().await.submit(&jobs::with(eat, json!({ "spec": { "memory_limit_mb": 16 } }))).await;
    let (job, attempt) = end_of(&fleet, id).await;
    assert_eq!(outcome(&job), failed("failed", "oom_killed", json!(137)), "{job}");
    assert_eq!(attempt["failure_class"], "oom_killed");
}

#[tokio::test]
async fn longer_than_its_timeout() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let body = jobs::with(jobs::docker("echo begun; sleep 300"), json!({ "spec": { "timeout_seconds": 1 } }));
    let id = fleet.producer().await.submit(&body).await;
    let (job, attempt) = end_of(&fleet, id).await;
    assert_eq!((&job["status"], &job["failure_class"]), (&json!("timeout"), &json!("timeout")), "{job}");
    assert_eq!(attempt["stop_reason"], "timeout");
    assert_eq!(attempt["stdout_log"], "begun\n");
    let ran = attempt["run_millis"].as_u64().expect("it ran");
    assert!((1_000..20_000).contains(&ran), "{ran}");
}

#[tokio::test]
async fn cancelled_while_it_runs() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let (_api, client) = fleet.api().await;
    // Ends well when it is asked to, and is cancelled all the same.
    let id =
        client.submit(&jobs::docker("trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.1; done")).await;
    eventually(PATIENCE, async || fleet.log(id, 1, "stdout").await == b"begun\n").await;
    let answer = client.cancel(id).await;
    assert_eq!((answer.status, &answer.body["result"]), (202, &json!("requested")), "{answer:?}");
    let (job, attempt) = end_of(&fleet, id).await;
    assert_eq!((&job["status"], &job["failure_class"]), (&json!("cancelled"), &json!("cancelled")), "{job}");
    assert_eq!(attempt["stop_reason"], "cancel");
    assert_eq!(attempt["stdout_log"], "begun\nbye\n", "it had its grace");
    assert_eq!(client.cancel(id).await.status, 409, "it has ended");
}

#[tokio::test]
async fn cancelled_before_it_runs() {
    let fleet = Fleet::new().await;
    let host = fleet.docker_host(1).await;
    let (_dispatcher, _recorder) = (fleet.dispatcher(), fleet.recorder());
    let (_api, client) = fleet.api().await;
    let id = client.submit(&jobs::docker("echo never")).await;
    let answer = client.cancel(id).await;
    assert_eq!((answer.status, &answer.body["result"]), (200, &json!("cancelled")), "{answer:?}");
    assert_eq!(outcome(&fleet.job(id).await), failed("cancelled", "cancelled", Value::Null));
    let _worker = fleet.docker_worker();
    fleet.served(host, 1).await;
    let next = client.submit(&jobs::docker("echo next")).await;
    fleet.all_complete(&[next]).await;
    assert!(fleet.attempts(id).await.is_empty(), "it never ran");
}

#[tokio::test]
async fn what_cannot_start() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let missing = jobs::with(jobs::docker("true"), json!({ "spec": { "image": "gantry/no-such-image:1" } }));
    let no_program = jobs::with(jobs::docker(""), json!({ "spec": { "command": ["/no/such/program"] } }));
    let mount = json!({ "spec": { "mounts": [{ "source": "/etc", "target": "/x" }] } });
    let forbidden = jobs::with(jobs::docker("true"), mount);
    let ids = producer.submit_all(&[missing, no_program, forbidden]).await;
    for (id, class) in ids.into_iter().zip(["image_not_found", "launch_rejected", "invalid_spec"]) {
        let job = fleet.ended(id).await;
        assert_eq!(outcome(&job), failed("failed", class, Value::Null), "{job}");
        let attempts = fleet.attempts(id).await;
        assert_eq!(attempts.len(), 1, "the same again would fail the same");
        assert_eq!(attempts[0]["failure_class"], class);
    }
    eventually(PATIENCE, async || fleet.containers().await.is_empty()).await;
}

#[tokio::test]
async fn tried_again_as_its_policy_says() {
    let (fleet, _parts) = Fleet::docker(4).await;
    let producer = fleet.producer().await;
    let policy = json!({ "spec": { "retry": { "max_attempts": 2, "backoff_seconds": 0, "on_exit_codes": [75] } } });
    let of = |script| jobs::with(jobs::docker(script), policy.clone());
    let bodies =
        [of("echo attempt $GANTRY_ATTEMPT; exit 75"), of("exit $((GANTRY_ATTEMPT == 1 ? 75 : 0))"), of("exit 74")];
    let ids = producer.submit_all(&bodies).await;

    assert_eq!(outcome(&fleet.ended(ids[0]).await), failed("failed", "exit_nonzero", json!(75)));
    let attempts = fleet.attempts(ids[0]).await;
    assert_eq!(attempts.len(), 2);
    for (attempt, number) in attempts.iter().zip(1..) {
        assert_eq!(attempt["attempt"], number);
        assert_eq!(attempt["stdout_log"], json!(format!("attempt {number}\n")));
        assert_eq!((&attempt["exit_code"], &attempt["failure_class"]), (&json!(75), &json!("exit_nonzero")));
    }
    assert_eq!((&attempts[0]["retried_by"], &attempts[1]["retried_by"]), (&json!("user"), &Value::Null));
    assert_ne!(attempts[0]["external_name"], attempts[1]["external_name"]);

    assert_eq!(outcome(&fleet.ended(ids[1]).await), (json!("completed"), Value::Null, json!(0)));
    assert_eq!(fleet.attempts(ids[1]).await.len(), 2);

    assert_eq!(outcome(&fleet.ended(ids[2]).await), failed("failed", "exit_nonzero", json!(74)));
    assert_eq!(fleet.attempts(ids[2]).await.len(), 1, "not one of the codes to retry on");
}
