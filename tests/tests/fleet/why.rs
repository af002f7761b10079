//! Why a job is where it is, asked of a live fleet: each reason with its remedy, which is then applied and lets the job
//! run; each phase of a running job; and the ends.

use gantry_core::JobId;
use gantry_testkit::{eventually, eventually_some};
use gantry_tests::{Client, Fleet, PATIENCE, jobs, quick};
use serde_json::{Value, json};

async fn why(client: &Client, id: JobId) -> Value {
    let answer = client.get(&format!("/v1/jobs/{id}/why")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Waits until a job waits for this, and returns the explanation.
async fn waits_for(client: &Client, id: JobId, reason: &str) -> Value {
    eventually_some(PATIENCE, async || {
        let why = why(client, id).await;
        (why["waiting"]["reason"] == reason).then_some(why)
    })
    .await
}

/// Waits until a job is in this phase, and returns the explanation.
async fn reaches(client: &Client, id: JobId, phase: &str) -> Value {
    eventually_some(PATIENCE, async || {
        let why = why(client, id).await;
        (why["phase"] == phase).then_some(why)
    })
    .await
}

fn says(why: &Value, field: &str, text: &str) {
    assert!(why[field].as_str().is_some_and(|said| said.contains(text)), "{field} does not say {text:?}: {why:#}");
}

#[tokio::test]
async fn each_reason_has_a_remedy_that_helps() {
    let fleet = Fleet::new().await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    let id = client.submit(&jobs::mock(&[("duration", "1h")])).await;

    let told = waits_for(&client, id, "no_host").await;
    says(&told, "remedy", "gantry host add NAME --executor mock");
    assert_eq!(told["waiting"]["hosts"]["total"], 0, "{told:#}");
    let host = fleet.mock_host(1).await;

    let told = waits_for(&client, id, "no_worker").await;
    says(&told, "remedy", "gantry-worker-mock");
    let hosts = &told["waiting"]["hosts"];
    assert_eq!((&hosts["active"], &hosts["served"], &hosts["workers"]), (&json!(1), &json!(0), &json!(0)), "{told:#}");

    assert_eq!(operator.post("/v1/hosts/mock/cordon", "").await.status, 200);
    let _worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    let told = waits_for(&client, id, "host_unavailable").await;
    says(&told, "summary", "1 cordoned");
    says(&told, "remedy", "gantry host activate mock");
    assert_eq!(told["since"], client.job(id).await["created_at"], "it has waited ever since");
    assert_eq!(operator.post("/v1/hosts/mock/activate", "").await.status, 200);
    reaches(&client, id, "running").await;

    let next = client.submit(&jobs::mock(&[])).await;
    let last = client.submit(&jobs::mock(&[])).await;
    let told = waits_for(&client, next, "host_full").await;
    says(&told, "remedy", "gantry host set mock --slots N");
    assert_eq!(told["waiting"]["estimated_start"], Value::Null, "nothing has ended yet");
    let told = waits_for(&client, last, "host_full").await;
    assert!(told["waiting"]["ahead"]["jobs"].as_i64().is_some_and(|jobs| jobs <= 1), "{told:#}");
    let patch = operator.request(reqwest::Method::PATCH, "/v1/hosts/mock").body(r#"{"max_concurrent_jobs": 2}"#);
    assert_eq!(patch.send().await.expect("an answer").status(), 200);
    fleet.all_complete(&[next, last]).await;

    client.cancel(id).await;
    fleet.ended(id).await;
}

#[tokio::test]
async fn a_time_and_a_pause_are_waited_for() {
    let (fleet, _parts) = Fleet::simulated(2).await;
    let (_api, client) = fleet.api().await;
    let when: String = fleet.scalar("select to_json(now() + interval '1 hour') #>> '{}'").await;
    let later = client.submit(&jobs::with(jobs::mock(&[]), json!({ "not_before": when }))).await;
    let told = waits_for(&client, later, "not_before").await;
    says(&told, "remedy", &format!("gantry job cancel {later}"));
    assert_eq!(
        (&told["waiting"]["ahead"], &told["waiting"]["until"]),
        (&Value::Null, &told["waiting"]["estimated_start"])
    );
    assert_eq!(client.cancel(later).await.status, 200);
    let told = why(&client, later).await;
    says(&told, "summary", "cancelled before it ran");

    let retry =
        json!({ "spec": { "retry": { "max_attempts": 2, "backoff_seconds": 3600, "max_backoff_seconds": 3600 } } });
    let failing = client.submit(&jobs::with(jobs::mock(&[("exit_code", "7")]), retry)).await;
    let told = waits_for(&client, failing, "retry_backoff").await;
    says(&told, "summary", "attempt 1 failed on host mock; attempt 2 comes after a pause");
    let first = &told["attempts"][0];
    assert_eq!((&first["exit_code"], &first["retried_by"]), (&json!(7), &json!("user")), "{told:#}");
    assert_eq!(told["since"], first["ended_at"]);
    // The pause is over.
    fleet.execute("update container_jobs set parked_until = now() where waiting_reason = 'retry_backoff'").await;
    let told = reaches(&client, failing, "ended").await;
    says(&told, "summary", "attempt 2, on host mock, exited with code 7; its retry policy allows 2 attempts");
    says(&told, "remedy", &format!("gantry job logs {failing}"));
    assert!(told["attempts"][0]["retried_at"].is_string(), "{told:#}");
}

#[tokio::test]
async fn a_limit_is_named_and_raised() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let keyed = |duration| jobs::with(jobs::mock(&[("duration", duration)]), json!({ "concurrency_key": "nightly" }));
    let first = client.submit(&keyed("1h")).await;
    reaches(&client, first, "running").await;
    let second = client.submit(&keyed("0s")).await;
    let told = waits_for(&client, second, "key_limit").await;
    says(&told, "summary", "concurrency key nightly runs as many jobs at once as it may: 1 of 1");
    says(&told, "remedy", "nightly be raised: `gantry limit set key NAME --max N`");
    let limit = &told["waiting"]["limit"];
    assert_eq!((&limit["name"], &limit["running"], &limit["max_running"]), (&json!("nightly"), &json!(1), &json!(1)));
    client.cancel(first).await;
    fleet.all_complete(&[second]).await;
    assert_eq!(fleet.ended(first).await["status"], "cancelled");
}

#[tokio::test]
async fn a_running_job_says_where_it_is() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let id = client
        .submit(&jobs::mock(&[
            ("prepare_delay", "3s"),
            ("start_delay", "2s"),
            ("stop_ignores_term", "true"),
            ("duration", "1h"),
        ]))
        .await;
    let told = reaches(&client, id, "pulling").await;
    says(&told, "summary", "host mock pulls its image (attempt 1)");
    reaches(&client, id, "starting").await;
    let told = reaches(&client, id, "running").await;
    assert!(told["attempts"][0]["prepare_seconds"].as_f64().is_some_and(|seconds| seconds > 2.0), "{told:#}");
    assert_eq!((&told["since"], &told["remedy"]), (&told["attempts"][0]["started_at"], &Value::Null));
    client.cancel(id).await;
    let told = reaches(&client, id, "stopping").await;
    says(&told, "summary", "its end was asked for");
    let told = reaches(&client, id, "ended").await;
    says(&told, "summary", "it was cancelled; its only attempt, on host mock, was stopped");

    // What needs no preparation worth telling costs no write.
    let quick = client.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[quick]).await;
    assert_eq!(fleet.attempts(quick).await[0]["prepare_began_at"], Value::Null);
    let told = why(&client, quick).await;
    says(&told, "summary", "its only attempt, on host mock, exited with code 0");
}

