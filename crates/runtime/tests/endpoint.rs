//! The process's own endpoint, with the metrics that telemetry collects.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gantry_runtime::{
    Shutdown, process,
    serve::{Config, Readiness, Server},
    telemetry,
};
use opentelemetry::{KeyValue, global};
use serde_json::{Value, json};

async fn start(readiness: &Readiness, shutdown: &Shutdown) -> Server {
    process::install_tls();
    let config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
    Server::start(&config, readiness.clone(), shutdown.clone()).await.expect("a free port")
}

async fn get(server: &Server, path: &str) -> (u16, String) {
    let url = format!("http://{}{path}", server.addr());
    let response = reqwest::get(url).await.expect("an answer");
    let status = response.status().as_u16();
    (status, response.text().await.expect("a body"))
}

#[tokio::test]
async fn readiness_tells_which_check_fails_and_liveness_asks_nobody() {
    let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
    let server = start(&readiness, &shutdown).await;
    assert_eq!(get(&server, "/readyz").await.0, 200);

    let up = Arc::new(AtomicBool::new(false));
    let seen = up.clone();
    readiness.register("postgres", || async { Ok(()) });
    readiness.register("broker", move || {
        let up = seen.load(Ordering::Relaxed);
        async move { up.then_some(()).ok_or_else(|| "not connected".to_owned()) }
    });
    let (status, body) = get(&server, "/readyz").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 503);
    assert_eq!(
        body,
        json!({"ready": false, "checks": {
            "broker": {"ok": false, "error": "not connected"},
            "postgres": {"ok": true},
        }})
    );
    assert_eq!(get(&server, "/healthz").await, (200, "ok\n".to_owned()));

    up.store(true, Ordering::Relaxed);
    assert_eq!(get(&server, "/readyz").await.0, 200);
    shutdown.request();
    server.stopped().await.expect("an orderly end");
}

#[tokio::test]
async fn a_check_that_hangs_counts_as_failed() {
    let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
    readiness.register("stuck", std::future::pending::<Result<(), String>>);
    let server = start(&readiness, &shutdown).await;
    let (status, body) = get(&server, "/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("no answer within"), "{body}");
}

#[tokio::test]
async fn metrics_of_any_part_are_shown_as_prometheus_text() {
    let _guard = telemetry::init("gantry-test", &telemetry::Config::default()).expect("telemetry");
    assert!(matches!(
        telemetry::init("gantry-test", &telemetry::Config::default()),
        Err(telemetry::Error::AlreadyStarted)
    ));
    let meter = global::meter("gantry");
    let jobs = meter.u64_counter("gantry.jobs.accepted").build();
    jobs.add(3, &[KeyValue::new("door", "http")]);

    let server = start(&Readiness::new(), &Shutdown::new()).await;
    let (status, body) = get(&server, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("gantry_jobs_accepted_total{door=\"http\"} 3"), "{body}");
    assert!(body.contains("service_name=\"gantry-test\""), "{body}");
}
