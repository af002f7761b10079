//! States and lists.

use std::time::Duration;

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_double::{Fault, Rule};
use gantry_worker::executor::{ExecutionId, Executor, Found, Observed};
use serde_json::{Value, json};

use crate::common::{Lab, sh};
use crate::{launch_of, of, until_ended, until_running};

/// Five hundred and more are asked for in hundreds, whatever becomes of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_are_asked_for_in_hundreds() {
    let lab = Lab::new().await;
    let id = |n: usize| ExecutionId(format!("arn:aws:ecs:us-east-1:000000000000:task/gantry/{n:032x}"));
    let ids: Vec<_> = (0..250).map(id).collect();
    let (executor, host) = (lab.executor(), lab.host_with(json!({}), json!({ "settle_seconds": 1 })));
    assert_eq!(executor.observe(&host, &ids).await.expect("answers"), [], "they may only be slow to show");
    // As long as ECS may be slow.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let states = executor.observe(&host, &ids).await.expect("answers");
    assert!(states.len() == 250 && states.iter().all(|(_, state)| *state == Observed::Gone));
    let exchanges = lab.double.exchanges();
    let mut sizes: Vec<_> =
        of(&exchanges, "DescribeTasks").iter().map(|e| e.request["tasks"].as_array().map_or(0, Vec::len)).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 50, 100, 100, 100, 100]);
}

/// An ECS that is not there for a moment says nothing about what runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_503_while_it_runs_is_no_end() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let launch = launch_of(sh("sleep 10; exit 9"));
    let id = executor.launch(&host, &launch).await.expect("launches");
    until_running(&executor, &host, &id).await;
    lab.double.faults().add(Rule::new(Fault::Status { status: 503, body: Value::Null }));
    for _ in 0..3 {
        let failure = executor.observe(&host, std::slice::from_ref(&id)).await.expect_err("nobody knows how it is");
        assert_eq!(failure.class, FailureClass::BackendError, "{failure}");
    }
    let found = lab.executor().find(&host, &launch.name).await;
    assert!(matches!(found, Found::Unknown(_)), "nobody knows whether it is: {found:?}");
    lab.double.faults().clear();
    assert_eq!(until_ended(&executor, &host, &id).await.outcome, Outcome::Exited(9));
    let exchanges = lab.double.exchanges();
    let refused = of(&exchanges, "DescribeTasks").iter().filter(|exchange| exchange.status == 503).count();
    assert!(refused >= 3, "every look met one: {refused}");
}

/// Where ECS takes `startedBy` only by itself, an ended task is found all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_task_is_found_where_filters_do_not_mix() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let launch = launch_of(sh("exit 3"));
    let id = executor.launch(&host, &launch).await.expect("launches");
    until_ended(&executor, &host, &id).await;
    let body = json!({ "__type": "InvalidParameterException", "message": "startedBy must be the only filter." });
    lab.double.faults().add(Rule::new(Fault::Status { status: 400, body }).containing("\"STOPPED\"").times(1));
    assert_eq!(lab.executor().find(&host, &launch.name).await, Found::Found(id));
}