#[tokio::test]
async fn what_nobody_looks_after_says_what_would_help() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    let (_api, client) = fleet.api().await;
    let id = client.submit(&jobs::mock(&[("duration", "1h")])).await;
    reaches(&client, id, "running").await;
    worker.crash();
    let told = eventually_some(PATIENCE, async || {
        let why = why(&client, id).await;
        why["remedy"].is_string().then_some(why)
    })
    .await;
    says(&told, "summary", "its worker is gone");
    says(&told, "remedy", &format!("gantry job abandon {id} --force"));
    assert_eq!(told["attempts"][0]["standing"]["condition"], "unowned");
    let _next = fleet.mock_worker(quick());
    eventually(PATIENCE, async || why(&client, id).await["remedy"].is_null()).await;
    client.cancel(id).await;
    fleet.ended(id).await;
}

/// A line moves as fast as jobs leave their slots.
#[tokio::test]
async fn the_start_is_estimated_and_others_are_only_counted() {
    let fleet = Fleet::new().await;
    fleet.other_tenant("globex").await;
    let host = fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick())];
    fleet.served(host, 1).await;
    let (_api, client) = fleet.api().await;
    let stranger = client.with_key(Some("globex"));
    let first = client.submit(&jobs::mock(&[("duration", "1s")])).await;
    fleet.all_complete(&[first]).await;
    let running = client.submit(&jobs::mock(&[("duration", "1h")])).await;
    reaches(&client, running, "running").await;
    let strangers = stranger
        .submit_all(&vec![jobs::with(jobs::mock(&[("duration", "1h")]), json!({ "name": "secret" })); 20])
        .await;
    let own = client.submit_all(&vec![jobs::mock(&[("duration", "1h")]); 10]).await;
    let told = eventually_some(PATIENCE, async || {
        let why = why(&client, own[9]).await;
        why["waiting"]["estimated_start"].is_string().then_some(why)
    })
    .await;
    let ahead = &told["waiting"]["ahead"];
    let count = |field: &str| ahead[field].as_i64().expect("a number");
    // Its own nine, and of the other tenant's twenty as many; those in the window are out of line.
    assert!((5..=9).contains(&count("own")) && count("jobs") <= 18 && count("jobs") > count("own"), "{told:#}");
    assert!(!told.to_string().contains("secret") && !told.to_string().contains("globex"), "{told:#}");
    assert_eq!(client.get(&format!("/v1/jobs/{}/why", strangers[0])).await.status, 404);
    for id in own.iter().chain([&running]) {
        client.cancel(*id).await;
    }
    for id in &strangers {
        stranger.cancel(*id).await;
    }
}
