//! Attempts whose end can never be confirmed: what people see of them, who may give them up, and what comes of it. And one
//! whose container never began, of which an end can be made.

use gantry_core::{HostId, JobId};
use gantry_testkit::{eventually, eventually_some};
use gantry_tests::{Client, Fleet, PATIENCE, Part, Process, Role, jobs, quick};
use serde_json::{Value, json};

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// An attempt that runs, and the fleet around it.
struct Running {
    job: JobId,
    worker: Part,
    _parts: [Part; 2],
}

async fn running(fleet: &Fleet, more: Value) -> Running {
    let host = fleet.mock_host(1).await;
    let parts = [fleet.dispatcher(), fleet.recorder()];
    let worker = fleet.mock_worker(quick());
    let job = begun(fleet, host, more).await;
    Running { job, worker, _parts: parts }
}

/// A job that runs on this host, once that is served.
async fn begun(fleet: &Fleet, host: HostId, more: Value) -> JobId {
    fleet.served(host, 1).await;
    let job = fleet.producer().await.submit(&jobs::with(jobs::mock(&[("duration", "1h")]), more)).await;
    has_started(fleet, job, 1).await;
    job
}

/// Waits until this attempt of a job has started.
async fn has_started(fleet: &Fleet, job: JobId, attempt: usize) {
    eventually(PATIENCE, async || {
        fleet.attempts(job).await.get(attempt - 1).is_some_and(|attempt| !attempt["started_at"].is_null())
    })
    .await;
}

/// Waits for this standing of the job's last attempt, and returns it.
async fn stands(client: &Client, job: JobId, condition: &str) -> Value {
    eventually_some(PATIENCE, async || {
        let job = client.job(job).await;
        let standing = job["attempts"].as_array()?.last()?["standing"].clone();
        (standing["condition"] == condition).then_some(standing)
    })
    .await
}

/// The engine behind the fleet's directory calls itself this from now on.
fn identity(fleet: &Fleet, name: &str) -> String {
    let file = fleet.folder().join("identity");
    let before = std::fs::read_to_string(&file).expect("an engine has an identity");
    std::fs::write(file, name).expect("written");
    before
}

const ANOTHER: &str = "00000000-0000-4000-8000-000000000000";

/// How many containers there are on the fleet's own engine, whatever their state.
fn containers(fleet: &Fleet) -> usize {
    fleet.ledger().left().count()
}

#[tokio::test]
async fn a_host_out_of_reach_keeps_its_job_and_says_why() {
    let fleet = Fleet::new().await;
    let Running { job, worker: _worker, .. } = &running(&fleet, json!({})).await;
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    assert_eq!(stands(&client, *job, "owned").await, json!({ "condition": "owned" }));

    let itself = identity(&fleet, ANOTHER);
    let standing = stands(&client, *job, "unreachable").await;
    assert!(standing["since"].is_string(), "{standing}");
    let cause = standing["cause"].as_str().expect("a cause");
    assert!(cause.contains("does not reach the host"), "{cause}");
    assert!(!cause.contains(ANOTHER), "a tenant is not told of a shared host's insides: {cause}");
    let told = stands(&operator, *job, "unreachable").await;
    assert!(told["cause"].as_str().is_some_and(|cause| cause.contains(ANOTHER)), "an operator is: {told}");

    identity(&fleet, &itself);
    stands(&client, *job, "owned").await;
    let row = fleet.job(*job).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("running"), &json!(1)), "nothing was given up");
    assert_eq!(client.cancel(*job).await.status, 202);
    assert_eq!(fleet.ended(*job).await["status"], "cancelled");
}

