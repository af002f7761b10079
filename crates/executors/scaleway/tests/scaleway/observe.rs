//! States that cannot be had.

use gantry_core::state::Outcome;
use gantry_core::{FailureClass, FleetId};
use gantry_double::{Fault, Faults, Rule};
use gantry_worker::executor::{Executor as _, Found, Observed};
use serde_json::json;

use crate::common::{double, executor, host_at, sh};
use crate::{launch_of, until};

/// A service that is not there for a moment says nothing about what runs.
#[tokio::test]
async fn a_503_while_it_runs_is_no_end() {
    let faults = Faults::new(1);
    let double = double(faults.clone()).await;
    let (executor, other, host) = (executor(), executor(), host_at(&double.url(), "main"));
    let launch = launch_of(FleetId::new(), sh("sleep 10; exit 9"));
    executor.prepare(&host, &launch.spec).await.expect("can be prepared");
    let id = executor.launch(&host, &launch).await.expect("launches");
    let look = async || executor.observe(&host, std::slice::from_ref(&id)).await;
    until("it runs", async || {
        let states = look().await.expect("answers");
        states.iter().any(|(_, state)| *state == Observed::Running).then_some(())
    })
    .await;

    let body = json!({ "type": "temporarily_unavailable", "message": "not now" });
    faults.add(Rule::new(Fault::Status { status: 503, body }));
    for _ in 0..3 {
        let failure = look().await.expect_err("nobody knows how it is");
        assert_eq!(failure.class, FailureClass::BackendError, "{failure}");
    }
    let found = other.find(&host, &launch.name).await;
    assert!(matches!(found, Found::Unknown(_)), "nobody knows whether it is: {found:?}");
    faults.clear();

    let end = until("it is over", async || {
        let states = look().await.expect("answers");
        states.into_iter().find_map(|(_, state)| match state {
            Observed::Ended(end) => Some(end),
            Observed::Gone => panic!("it was running"),
            _ => None,
        })
    })
    .await;
    assert_eq!(end.outcome, Outcome::Exited(9));
    assert_eq!(other.find(&host, &launch.name).await, Found::Found(id));
    double.end().await.expect("ends");
}
