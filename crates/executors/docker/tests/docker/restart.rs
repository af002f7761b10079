//! An engine that goes down takes its containers along: that is not their own end.

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_servers::DockerEngine;
use gantry_worker::executor::{Executor, Observed};
use serde_json::json;

use crate::common::sh;
use crate::lab::Lab;

#[tokio::test]
async fn an_end_with_the_engine_is_the_engines_fault() {
    let data = tempfile::tempdir().expect("a folder");
    let engine = DockerEngine::start(data.path()).await.expect("an engine of this test's own");
    engine.import_test_image().await.expect("the test image");
    let endpoint = format!("unix://{}", engine.socket_path().display());
    let lab = Lab::at(&endpoint, json!({}));
    let mut spec = sh("trap 'exit 143' TERM; sleep 100 & wait");
    spec.container.image = gantry_servers::TEST_IMAGE.into();
    let running = lab.start(spec.clone()).await;
    let mut killed = spec.clone();
    killed.container.command = sh("exit 137").container.command;
    let (by_itself, _) = lab.run(killed.clone()).await;
    let created = lab.launch_of(spec);
    assert_eq!(lab.observe(&running).await, Observed::Running);
    let identity = lab.executor.check(&lab.host).await.expect("answers").identity;

    // Dropped and not stopped: an orderly stop would kill the containers while the engine is still up.
    drop(engine);
    let engine = DockerEngine::start(data.path()).await.expect("the engine again");

    // Not asked before the engine went down, so nothing of it was in the executor's memory.
    let Observed::Ended(end) = lab.observe(&running).await else { panic!("it went down with the engine") };
    let Outcome::Failed(failure) = &end.outcome else { panic!("not its own end: {end:?}") };
    assert_eq!((failure.class, failure.exit_code), (FailureClass::BackendError, None), "{failure}");
    assert!(failure.class.is_infrastructure());
    // An end that nobody saw before the engine went down cannot be told from one that came with it.
    assert!(matches!(lab.observe(&by_itself).await, Observed::Ended(_)));
    // The engine is the same, and a container of its new life ends by itself.
    assert_eq!(lab.executor.check(&lab.host).await.expect("answers again").identity, identity);
    let (_, end) = lab.run(killed).await;
    assert_eq!(end.outcome, Outcome::Exited(137));
    lab.executor.launch(&lab.host, &created).await.expect("launches as before");
    drop(lab);
    engine.stop().await.expect("stops");
}

/// It ends well while no engine looks, and what it printed meanwhile is lost with the engine.
#[tokio::test]
async fn a_log_that_the_engine_lost_is_told_to_be_cut() {
    let data = tempfile::tempdir().expect("a folder");
    let engine = DockerEngine::start(data.path()).await.expect("an engine of this test's own");
    engine.import_test_image().await.expect("the test image");
    let endpoint = format!("unix://{}", engine.socket_path().display());
    let lab = Lab::at(&endpoint, json!({}));
    let mut spec = sh("for line in 1 2 3 4 5 6 7 8; do echo $line; sleep 0.5; done");
    spec.container.image = gantry_servers::TEST_IMAGE.into();
    let (_, whole) = lab.run(spec.clone()).await;
    assert!(!whole.log_cut, "{whole:?}");
    // Somebody listens, as a worker does.
    lab.executor.changed(&lab.host, std::time::Duration::from_millis(1)).await;
    let running = lab.start(spec.clone()).await;
    engine.crash().await.expect("is killed");
    // It has ended by itself by then.
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let engine = DockerEngine::start(data.path()).await.expect("the engine again");
    let Observed::Ended(end) = lab.observe(&running).await else { panic!("it is over") };
    assert!(end.log_cut, "{end:?}");
    drop(lab);
    engine.stop().await.expect("stops");
}
