//! What the suite does not ask of every executor: how many requests it takes, what a log of a cloud is made of, and the
//! Job that was created and never started.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

mod common;

use std::time::{Duration, Instant};

use common::{double, host_at, image, sh, validate, words};
use gantry_core::host::Host;
use gantry_core::naming::external_name;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::Outcome;
use gantry_core::{FailureClass, FleetId, JobId};
use gantry_double::{Fault, Faults, Rule};
use gantry_executor_cloudrun::CloudRunExecutor;
use gantry_executor_cloudrun::double::Double;
use gantry_worker::executor::{ExecutionId, Executor as _, Launch, LaunchError, Observed, Stream};
use google_cloud_auth::credentials::anonymous;
use google_cloud_run_v2::client::Jobs;
use google_cloud_run_v2::model::{Container, ExecutionTemplate, Job, TaskTemplate};
use serde_json::json;

fn launch_in(fleet: FleetId, spec: ResolvedSpec) -> Launch {
    let (job, attempt) = (JobId::new(), 1);
    Launch { name: external_name(fleet, job, attempt), fleet, job, attempt, spec }
}

/// Waits until a container is so.
async fn until(executor: &CloudRunExecutor, host: &Host, id: &ExecutionId, so: impl Fn(&Observed) -> bool) -> Observed {
    let waiting = async {
        loop {
            let states = executor.observe(host, std::slice::from_ref(id)).await.expect("the double answers");
            if let Some((_, state)) = states.into_iter().find(|(_, state)| so(state)) {
                return state;
            }
            // The pace of looking.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes to be so")
}

/// Cleans up, and holds what went over the wire against what Google documents.
async fn finish(double: &Double) {
    double.remove_containers().await.expect("cleans up");
    validate(&double.exchanges()).expect("what went over the wire is what Google documents");
}

async fn until_ended(executor: &CloudRunExecutor, host: &Host, id: &ExecutionId) {
    until(executor, host, id, |state| matches!(state, Observed::Ended(_))).await;
}

/// A Job that somebody created without the token that starts it.
async fn create_without_token(double: &Double, project: &str, launch: &Launch) {
    let jobs = Jobs::builder().with_endpoint(double.url()).with_credentials(anonymous::Builder::new().build());
    let template = TaskTemplate::new().set_containers([Container::new().set_image(image())]).set_max_retries(0);
    let labels = [
        ("gantry-fleet", launch.fleet.to_string()),
        ("gantry-job", launch.job.to_string()),
        ("gantry-attempt", launch.attempt.to_string()),
    ];
    let job = Job::new().set_labels(labels).set_template(ExecutionTemplate::new().set_template(template));
    let create = jobs.build().await.expect("a client").create_job();
    let create = create.set_parent(format!("projects/{project}/locations/europe-west1")).set_job_id(&launch.name);
    create.set_job(job).send().await.expect("creates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_seen_by_one_request() {
    let double = double(&Faults::new(1)).await;
    let (executor, host, fleet) = (CloudRunExecutor::new(), host_at(&double.url(), "many"), FleetId::new());
    let mut ids = Vec::new();
    for _ in 0..8 {
        let launch = launch_in(fleet, sh("trap 'exit 143' TERM; sleep 60 & wait"));
        ids.push(executor.launch(&host, &launch).await.expect("launches"));
    }
    for id in &ids {
        until(&executor, &host, id, |state| *state == Observed::Running).await;
    }
    let before = double.exchanges().len();
    let states = executor.observe(&host, &ids).await.expect("the double answers");
    assert_eq!(states.len(), ids.len());
    assert_eq!(double.exchanges().len() - before, 1, "one list for all of them");
    finish(&double).await;
}

/// The region's quota is the host's limit, also of Jobs that somebody else made. What runs is looked after meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_at_its_quota_has_no_room() {
    let double = double(&Faults::new(1)).await;
    let (executor, fleet) = (CloudRunExecutor::new(), FleetId::new());
    let mut host = host_at(&double.url(), "quota");
    host.executor_config["jobs_quota"] = json!(2);
    let id = executor.launch(&host, &launch_in(fleet, sh("exit 0"))).await.expect("launches");
    let health = executor.check(&host).await.expect("there is room for one more");
    assert!(health.detail.ends_with("1 Jobs of a quota of 2"), "{}", health.detail);
    let other = launch_in(FleetId::new(), words(&["true"]));
    create_without_token(&double, "quota", &other).await;
    let failure = executor.check(&host).await.expect_err("the region is full");
    assert_eq!(failure.class, FailureClass::NoCapacity, "{failure}");
    assert!(failure.message.contains("2 Jobs and a quota of 2"), "{failure}");
    assert_eq!(executor.identity(&host).await.expect("it is the same region, full or not"), health.identity);
    until_ended(&executor, &host, &id).await;
    executor.remove(&host, &id).await.expect("removes");
    executor.check(&host).await.expect("there is room again");
    finish(&double).await;
}

/// What Google grants is the limit, whatever the host's `jobs_quota` says: a launch beyond it is certainly none, and
/// may go elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_beyond_the_regions_quota_has_no_room() {
    let double = double(&Faults::new(1)).await;
    let (executor, host, fleet) = (CloudRunExecutor::new(), host_at(&double.url(), "full"), FleetId::new());
    double.limit_jobs(1);
    let (first, second) = (launch_in(fleet, sh("exit 0")), launch_in(fleet, sh("exit 7")));
    let id = executor.launch(&host, &first).await.expect("there is room for one");
    match executor.launch(&host, &second).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::NoCapacity, "{failure}"),
        other => panic!("there is no room, and it is {other:?}"),
    }
    let owned = executor.list_owned(&host, fleet).await.expect("the double answers");
    assert_eq!(owned.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), [first.name.as_str()]);
    until_ended(&executor, &host, &id).await;
    executor.remove(&host, &id).await.expect("removes");
    let id = executor.launch(&host, &second).await.expect("there is room again");
    let end = until(&executor, &host, &id, |state| matches!(state, Observed::Ended(_))).await;
    assert!(matches!(end, Observed::Ended(end) if end.outcome == Outcome::Exited(7)), "the second ran");
    finish(&double).await;
}

