//! One start for one attempt: a request that may have been taken is never repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gantry_core::{FailureClass, FleetId};
use gantry_double::{Fault, Faults, Rule};
use gantry_executor_scaleway::double::{Double, SECRET_KEY};
use gantry_worker::executor::{Executor as _, Found, LaunchError};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::common::{double, executor, host_at, sh};
use crate::{arrived, launch_of, until};

/// The answer is lost, or an error of the server's.
#[tokio::test]
async fn a_start_is_never_repeated() {
    let unavailable = Fault::Status { status: 503, body: json!({}) };
    for (fault, runs) in [(Fault::LostResponse, 1), (unavailable, 0)] {
        let faults = Faults::new(1);
        faults.add(Rule::new(fault.clone()).to("POST", "/start"));
        let double = double(faults).await;
        let (executor, host) = (executor(), host_at(&double.url(), "main"));
        let launch = launch_of(FleetId::new(), sh("exit 0"));
        executor.prepare(&host, &launch.spec).await.expect("can be prepared");
        let error = executor.launch(&host, &launch).await.expect_err("no answer");
        assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{fault:?}: {error}");
        assert_eq!(arrived(&double, "/start"), 1, "{fault:?}");
        let found = until("it is known what became of it", async || {
            let found = executor.find(&host, &launch.name).await;
            (!matches!(found, Found::Unknown(_))).then_some(found)
        })
        .await;
        assert_eq!(matches!(found, Found::Found(_)), runs == 1, "{fault:?}: {found:?}");
        assert_eq!(arrived(&double, "/start"), 1, "looking is not launching");
        double.end().await.expect("ends");
    }
}

/// A start that was refused with 429 is no start: it is not repeated by the executor, and when the worker sends it again,
/// there is one run.
#[tokio::test]
async fn a_start_that_was_refused_with_429_is_no_start() {
    let faults = Faults::new(1);
    let body = json!({ "type": "too_many_requests", "message": "slow down" });
    faults.add(Rule::new(Fault::Status { status: 429, body }).to("POST", "/start").times(2));
    let double = double(faults).await;
    let (executor, host) = (executor(), host_at(&double.url(), "main"));
    let launch = launch_of(FleetId::new(), sh("exit 0"));
    executor.prepare(&host, &launch.spec).await.expect("can be prepared");
    for refused in 1..=2 {
        match executor.launch(&host, &launch).await {
            Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::Throttled, "{failure}"),
            other => panic!("it was refused for certain, and it is {other:?}"),
        }
        assert_eq!(arrived(&double, "/start"), refused, "the executor sends each once");
        assert_eq!(runs(&double).await.len(), 0, "nothing was started");
    }
    let id = executor.launch(&host, &launch).await.expect("launches");
    assert_eq!(arrived(&double, "/start"), 3, "two were refused, and one was accepted");
    let runs = runs(&double).await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0]["id"], id.0);
    assert_eq!(runs[0]["environment_variables"]["GANTRY_EXTERNAL_NAME"], launch.name);
    double.end().await.expect("ends");
}

/// A start whose answer takes its time is waited for, and is one start.
#[tokio::test]
async fn a_start_that_is_answered_late_is_waited_for() {
    let (faults, later) = (Faults::new(1), Duration::from_millis(1_500));
    faults.add(Rule::new(Fault::Latency { millis: 1_500 }).to("POST", "/start").times(1));
    let double = double(faults).await;
    let (executor, host) = (executor(), host_at(&double.url(), "main"));
    let launch = launch_of(FleetId::new(), sh("exit 0"));
    executor.prepare(&host, &launch.spec).await.expect("can be prepared");
    let began = Instant::now();
    let id = executor.launch(&host, &launch).await.expect("the answer comes");
    assert!(began.elapsed() >= later, "{:?}", began.elapsed());
    assert_eq!(arrived(&double, "/start"), 1, "it was sent once");
    let runs = runs(&double).await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0]["id"], id.0);
    double.end().await.expect("ends");
}

/// All runs that the double has, as the service shows them.
async fn runs(double: &Double) -> Vec<Value> {
    let url = format!("{}/serverless-jobs/v1alpha2/regions/fr-par/job-runs", double.url());
    let answer = reqwest::Client::new().get(url).header("x-auth-token", SECRET_KEY).send().await.expect("answers");
    let body: Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
    body["job_runs"].as_array().expect("a list").clone()
}

/// The connection is closed in the middle of the request, after it, or in the middle of the answer; and a new one would
/// be taken at once.
#[tokio::test]
async fn a_start_over_a_connection_that_breaks_is_never_repeated() {
    for half_an_answer in
        ["", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", "HTTP/1.1 307 Moved\r\nlocation: /\r\n\r\n"]
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&starts);
        let service = tokio::spawn(async move {
            loop {
                let (mut connection, _) = listener.accept().await.expect("connections");
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = connection.read(&mut bytes).await {
                        let request = String::from_utf8_lossy(&bytes[..count]).into_owned();
                        let Some(answer) = answer(&request) else {
                            counted.fetch_add(1, Ordering::Relaxed);
                            let _ = connection.write_all(half_an_answer.as_bytes()).await;
                            return;
                        };
                        let _ = connection.write_all(answer.as_bytes()).await;
                    }
                });
            }
        });
        let (executor, host) = (executor(), host_at(&url, "main"));
        let launch = launch_of(FleetId::new(), sh("exit 0"));
        executor.prepare(&host, &launch.spec).await.expect("can be prepared");
        let error = executor.launch(&host, &launch).await.expect_err("no answer");
        assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{half_an_answer:?}: {error}");
        assert_eq!(starts.load(Ordering::Relaxed), 1, "{half_an_answer:?}");
        service.abort();
    }
}

/// Anything but a start is answered well.
fn answer(request: &str) -> Option<String> {
    let body: Value = match request.lines().next()?.split(' ').nth(1)? {
        path if path.ends_with("/start") => return None,
        path if path.ends_with("/job-resources") => json!({ "resources": [] }),
        _ if request.starts_with("POST") => json!({ "id": "d", "name": "n" }),
        _ => json!({ "job_definitions": [], "total_count": 0 }),
    };
    let body = body.to_string();
    Some(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}
