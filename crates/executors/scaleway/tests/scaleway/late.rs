//! Runs that surface late.

use std::time::Duration;

use gantry_core::FleetId;
use gantry_double::{Fault, Faults, Rule};
use gantry_worker::executor::{Executor as _, Found, LaunchError, Observed};

use crate::common::{VISIBLE_WITHIN, double, executor, host_at, sh};
use crate::{launch_of, until};

/// A start whose answer is lost with the process that sent it, and whose run is not shown for longer than the service
/// was believed to take: its attempt is lost. Once the run is shown, the reaper finds it in its list, stops it and is done with it.
#[tokio::test]
async fn a_run_that_surfaces_late_is_listed() {
    let faults = Faults::new(1);
    let hidden = Fault::Hidden { millis: VISIBLE_WITHIN + 2_000 };
    faults.add(Rule::new(hidden).to("POST", "/start"));
    let double = double(faults).await;
    let (host, fleet) = (host_at(&double.url(), "main"), FleetId::new());
    let launch = launch_of(fleet, sh("trap 'exit 143' TERM; sleep 120 & wait"));
    {
        // The process that launched is gone, and with it what it was answered.
        let launcher = executor();
        launcher.prepare(&host, &launch.spec).await.expect("can be prepared");
        launcher.launch(&host, &launch).await.expect("launches");
    }
    let adopter = executor();
    let find = async || {
        let found = adopter.find(&host, &launch.name).await;
        (!matches!(found, Found::Unknown(_))).then_some(found)
    };
    assert_eq!(until("it is called absent", find).await, Found::Absent);
    assert_eq!(adopter.list_owned(&host, fleet).await, Ok(Vec::new()), "not shown yet");

    let owned = until("it surfaces", async || adopter.list_owned(&host, fleet).await.expect("answers").pop()).await;
    assert_eq!((owned.name.as_str(), owned.job, owned.running), (launch.name.as_str(), launch.job, true));
    adopter.remove(&host, &owned.id).await.expect_err("it runs");
    adopter.stop(&host, &owned.id, Duration::from_secs(30)).await.expect("stops");
    until("it is over", async || {
        let states = adopter.observe(&host, std::slice::from_ref(&owned.id)).await.expect("answers");
        states.iter().any(|(_, state)| matches!(state, Observed::Ended(_))).then_some(())
    })
    .await;
    adopter.remove(&host, &owned.id).await.expect("it is over");
    assert_eq!(adopter.list_owned(&host, fleet).await, Ok(Vec::new()));
    double.end().await.expect("ends");
}

/// A place that is not there has not launched, for certain, and nothing else is said of it.
#[tokio::test]
async fn no_connection_is_not_launched() {
    let double = double(Faults::new(1)).await;
    let (executor, host) = (executor(), host_at(&double.url(), "main"));
    let launch = launch_of(FleetId::new(), sh("exit 0"));
    executor.prepare(&host, &launch.spec).await.expect("can be prepared");
    double.end().await.expect("ends");
    match executor.launch(&host, &launch).await {
        Err(LaunchError::NotLaunched(failure)) => {
            assert_eq!(failure.class, gantry_core::FailureClass::HostUnreachable, "{failure}");
        }
        other => panic!("nobody was there, and it is {other:?}"),
    }
    assert!(matches!(executor.find(&host, &launch.name).await, Found::Unknown(_)));
}
