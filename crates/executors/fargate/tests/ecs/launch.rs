//! Launches: tokens, starts that fail, interruptions, credentials.

use std::time::Duration;

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_double::{Fault, Rule};
use gantry_worker::executor::{Executor, Idempotence, LaunchError};
use serde_json::json;

use crate::common::{Lab, image_of, marked, sh, words};
use crate::{launch_of, of, until_ended, until_running};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_failed_to_start_without_containers_is_an_end() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let launch = launch_of(image_of("never-starts.invalid/image:1"));
    let id = executor.launch(&host, &launch).await.expect("it is taken");
    let end = until_ended(&executor, &host, &id).await;
    let Outcome::Failed(failure) = &end.outcome else { panic!("nothing ran, and it is {end:?}") };
    assert_eq!((failure.class, failure.exit_code, end.run), (FailureClass::BackendError, None, None));
    assert!(failure.message.contains("network interface"), "{failure}");
    let described = lab.double.exchanges();
    let last = of(&described, "DescribeTasks").pop().expect("it was looked at");
    assert_eq!(last.answer["tasks"][0]["containers"], json!([]), "the case is what it says");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_taken_by_another_request_means_adopt() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let mut launch = launch_of(sh("sleep 60"));
    let Idempotence::For(time) = executor.idempotence() else { panic!("a token does not last for ever") };
    assert!(time < Duration::from_secs(24 * 3600), "AWS says up to 24 hours, not {time:?}");
    let id = executor.launch(&host, &launch).await.expect("launches");
    launch.spec = marked(launch.spec, "other parameters");
    assert_eq!(lab.executor().launch(&host, &launch).await.expect("adopts"), id);
    let exchanges = lab.double.exchanges();
    let last = of(&exchanges, "RunTask").pop().expect("it was sent");
    assert_eq!((last.status, &last.answer["__type"]), (400, &json!("ConflictException")));
    executor.stop(&host, &id, Duration::ZERO).await.expect("stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spot_interruption_is_the_places_doing() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host_with(json!({}), json!({ "launch_type": "FARGATE_SPOT" })));
    // A program that takes SIGTERM for a reason to end well has not done its work.
    let launch = launch_of(sh("trap 'exit 0' TERM; echo begun; sleep 60 & wait"));
    let id = executor.launch(&host, &launch).await.expect("launches");
    until_running(&executor, &host, &id).await;
    let exchanges = lab.double.exchanges();
    let run = of(&exchanges, "RunTask").pop().expect("it was launched");
    assert_eq!(run.request["capacityProviderStrategy"][0]["capacityProvider"], "FARGATE_SPOT");
    assert!(run.request.get("launchType").is_none(), "it is the one or the other");
    lab.double.interrupt(&id.0).await.expect("the double does it");
    let end = until_ended(&executor, &host, &id).await;
    let Outcome::Failed(failure) = &end.outcome else { panic!("interrupted, and it is {end:?}") };
    assert_eq!((failure.class, failure.exit_code), (FailureClass::BackendError, None), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_without_credentials_is_certainly_none() {
    let lab = Lab::new().await;
    let host = lab.host_with(json!({ "credentials": "nobody" }), json!({}));
    let failure = lab.executor().check(&host).await.expect_err("there is no such secret");
    assert_eq!(failure.class, FailureClass::BackendError, "{failure}");
    assert!(failure.message.contains("nobody"), "{failure}");
    match lab.executor().launch(&host, &launch_of(words(&["true"]))).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::BackendError, "{failure}"),
        other => panic!("nothing can have been sent, and it is {other:?}"),
    }
}

/// One that was too many is tried again at once; ECS says for certain that it did nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_launch_is_tried_again() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let body = json!({ "__type": "ThrottlingException", "message": "Rate exceeded" });
    lab.double.faults().add(Rule::new(Fault::Status { status: 400, body }).containing("one-too-many").times(2));
    let id = executor.launch(&host, &launch_of(marked(sh("exit 3"), "one-too-many"))).await.expect("launches");
    assert_eq!(until_ended(&executor, &host, &id).await.outcome, Outcome::Exited(3));
    assert_eq!(sent(&lab), [400, 400, 200]);
}

/// What may have been done is for Gantry to find out: neither the executor nor the SDK sends it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_of_unknown_outcome_is_sent_once() {
    let lab = Lab::new().await;
    let (executor, host) = (lab.executor(), lab.host());
    let launch = launch_of(marked(sh("exit 3"), "no-answer"));
    lab.double.faults().add(Rule::new(Fault::LostResponse).containing("no-answer").times(5));
    let error = executor.launch(&host, &launch).await.expect_err("the answer is lost");
    assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{error}");
    assert_eq!(sent(&lab), [200], "it was done, and not sent again");
    let launch = launch_of(marked(sh("exit 3"), "own-fault"));
    let body = json!({ "__type": "ServerException", "message": "Service Unavailable." });
    lab.double.faults().add(Rule::new(Fault::Status { status: 503, body }).containing("own-fault").times(1));
    let error = executor.launch(&host, &launch).await.expect_err("a fault of ECS' own");
    assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{error}");
    assert_eq!(sent(&lab), [200, 503], "nor was this one");
}

/// What every RunTask was answered, by ECS or by a fault.
fn sent(lab: &Lab) -> Vec<u16> {
    of(&lab.double.exchanges(), "RunTask").iter().map(|exchange| exchange.status).collect()
}