/// An answer that takes its time is waited for, and nothing is sent again meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_is_waited_for() {
    let (faults, later) = (Faults::new(1), Duration::from_millis(1_500));
    faults.add(Rule::new(Fault::Latency { millis: 1_500 }).to("POST", "/jobs?jobId=").times(1));
    let double = double(&faults).await;
    let (executor, host) = (CloudRunExecutor::new(), host_at(&double.url(), "late"));
    let began = Instant::now();
    let id = executor.launch(&host, &launch_in(FleetId::new(), sh("exit 9"))).await.expect("the answer comes");
    assert!(began.elapsed() >= later, "{:?}", began.elapsed());
    let created = double.exchanges().iter().filter(|one| one.method == "POST").count();
    assert_eq!(created, 1, "it was sent once");
    until_ended(&executor, &host, &id).await;
    faults.add(Rule::new(Fault::Latency { millis: 1_500 }).to("GET", id.0.clone()).times(1));
    let began = Instant::now();
    let states = executor.observe(&host, std::slice::from_ref(&id)).await.expect("the answer comes");
    assert!(began.elapsed() >= later, "{:?}", began.elapsed());
    assert!(matches!(&states[..], [(_, Observed::Ended(end))] if end.outcome == Outcome::Exited(9)), "{states:?}");
    finish(&double).await;
}

/// One container's trouble is not the others', and the list's is everybody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_with_one_leaves_it_out() {
    let faults = Faults::new(1);
    let double = double(&faults).await;
    let (executor, host, fleet) = (CloudRunExecutor::new(), host_at(&double.url(), "trouble"), FleetId::new());
    let mut ids = Vec::new();
    for _ in 0..2 {
        ids.push(executor.launch(&host, &launch_in(fleet, sh("exit 0"))).await.expect("launches"));
    }
    let body = json!({ "error": { "code": 500, "status": "INTERNAL", "message": "oh" } });
    faults.add(Rule::new(Fault::Status { status: 500, body: body.clone() }).to("GET", ids[0].0.clone()).times(1));
    let states = executor.observe(&host, &ids).await.expect("the other one is known");
    assert_eq!(states.iter().map(|(id, _)| id).collect::<Vec<_>>(), [&ids[1]]);
    faults.add(Rule::new(Fault::Status { status: 500, body }).to("GET", "pageSize").times(1));
    let failure = executor.list_owned(&host, fleet).await.expect_err("nobody knows");
    assert_eq!(failure.class, FailureClass::BackendError, "{failure}");
    for id in &ids {
        until_ended(&executor, &host, id).await;
    }
    finish(&double).await;
}