#[tokio::test]
async fn nobody_s_attempt_says_why_nobody_takes_it() {
    let fleet = Fleet::new().await;
    let Running { job, worker, _parts } = running(&fleet, json!({})).await;
    let (_api, client) = fleet.api().await;
    worker.crash();
    let standing = stands(&client, job, "unowned").await;
    assert!(
        standing["cause"].as_str().is_some_and(|cause| cause.contains("no worker of this executor type")),
        "{standing}"
    );

    // A worker that finds another engine there may not take it.
    let itself = identity(&fleet, ANOTHER);
    let _next = fleet.mock_worker(quick());
    eventually(PATIENCE, async || {
        let standing = stands(&client, job, "unowned").await;
        standing["cause"].as_str().is_some_and(|cause| cause.contains("none of the 1 live workers"))
    })
    .await;
    assert_eq!(fleet.attempts(job).await[0]["epoch"], 1);

    identity(&fleet, &itself);
    stands(&client, job, "owned").await;
    assert_eq!(fleet.attempts(job).await[0]["epoch"], 2, "it was adopted");
    client.cancel(job).await;
    assert_eq!(fleet.ended(job).await["status"], "cancelled");
}

#[tokio::test]
async fn a_lost_host_s_job_runs_elsewhere() {
    let fleet = Fleet::new().await;
    let Running { job, worker, _parts } = running(&fleet, json!({})).await;
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;

    assert_eq!(client.post("/v1/hosts/mock/lost", "{}").await.status, 403, "not everyone may");
    let refused = operator.post("/v1/hosts/mock/lost", "{}").await;
    assert_eq!((refused.status, &refused.body["code"]), (409, &json!("host_reachable")), "{refused:?}");
    assert_eq!(operator.post("/v1/hosts/nowhere/lost", "{}").await.status, 404);
    assert_eq!(fleet.attempts(job).await[0]["abandoned_at"], Value::Null);

    worker.crash();
    stands(&client, job, "unowned").await;
    let answer = operator.post("/v1/hosts/mock/lost", "{}").await;
    assert_eq!((answer.status, &answer.body["slots"]), (202, &json!(1)), "{answer:?}");
    eventually(PATIENCE, async || !fleet.attempts(job).await[0]["ended_at"].is_null()).await;
    let first = &fleet.attempts(job).await[0];
    assert_eq!(
        (&first["failure_class"], &first["retried_by"], &first["exit_code"], &first["abandoned_by"]),
        (&json!("lost"), &json!("infrastructure"), &Value::Null, &json!("host lost"))
    );
    assert_eq!(fleet.scalar::<i32>("select current_job_count from executor_hosts").await, 0, "its slot is free");

    let elsewhere = fleet.mock_host_elsewhere(1).await;
    let _worker = fleet.mock_worker(quick());
    fleet.served(elsewhere, 1).await;
    has_started(&fleet, job, 2).await;
    let second = &fleet.attempts(job).await[1];
    assert_eq!(second["executor_host_id"], json!(elsewhere.to_string()), "nothing is placed on the lost one");
    client.cancel(job).await;
    assert_eq!(fleet.ended(job).await["status"], "cancelled");

    // Two hosts have this name now: the shared one is named by its id.
    let ambiguous = operator.post("/v1/hosts/mock/activate", "").await;
    assert_eq!(ambiguous.status, 409, "{ambiguous:?}");
    let shared: String = fleet.scalar("select id::text from executor_hosts where tenant_id is null").await;
    assert_eq!(operator.post(&format!("/v1/hosts/{shared}/activate"), "").await.status, 200);
    let audit = operator.get("/v1/audit").await;
    let deeds: Vec<&str> = audit.body["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|entry| entry["action"].as_str())
        .collect();
    assert_eq!(deeds, ["host_activated", "host_lost"], "{audit:?}");
}

#[tokio::test]
async fn an_abandoned_job_ends_and_its_worker_lets_go() {
    let fleet = Fleet::new().await;
    let Running { job, worker: _worker, _parts } = running(&fleet, json!({})).await;
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    let path = format!("/v1/jobs/{job}/abandon");

    assert_eq!(client.post(&path, r#"{"force": true}"#).await.status, 403, "not everyone may");
    let refused = operator.post(&path, "{}").await;
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("confirmation_required")), "{refused:?}");
    let answer = operator.post(&path, r#"{"force": true}"#).await;
    assert_eq!((answer.status, &answer.body["attempt"], &answer.body["already"]), (202, &json!(1), &json!(false)));

    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["failure_class"]), (&json!("failed"), &json!("lost")));
    let again = operator.post(&path, r#"{"force": true}"#).await;
    assert_eq!((again.status, &again.body["code"]), (409, &json!("conflict")), "{again:?}");
    let shown = operator.job(job).await;
    let given_up = &shown["attempts"][0]["abandoned"];
    assert!(given_up["by"].as_str().is_some_and(|by| by.starts_with("key:")), "{shown}");
    assert_eq!(given_up["how"], "fail");
    let audit = operator.get("/v1/audit").await;
    assert_eq!(audit.body["entries"][0]["subject"], job.to_string(), "{audit:?}");
    assert_eq!(client.get("/v1/audit").await.status, 403);

    // What still ran is an orphan, once its grace is over.
    fleet.execute("update container_executions set ended_at = ended_at - interval '1 hour'").await;
    assert_eq!(containers(&fleet), 1, "it runs on");
    // A worker looks for orphans soon after its start, and once a minute then.
    let _next = fleet.mock_worker(quick());
    eventually(PATIENCE, async || containers(&fleet) == 0).await;
}

#[tokio::test]
async fn a_mark_outlives_whoever_set_it() {
    let fleet = Fleet::new().await;
    let Running { job, worker, _parts: [dispatcher, _recorder] } = running(&fleet, json!({})).await;
    let (api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    dispatcher.crash();
    worker.crash();
    assert_eq!(operator.post(&format!("/v1/jobs/{job}/abandon"), r#"{"force": true}"#).await.status, 202);
    api.crash();
    // Nobody reports it yet, and a worker that comes now does not take it.
    let _worker = fleet.mock_worker(quick());
    eventually(PATIENCE, async || fleet.scalar::<i64>("select count(*) from workers where state = 'dead'").await == 1)
        .await;
    let attempt = &fleet.attempts(job).await[0];
    assert_eq!((&attempt["ended_at"], &attempt["epoch"]), (&Value::Null, &json!(2)), "{attempt}");
    let _dispatcher = fleet.dispatcher();
    assert_eq!(fleet.ended(job).await["failure_class"], "lost");
}

#[tokio::test]
async fn a_cancelled_job_that_is_given_up_is_cancelled() {
    let fleet = Fleet::new().await;
    let Running { job, worker, _parts } = running(&fleet, json!({})).await;
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    worker.crash();
    assert_eq!(client.cancel(job).await.status, 202);
    assert_eq!(fleet.job(job).await["status"], "running", "nobody has confirmed anything");
    let answer = operator.post(&format!("/v1/jobs/{job}/abandon"), r#"{"force": true, "retry": true}"#).await;
    assert_eq!(answer.status, 202);
    let row = fleet.ended(job).await;
    assert_eq!(
        (&row["status"], &row["attempt"]),
        (&json!("cancelled"), &json!(1)),
        "a cancelled job is not tried again"
    );
}

/// A job with a policy whose worker was killed and whose host no worker reaches any more, long ago by the database's
/// clock; and another host, which is served.
async fn out_of_reach(fleet: &Fleet, action: &str) -> (JobId, Vec<Part>) {
    let policy = json!({ "spec": { "on_lost": { "action": action, "after_seconds": 10 } } });
    let Running { job, worker, _parts } = running(fleet, policy).await;
    worker.crash();
    let elsewhere = fleet.mock_host_elsewhere(1).await;
    identity(fleet, ANOTHER);
    let next = fleet.mock_worker(quick());
    fleet.served(elsewhere, 1).await;
    eventually(PATIENCE, async || fleet.scalar::<i64>("select count(*) from workers where state = 'dead'").await == 1)
        .await;
    fleet.execute("update workers set ended_at = ended_at - interval '1 hour' where state = 'dead'").await;
    (job, _parts.into_iter().chain([next]).collect())
}

#[tokio::test]
async fn a_policy_of_retry_runs_the_job_elsewhere() {
    let fleet = Fleet::new().await;
    let (job, _parts) = out_of_reach(&fleet, "retry").await;
    eventually(PATIENCE, async || fleet.attempts(job).await.len() == 2).await;
    let first = &fleet.attempts(job).await[0];
    assert_eq!(
        (&first["failure_class"], &first["abandoned_by"], &first["abandoned_as"], &first["retried_by"]),
        (&json!("lost"), &json!("on_lost"), &json!("retry"), &json!("infrastructure"))
    );
    fleet.reaches(job, "running").await;
}

#[tokio::test]
async fn a_policy_of_fail_ends_the_job() {
    let fleet = Fleet::new().await;
    let (job, _parts) = out_of_reach(&fleet, "fail").await;
    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["failure_class"]), (&json!("failed"), &json!("lost")));
    let attempts = fleet.attempts(job).await;
    assert_eq!((attempts.len(), &attempts[0]["abandoned_as"]), (1, &json!("fail")));
}

#[tokio::test]
async fn a_policy_of_wait_waits() {
    let fleet = Fleet::new().await;
    let (job, _parts) = out_of_reach(&fleet, "wait").await;
    // Longer than any other policy would have waited.
    tokio::time::sleep(std::time::Duration::from_secs(13)).await;
    assert_eq!(fleet.attempts(job).await[0]["abandoned_at"], Value::Null);
}

/// A job with a policy whose worker lives, and has not reached its host for an hour by the database's clock; and another
/// host, which the same worker serves.
async fn unreachable(fleet: &Fleet, action: &str) -> (JobId, Process, [Part; 2]) {
    let host = fleet.mock_host(1).await;
    let parts = [fleet.dispatcher(), fleet.recorder()];
    let often = [("WORKER__BEAT_MILLIS", "500"), ("WORKER__HOST_CHECK_SECONDS", "1")];
    let worker = fleet.process(PART, Role::Worker, &often).await;
    let policy = json!({ "spec": { "on_lost": { "action": action, "after_seconds": 20 } } });
    let job = begun(fleet, host, policy).await;
    has_attempts(&worker, 1.0).await;
    let elsewhere = fleet.mock_host_elsewhere(1).await;
    fleet.served(elsewhere, 1).await;
    let (_api, client) = fleet.api().await;
    identity(fleet, ANOTHER);
    stands(&client, job, "unreachable").await;
    assert_eq!(fleet.attempts(job).await[0]["abandoned_at"], Value::Null, "its time has not come");
    let long_ago = "update worker_hosts set unhealthy_since = unhealthy_since - interval '1 hour' where not healthy";
    fleet.execute(long_ago).await;
    (job, worker, parts)
}

/// Waits until so many attempts are in this worker's process.
async fn has_attempts(worker: &Process, attempts: f64) {
    let mock = [("executor_type", "mock")];
    eventually(PATIENCE, async || worker.metric("gantry_worker_attempts", &mock).await == Some(attempts)).await;
}

/// What was given up was never anybody else's to take.
async fn nobody_died(fleet: &Fleet) {
    assert_eq!(fleet.scalar::<i64>("select count(*) from workers where state <> 'alive'").await, 0);
}

#[tokio::test]
async fn an_unreachable_attempt_s_policy_of_retry_runs_the_job_elsewhere() {
    let fleet = Fleet::new().await;
    let (job, worker, _parts) = unreachable(&fleet, "retry").await;
    has_started(&fleet, job, 2).await;
    let attempts = fleet.attempts(job).await;
    let (first, second) = (&attempts[0], &attempts[1]);
    assert_eq!(
        (&first["failure_class"], &first["abandoned_by"], &first["abandoned_as"], &first["retried_by"]),
        (&json!("lost"), &json!("on_lost"), &json!("retry"), &json!("infrastructure"))
    );
    assert_ne!(first["executor_host_id"], second["executor_host_id"], "nothing is placed where nobody gets");
    assert_eq!(first["worker_id"], second["worker_id"]);
    nobody_died(&fleet).await;
    let (_api, client) = fleet.api().await;
    assert_eq!(client.cancel(job).await.status, 202);
    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("cancelled"), &json!(2)), "{row}");
    // It has let go of the first as well.
    has_attempts(&worker, 0.0).await;
}

#[tokio::test]
async fn an_unreachable_attempt_s_policy_of_fail_ends_the_job() {
    let fleet = Fleet::new().await;
    let (job, worker, _parts) = unreachable(&fleet, "fail").await;
    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["failure_class"]), (&json!("failed"), &json!("lost")), "{row}");
    let attempts = fleet.attempts(job).await;
    assert_eq!(
        (attempts.len(), &attempts[0]["abandoned_by"], &attempts[0]["abandoned_as"]),
        (1, &json!("on_lost"), &json!("fail"))
    );
    nobody_died(&fleet).await;
    has_attempts(&worker, 0.0).await;
}

