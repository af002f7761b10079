//! Faults by probability: every job ends as the mock's documents say, nothing is lost and nothing runs twice.

use std::collections::{BTreeMap, BTreeSet};

use gantry_core::JobId;
use gantry_executor_mock::{Fault, fault};
use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Role, jobs, quick};
use gantry_worker::Settings;
use serde_json::{Value, json};

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// Attempts that a user's policy allows in these tests, and retries that the infrastructure's budget does.
const ATTEMPTS: usize = 3;
const INFRASTRUCTURE_RETRIES: usize = 5;

/// What a job with these labels meets in each attempt, until its end.
fn fate(labels: &[(&str, &str)]) -> Vec<Option<Fault>> {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| (format!("mock.{name}"), (*value).to_owned())).collect();
    let mut met = Vec::new();
    let (mut by_user, mut by_infrastructure) = (1, 0);
    for attempt in 1.. {
        // The key stands for the job's id.
        let fault = fault(&Value::Null, &labels, JobId::new(), attempt).expect("valid labels");
        met.push(fault);
        match class(fault) {
            Some("oom_killed") if by_user < ATTEMPTS => by_user += 1,
            Some("throttled" | "lost" | "backend_error") if by_infrastructure < INFRASTRUCTURE_RETRIES => {
                by_infrastructure += 1;
            }
            _ => break,
        }
    }
    met
}

/// The failure class that an attempt ends with.
fn class(fault: Option<Fault>) -> Option<&'static str> {
    match fault? {
        Fault::Throttled => Some("throttled"),
        Fault::LaunchRejected => Some("launch_rejected"),
        Fault::Lost => Some("lost"),
        Fault::OomKilled => Some("oom_killed"),
        Fault::NoExitCode | Fault::StartFailed => Some("backend_error"),
        // The attempt gets over these.
        _ => None,
    }
}

/// Whether a container was launched for the attempt.
fn launched(fault: Option<Fault>) -> bool {
    !matches!(fault, Some(Fault::Throttled | Fault::LaunchRejected))
}

/// Waits until all have ended; nobody waits for the pauses between their attempts.
async fn all_end(fleet: &Fleet, ids: &[JobId]) {
    for id in ids {
        eventually(PATIENCE, async || {
            fleet.execute("update container_jobs set parked_until = now() where parked_until is not null").await;
            !matches!(fleet.job(*id).await["status"].as_str(), Some("pending" | "running"))
        })
        .await;
    }
}

#[tokio::test]
async fn two_hundred_jobs_end_as_documented() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(50).await;
    // Whoever is throttled may run nowhere else, and asks until then.
    let settings = Settings { launch_timeout_seconds: 30, ..quick() };
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(settings)];
    fleet.served(host, 1).await;
    let keys: Vec<String> = (1..=200).map(|n| format!("order-{n}")).collect();
    let labels = |key| {
        [
            ("key", key),
            ("seed", "365"),
            ("duration", "50ms"),
            ("start_delay", "300ms"),
            ("hidden_for", "500ms"),
            ("lines", "2000"),
            ("line_bytes", "1000"),
            (
                "fail",
                "throttled:0.08,launch_rejected:0.02,unavailable:0.06,lost_response:0.06,hidden:0.05,slow_start:0.05,\
                 start_failed:0.05,lost:0.05,oom_killed:0.1,no_exit_code:0.05,log_flood:0.02",
            ),
        ]
    };
    let fates: Vec<Vec<Option<Fault>>> = keys.iter().map(|key| fate(&labels(key))).collect();
    let met: BTreeSet<Option<Fault>> = fates.iter().flatten().copied().collect();
    assert_eq!(met.len(), 12, "every fault is met, and some meet none: {met:?}");
    let throttled = |fate: &Vec<Option<Fault>>| fate.iter().filter(|met| **met == Some(Fault::Throttled)).count();
    assert!(
        fates.iter().all(|fate| throttled(fate) < 2),
        "another seed: nobody is to wait through two launch deadlines"
    );

    let policy = json!({ "spec": { "retry": { "max_attempts": ATTEMPTS, "backoff_seconds": 0 } } });
    let bodies: Vec<Value> = keys.iter().map(|key| jobs::with(jobs::mock(&labels(key)), policy.clone())).collect();
    let ids = fleet.producer().await.submit_all(&bodies).await;
    all_end(&fleet, &ids).await;

    let mut expected = BTreeMap::new();
    for ((id, key), fate) in ids.iter().zip(&keys).zip(&fates) {
        let job = fleet.job(*id).await;
        let attempts = fleet.attempts(*id).await;
        let classes: Vec<Option<&str>> = attempts.iter().map(|attempt| attempt["failure_class"].as_str()).collect();
        assert_eq!(classes, fate.iter().map(|fault| class(*fault)).collect::<Vec<_>>(), "{key} met {fate:?}: {job}");
        let failed = fate.last().copied().and_then(class);
        assert_eq!(job["status"], if failed.is_some() { "failed" } else { "completed" }, "{key} met {fate:?}");
        for (n, (attempt, fault)) in (1..).zip(attempts.iter().zip(fate)) {
            let exit_code = match class(*fault) {
                None => json!(0),
                Some("oom_killed") => json!(137),
                Some(_) => Value::Null,
            };
            assert_eq!(attempt["exit_code"], exit_code, "{key} met {fault:?} in attempt {n}");
            if launched(*fault) {
                expected.insert((*id, n), 1);
            }
            if *fault == Some(Fault::LogFlood) {
                assert_eq!(fleet.log(*id, n, "stdout").await.len(), 2_000_000, "{key}: the flood is complete");
            }
        }
    }
    assert_eq!(fleet.ledger().starts(), expected, "one container for each attempt that was launched, and no other");
}

/// A worker whose launches are not idempotent: a 503 may have been a launch, so it is not repeated in the attempt.
#[tokio::test]
async fn what_may_have_been_launched_is_not_repeated_where_it_must_not_be() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(10).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let _worker = fleet.process(PART, Role::Worker, &[("MOCK_IDEMPOTENCE", "never")]).await;
    fleet.served(host, 1).await;

    let labels = |key| [("key", key), ("seed", "28"), ("fail", "unavailable:0.3,lost_response:0.7")];
    let keys: Vec<String> = (1..=20).map(|n| format!("order-{n}")).collect();
    let fates = keys.iter().map(|key| {
        let labels = labels(key).map(|(name, value)| (format!("mock.{name}"), value.to_owned())).into();
        // Each attempt is lost until one is launched.
        (1..).take_while(|n| fault(&Value::Null, &labels, JobId::new(), *n) == Ok(Some(Fault::Unavailable))).count()
    });
    let fates: Vec<usize> = fates.collect();
    assert_eq!(fates.iter().max(), Some(&2), "the seed gives each fault, and nobody more than the budget pays for");
    let bodies: Vec<Value> = keys.iter().map(|key| jobs::mock(&labels(key))).collect();
    let ids = fleet.producer().await.submit_all(&bodies).await;
    all_end(&fleet, &ids).await;

    for (id, lost) in ids.iter().zip(&fates) {
        let (job, attempts) = (fleet.job(*id).await, fleet.attempts(*id).await);
        assert_eq!((&job["status"], attempts.len()), (&json!("completed"), lost + 1), "{job}");
        assert!(attempts[..*lost].iter().all(|attempt| attempt["failure_class"] == "lost"), "{attempts:?}");
        assert!(attempts.iter().all(|attempt| !attempt["launch_sent_at"].is_null()), "{attempts:?}");
    }
    assert_eq!(fleet.ledger().runs().count(), ids.len(), "one container for each job");
}