/// A service that is not there for a moment says nothing about what runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_503_while_it_runs_is_no_end() {
    let faults = Faults::new(1);
    let double = double(&faults).await;
    let (executor, host, fleet) = (CloudRunExecutor::new(), host_at(&double.url(), "away"), FleetId::new());
    let id = executor.launch(&host, &launch_in(fleet, sh("sleep 3; exit 9"))).await.expect("launches");
    until(&executor, &host, &id, |state| *state == Observed::Running).await;
    let body = json!({ "error": { "code": 503, "status": "UNAVAILABLE", "message": "not now" } });
    faults.add(Rule::new(Fault::Status { status: 503, body }).to("GET", "").times(3));
    for _ in 0..3 {
        let states = executor.observe(&host, std::slice::from_ref(&id)).await.unwrap_or_default();
        assert_eq!(states, [], "nobody knows how it is");
    }
    let Observed::Ended(end) = until(&executor, &host, &id, |state| *state != Observed::Running).await else {
        panic!("it was running, and is over");
    };
    assert_eq!(end.outcome, Outcome::Exited(9));
    finish(&double).await;
}

/// Objects come back as lines, and the system's own line is not among them. After the Job's removal, nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_what_the_container_printed() {
    let double = double(&Faults::new(1)).await;
    let (executor, host) = (CloudRunExecutor::new(), host_at(&double.url(), "logs"));
    let script = r#"echo '{"n": 1, "deep": {"a": [null]}}'; echo plain; echo '[1]'; echo odd >&2; exit 4"#;
    let id = executor.launch(&host, &launch_in(FleetId::new(), sh(script))).await.expect("launches");
    until_ended(&executor, &host, &id).await;
    let page = executor.logs(&host, &id, None, 4096).await.expect("the log can be read");
    let text = |stream| {
        let chunks = page.chunks.iter().filter(|(of, _)| *of == stream).map(|(_, bytes)| bytes.to_vec());
        String::from_utf8(chunks.collect::<Vec<_>>().concat()).expect("text")
    };
    let stdout = text(Stream::Stdout);
    let first: serde_json::Value = serde_json::from_str(stdout.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(first, json!({ "n": 1, "deep": { "a": [null] } }));
    assert!(stdout.ends_with("\nplain\n[1]\n"), "{stdout}");
    assert_eq!((text(Stream::Stderr).as_str(), page.more), ("odd\n", false));
    executor.remove(&host, &id).await.expect("removes");
    let failure = executor.logs(&host, &id, None, 4096).await.expect_err("there is nothing left to read");
    assert_eq!(failure.class, FailureClass::Lost, "{failure}");
    finish(&double).await;
}

/// Two workers find a Job that was never started: one execution comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_start_a_job_left_behind_start_it_once() {
    let double = double(&Faults::new(1)).await;
    let (one, two, host) = (CloudRunExecutor::new(), CloudRunExecutor::new(), host_at(&double.url(), "twice"));
    let launch = launch_in(FleetId::new(), sh("exit 7"));
    create_without_token(&double, "twice", &launch).await;
    let (first, second) = tokio::join!(one.launch(&host, &launch), two.launch(&host, &launch));
    let id = first.expect("adopts");
    assert_eq!(second.expect("adopts"), id);
    until_ended(&one, &host, &id).await;
    let last = double.exchanges().into_iter().rev().find(|one| one.method == "GET" && one.path.contains("/jobs/g"));
    let started = double.exchanges().iter().filter(|one| one.method == "PATCH" && one.status == 200).count();
    assert_eq!(started, 1, "{last:?}");
    finish(&double).await;
}

/// Stopped before anything started: the Job goes, and with it what it was about to start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_never_started_is_stopped_by_its_removal() {
    let double = double(&Faults::new(1)).await;
    let (executor, host) = (CloudRunExecutor::new(), host_at(&double.url(), "unstarted"));
    let launch = launch_in(FleetId::new(), words(&["true"]));
    create_without_token(&double, "unstarted", &launch).await;
    let id = ExecutionId(launch.name.clone());
    executor.stop(&host, &id, Duration::from_secs(1)).await.expect("stops");
    until(&executor, &host, &id, |state| *state == Observed::Gone).await;
    finish(&double).await;
}

/// A name that somebody else's Job has is refused for certain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_elses_job_is_not_adopted() {
    let double = double(&Faults::new(1)).await;
    let (executor, host) = (CloudRunExecutor::new(), host_at(&double.url(), "foreign"));
    let launch = launch_in(FleetId::new(), words(&["true"]));
    create_without_token(&double, "foreign", &Launch { job: JobId::new(), ..launch.clone() }).await;
    let error = executor.launch(&host, &launch).await.expect_err("not this attempt's");
    assert!(error.to_string().contains("not this attempt's"), "{error}");
    finish(&double).await;
}