/// A night in which nothing ran: what was out of reach for hours by the database's clock is about to be adopted.
#[tokio::test]
async fn a_fleet_that_comes_back_gives_nothing_up() {
    let fleet = Fleet::new().await;
    let policy = json!({ "spec": { "on_lost": { "action": "retry", "after_seconds": 10 } } });
    let Running { job, worker, _parts: [dispatcher, _recorder] } = running(&fleet, policy).await;
    worker.stop().await;
    dispatcher.stop().await;
    fleet.execute("update workers set ended_at = ended_at - interval '14 hours'").await;
    let _dispatcher = fleet.dispatcher();
    // Several passes of upkeep, before any worker is there.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let _worker = fleet.mock_worker(quick());
    eventually(PATIENCE, async || fleet.attempts(job).await[0]["epoch"] == 2).await;
    let attempt = &fleet.attempts(job).await[0];
    assert_eq!((&attempt["abandoned_at"], &attempt["ended_at"]), (&Value::Null, &Value::Null), "{attempt}");
}

/// The address leads to an engine that has never heard of these containers: they are not gone.
#[tokio::test]
async fn an_address_that_leads_elsewhere_loses_nothing() {
    let fleet = Fleet::new().await;
    let Running { job, worker, _parts } = running(&fleet, json!({})).await;
    let (_api, client) = fleet.api().await;
    let [ledger, aside, another] = ["ledger", "aside", "another"].map(|name| fleet.folder().join(name));
    let itself = identity(&fleet, ANOTHER);
    std::fs::rename(&ledger, &aside).expect("moved");
    // A worker that looks may be the first to make it.
    std::fs::create_dir_all(&ledger).expect("made");
    stands(&client, job, "unreachable").await;

    // A worker that has it to adopt meets the same engine.
    worker.crash();
    let _next = fleet.mock_worker(quick());
    stands(&client, job, "unowned").await;
    let row = fleet.job(job).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("running"), &json!(1)), "{row}");
    assert!(fleet.attempts(job).await[0]["ended_at"].is_null());

    assert_eq!(fleet.ledger().runs().count(), 0, "nothing was launched there");
    std::fs::rename(&ledger, &another).expect("moved");
    std::fs::rename(&aside, &ledger).expect("moved back");
    identity(&fleet, &itself);
    stands(&client, job, "owned").await;
    client.cancel(job).await;
    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("cancelled"), &json!(1)), "{row}");
}

/// Its worker died before it was started, and its end is asked for: until the reason is stored it stays.
#[tokio::test]
async fn a_container_that_never_began_goes_after_the_reason_is_stored() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(1).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    let job = fleet.producer().await.submit(&jobs::mock(&[("start_delay", "1h")])).await;
    eventually(PATIENCE, async || containers(&fleet) == 1).await;
    worker.crash();
    let (_api, client) = fleet.api().await;
    assert_eq!(client.cancel(job).await.status, 202);
    let held = fleet.hold_up("stop_reason").await;
    let _next = fleet.mock_worker(quick());
    fleet.is_held_up().await;
    assert_eq!(containers(&fleet), 1, "nothing is done to it before");

    drop(held);
    let row = fleet.ended(job).await;
    assert_eq!((&row["status"], &row["attempt"]), (&json!("cancelled"), &json!(1)), "{row}");
    let attempt = &fleet.attempts(job).await[0];
    assert_eq!((&attempt["stop_reason"], &attempt["epoch"]), (&json!("cancel"), &json!(2)), "{attempt}");
    assert_eq!(containers(&fleet), 0, "its end was reported when it was gone");
}
