//! An engine that goes down takes its containers along: that is not their own end.

use std::time::Duration;

use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_executor_docker::DockerExecutor;
use gantry_servers::DockerEngine;
use gantry_worker::executor::{Executor, Found, Observed};
use serde_json::json;

use crate::common::{leave_created, sh};
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

/// An engine that is asked to stop ends its containers first, while it still talks to whoever is connected. What it would
/// tell of their ends then is not told: whoever asks hears nothing until an engine is there that can say what happened.
#[tokio::test]
async fn an_engine_that_stops_in_order_is_not_believed() {
    let data = tempfile::tempdir().expect("a folder");
    let engine = DockerEngine::start(data.path()).await.expect("an engine of this test's own");
    engine.import_test_image().await.expect("the test image");
    let lab = Lab::at(&format!("unix://{}", engine.socket_path().display()), json!({}));
    let spec = |command| {
        let mut spec = sh(command);
        spec.container.image = gantry_servers::TEST_IMAGE.into();
        spec
    };
    let heeds = lab.start(spec("trap 'exit 143' TERM; sleep 100 & wait")).await;
    // Until it is killed the engine waits.
    let ignores = lab.start(spec("sleep 100")).await;
    let both = [heeds, ignores];
    // Somebody listens, as a worker does.
    lab.executor.changed(&lab.host, Duration::from_millis(1)).await;
    for id in &both {
        assert_eq!(lab.observe(id).await, Observed::Running);
    }

    let mut stopping = std::pin::pin!(engine.terminate());
    loop {
        for (id, state) in lab.executor.observe(&lab.host, &both).await.unwrap_or_default() {
            assert_eq!(state, Observed::Running, "{id}");
        }
        tokio::select! {
            stopped = &mut stopping => break stopped.expect("stops in order"),
            () = lab.executor.changed(&lab.host, Duration::from_millis(20)) => {}
        }
    }
    let engine = DockerEngine::start(data.path()).await.expect("the engine again");
    for id in &both {
        let Observed::Ended(end) = lab.observe(id).await else { panic!("it went down with the engine") };
        let Outcome::Failed(failure) = &end.outcome else { panic!("not its own end: {end:?}") };
        assert_eq!((failure.class, failure.exit_code), (FailureClass::BackendError, None), "{failure}");
    }
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
    lab.executor.changed(&lab.host, Duration::from_millis(1)).await;
    let running = lab.start(spec.clone()).await;
    engine.crash().await.expect("is killed");
    // It has ended by itself by then: it takes 4 s, and there is no engine to ask.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let engine = DockerEngine::start(data.path()).await.expect("the engine again");
    let Observed::Ended(end) = lab.observe(&running).await else { panic!("it is over") };
    assert!(end.log_cut, "{end:?}");
    drop(lab);
    engine.stop().await.expect("stops");
}

/// A killed engine may have started it and not written that down: then it ran, and must not run again. An engine that is
/// still the same knows that it did not.
#[tokio::test]
async fn what_was_created_before_the_engine_was_killed_is_not_started_after() {
    let data = tempfile::tempdir().expect("a folder");
    let engine = DockerEngine::start(data.path()).await.expect("an engine of this test's own");
    engine.import_test_image().await.expect("the test image");
    let endpoint = format!("unix://{}", engine.socket_path().display());
    let lab = Lab::at(&endpoint, json!({}));
    let mut spec = sh("exit 0");
    spec.container.image = gantry_servers::TEST_IMAGE.into();
    let (before, after) = (lab.launch_of(spec.clone()), lab.launch_of(spec));
    leave_created(&endpoint, &before).await;
    let started = lab.executor.launch(&lab.host, &before).await.expect("it certainly never ran");
    assert_eq!(lab.until_ended(&started).await.outcome, Outcome::Exited(0));

    leave_created(&endpoint, &after).await;
    engine.crash().await.expect("is killed");
    let engine = DockerEngine::start(data.path()).await.expect("the engine again");
    // As often as anybody likes: by whoever launched it, or by whoever adopts it.
    for executor in [&lab.executor, &DockerExecutor::new()] {
        let id = executor.launch(&lab.host, &after).await.expect("it is there, and nobody knows whether it ran");
        let states = executor.observe(&lab.host, std::slice::from_ref(&id)).await.expect("the engine answers");
        let [(_, Observed::Ended(end))] = &states[..] else { panic!("nothing more will come of it: {states:?}") };
        let Outcome::Failed(failure) = &end.outcome else { panic!("not its own end: {end:?}") };
        assert_eq!((failure.class, failure.exit_code), (FailureClass::Lost, None), "{failure}");
        let page = executor.logs(&lab.host, &id, None, 1_000).await.expect("its log is read like any other");
        assert!(page.chunks.is_empty() && !page.more, "{page:?}");
    }
    let id = lab.executor.launch(&lab.host, &after).await.expect("still there");
    lab.executor.remove(&lab.host, &id).await.expect("is removed");
    assert!(matches!(lab.executor.find(&lab.host, &after.name).await, Found::Absent));
    drop(lab);
    engine.stop().await.expect("stops");
}
