//! Task definitions: found by what they say, and registered within the account's limit.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use gantry_core::FailureClass;
use gantry_double::{Fault, Rule};
use gantry_worker::executor::Executor;
use serde_json::json;

use crate::common::Lab;
use crate::{new_definition, of};

/// 24 definitions at once, half of them asked for by each of two executors, which have one account: each is registered
/// once, 20 at once and then one a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_stay_under_the_limit() {
    registrations_stay_under(1.0, 24, 20, 3).await;
}

/// The same for one of four processes: five at once and then one in four seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_stay_under_a_share_of_the_limit() {
    registrations_stay_under(0.25, 6, 5, 3).await;
}

async fn registrations_stay_under(share: f64, count: usize, burst: usize, least_seconds: u64) {
    let lab = Lab::new().await;
    let host = lab.host_with(json!({}), json!({ "registration_share": share }));
    let (one, other, third) = (lab.executor(), lab.executor(), lab.executor());
    let specs: Vec<_> = (0..count).map(|_| new_definition()).collect();
    let began = Instant::now();
    // Each twice at once, by the one or by the other: with a bucket of its own, neither would have to wait.
    let halves = specs.iter().enumerate().map(|(n, spec)| (if n % 2 == 0 { &one } else { &other }, spec));
    let prepared = join_all(halves.clone().chain(halves).map(|(executor, spec)| executor.prepare(&host, spec))).await;
    assert!(prepared.iter().all(Result::is_ok), "{prepared:?}");
    let took = began.elapsed();
    // And then by one that remembers nothing.
    for spec in &specs {
        third.prepare(&host, spec).await.expect("they exist");
    }
    let exchanges = lab.double.exchanges();
    let registered = of(&exchanges, "RegisterTaskDefinition");
    let families: HashSet<_> = registered.iter().map(|exchange| exchange.request["family"].to_string()).collect();
    assert_eq!((registered.len(), families.len()), (count, count), "the same content is registered once");
    let first = registered.iter().map(|exchange| exchange.at).min().expect("there are some");
    let in_the_burst = registered.iter().filter(|e| e.at < first + Duration::from_millis(500)).count();
    assert!(in_the_burst <= burst, "{in_the_burst} at once");
    assert!(took >= Duration::from_secs(least_seconds), "{count} registrations took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_too_many_waits_and_is_done() {
    let lab = Lab::new().await;
    let body = json!({ "__type": "ClientException", "message": "Too many concurrent attempts to create a new revision of the specified family." });
    let spec = new_definition();
    let dir = spec.container.working_dir.clone().expect("it has one");
    lab.double.faults().add(Rule::new(Fault::Status { status: 400, body }).containing(dir).times(1));
    lab.executor().prepare(&lab.host(), &spec).await.expect("it waits, and is registered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ecs_cannot_do_is_refused_by_name() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    for (field, value) in [
        ("mounts", json!([{ "source": "/a", "target": "/b" }])),
        ("network", json!("jobs")),
        ("gpus", json!(1)),
        ("read_only_root", json!(true)),
        ("cpu_limit", json!(17)),
        ("command", json!(["x".repeat(9_000)])),
    ] {
        let spec = serde_json::from_value(json!({ "image": "i", field: value })).expect("a spec");
        let failure = executor.validate(&host, &spec).expect_err("ECS has no such thing");
        assert_eq!(failure.class, FailureClass::InvalidSpec);
        assert!(failure.message.contains(field), "{field}: {failure}");
    }
}
