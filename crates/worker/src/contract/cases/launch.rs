//! One container for a name, whatever becomes of the answer.

use std::time::Duration;

use gantry_core::state::Outcome;
use gantry_core::{Failure, FailureClass};

use crate::contract::{Bench, NotApplicable, Verdict};
use crate::executor::{Found, Idempotence, Launch, LaunchError, Observed};

/// Long enough to be seen running by a slow engine; every case that uses it stops the container.
const LONG: Duration = Duration::from_secs(120);

/// The plain path, and the times that the backend gives for it.
pub async fn a_launch_runs_once_to_its_end(bench: &Bench<'_>) -> Verdict {
    let time = Duration::from_secs(2);
    let started = bench.start(bench.subject.sleep(time)?).await;
    let end = bench.until_ended(&started.id).await;
    assert_eq!(end.outcome, Outcome::Exited(0), "{end:?}");
    let run = end.run.expect("a backend tells how long it ran");
    // Some backends count whole seconds.
    assert!(run + Duration::from_secs(1) >= time && run < bench.subject.patience(), "ran for {run:?}");
    assert_eq!(bench.until_ended(&started.id).await.outcome, end.outcome, "an end does not change");
    Ok(())
}

/// A name that is taken means adopt: the same id again, and one container.
pub async fn a_launch_again_is_the_same_container(bench: &Bench<'_>) -> Verdict {
    idempotent(bench)?;
    let started = bench.start(bench.subject.sleep(LONG)?).await;
    bench.until_running(&started.id).await;
    let again = bench.executor().launch(bench.subject.host(), &started.launch).await.expect("adopts");
    assert_eq!(again, started.id);
    let another = bench.subject.another();
    let adopted = another.launch(bench.subject.host(), &started.launch).await.expect("another worker adopts");
    assert_eq!(adopted, started.id);
    assert_one_container(bench, &started.launch).await;
    Ok(())
}

/// A container that ran is never run again under its name: its work is done.
pub async fn a_launch_again_after_the_end_starts_nothing(bench: &Bench<'_>) -> Verdict {
    idempotent(bench)?;
    let started = bench.start(bench.subject.print("once\n", "")?).await;
    let end = bench.until_ended(&started.id).await;
    let again = bench.executor().launch(bench.subject.host(), &started.launch).await.expect("adopts");
    assert_eq!(again, started.id);
    assert_eq!(bench.observe(&started.id).await, Observed::Ended(end));
    assert_eq!(bench.whole_log(&started.id, 4096).await.stdout, b"once\n");
    assert_one_container(bench, &started.launch).await;
    Ok(())
}

/// Two workers that launch one name at one time (an owner and its adopter) get one container.
pub async fn two_launches_at_once_are_one_container(bench: &Bench<'_>) -> Verdict {
    idempotent(bench)?;
    let launch = bench.launch_of(bench.subject.sleep(LONG)?);
    let (host, another) = (bench.subject.host(), bench.subject.another());
    bench.executor().prepare(host, &launch.spec).await.expect("can be prepared");
    let (one, two) = futures::join!(bench.executor().launch(host, &launch), another.launch(host, &launch));
    assert_eq!(one.expect("launched or adopted"), two.expect("launched or adopted"));
    assert_one_container(bench, &launch).await;
    Ok(())
}

/// The answer is lost, the container is not.
pub async fn a_launch_whose_answer_is_lost_is_found(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.lost_response()?);
    let host = bench.subject.host();
    let error = bench.executor().launch(host, &launch).await.expect_err("the answer is lost");
    assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{error}");
    let found = bench.subject.another().find(host, &launch.name).await;
    let Found::Found(id) = found else { panic!("it was launched, and is {found:?}") };
    if idempotent(bench).is_ok() {
        assert_eq!(bench.executor().launch(host, &launch).await.expect("adopts"), id);
    }
    assert_one_container(bench, &launch).await;
    Ok(())
}

/// The launch is dropped half way: at any moment, and as soon as the container can be found. What is there
/// afterwards is found by its name, and launching again makes one running container of it.
pub async fn a_launch_dropped_at_any_moment_is_adopted(bench: &Bench<'_>) -> Verdict {
    idempotent(bench)?;
    let host = bench.subject.host();
    for after in [None, Some(0), Some(1), Some(5), Some(20), Some(80)] {
        let launch = bench.launch_of(bench.subject.sleep(LONG)?);
        bench.executor().prepare(host, &launch.spec).await.expect("can be prepared");
        tokio::select! {
            _ = bench.executor().launch(host, &launch) => {}
            () = dropped_at(bench, &launch, after.map(Duration::from_millis)) => {}
        }
        let another = bench.subject.another();
        let id = another.launch(host, &launch).await.expect("launches or adopts");
        bench.until_running(&id).await;
        assert_eq!(another.find(host, &launch.name).await, Found::Found(id.clone()));
        assert_one_container(bench, &launch).await;
        bench.executor().stop(host, &id, Duration::ZERO).await.expect("stops");
    }
    Ok(())
}

/// Returns after a time, or as soon as the container can be found.
async fn dropped_at(bench: &Bench<'_>, launch: &Launch, after: Option<Duration>) {
    match after {
        // The moment is what the case varies.
        Some(time) => tokio::time::sleep(time).await,
        None => {
            bench
                .until("the container is found", async || {
                    matches!(bench.executor().find(bench.subject.host(), &launch.name).await, Found::Found(_))
                        .then_some(())
                })
                .await;
        }
    }
}

/// A host that nobody answers for: certainly not launched, or unknown, but never an id.
pub async fn a_launch_to_nowhere_is_no_container(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.exit(0)?);
    let error = bench.executor().launch(&bench.subject.unreachable_host(), &launch).await.expect_err("nobody answers");
    if let LaunchError::NotLaunched(failure) = error {
        assert_eq!(failure.class, FailureClass::HostUnreachable, "{failure}");
    }
    Ok(())
}

/// A refusal has its class and leaves nothing that runs.
pub async fn a_refused_launch_leaves_nothing_running(bench: &Bench<'_>) -> Verdict {
    let (spec, class) = bench.subject.refused_launch()?;
    let (host, launch) = (bench.subject.host(), bench.launch_of(spec));
    bench.executor().validate(host, &launch.spec).expect("only the launch refuses it");
    bench.executor().prepare(host, &launch.spec).await.expect("only the launch refuses it");
    match bench.executor().launch(host, &launch).await {
        Err(LaunchError::NotLaunched(failure)) => {
            assert_eq!(failure.class, class, "{failure}");
            assert_eq!(failure.exit_code, None, "nothing ran, so nothing exited: {failure}");
        }
        other => panic!("must be refused for certain, was {other:?}"),
    }
    assert!(bench.owned().await.iter().all(|owned| !owned.running), "a refused launch runs");
    Ok(())
}

/// An image that does not exist has its own class, from `prepare`, from the launch or, where the backend pulls only
/// after it has taken the launch, as the end.
pub async fn a_missing_image_is_named(bench: &Bench<'_>) -> Verdict {
    let failure = failure_of(bench, &bench.launch_of(bench.subject.missing_image()?)).await;
    assert_eq!(failure.class, FailureClass::ImageNotFound, "{failure}");
    Ok(())
}

/// An image that the registry does not give is not one that does not exist.
pub async fn a_denied_pull_is_told_apart(bench: &Bench<'_>) -> Verdict {
    let failure = failure_of(bench, &bench.launch_of(bench.subject.denied_image()?)).await;
    assert_eq!(failure.class, FailureClass::ImagePullDenied, "{failure}");
    Ok(())
}

/// Taken by the backend, and never a container: that is an end, and not a start that is waited for for ever.
pub async fn a_start_that_fails_without_a_container_is_an_end(bench: &Bench<'_>) -> Verdict {
    let (spec, class) = bench.subject.fails_to_start()?;
    let started = bench.start(spec).await;
    let end = bench.until_ended(&started.id).await;
    let Outcome::Failed(failure) = &end.outcome else { panic!("there never was a container, and it is {end:?}") };
    assert_eq!((failure.class, failure.exit_code), (class, None), "{failure}");
    assert_eq!(end.run, None, "what never started ran for no time: {end:?}");
    let page = bench.page(&started.id, None, 4096).await;
    assert_eq!((page.chunks.len(), page.more), (0, false), "what never started printed nothing: {page:?}");
    bench.executor().stop(bench.subject.host(), &started.id, Duration::ZERO).await.expect("it is over");
    Ok(())
}

/// A place without room says so, and runs it neither now nor later.
pub async fn a_place_without_room_says_so(bench: &Bench<'_>) -> Verdict {
    let failure = failure_of(bench, &bench.launch_of(bench.subject.no_room()?)).await;
    assert_eq!(failure.class, FailureClass::NoCapacity, "{failure}");
    Ok(())
}

/// A backend that asks to slow down has launched nothing, and says for certain that it has not.
pub async fn a_throttled_launch_is_no_container(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.throttled()?);
    match bench.executor().launch(bench.subject.host(), &launch).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::Throttled, "{failure}"),
        other => panic!("asked to slow down, the launch gave {other:?}"),
    }
    bench.until_absent(&launch.name).await;
    Ok(())
}

/// How a launch that must fail fails, at whatever step. Nothing of it may run.
async fn failure_of(bench: &Bench<'_>, launch: &Launch) -> Failure {
    let host = bench.subject.host();
    bench.executor().validate(host, &launch.spec).expect("only the place can tell");
    let failure = match bench.executor().prepare(host, &launch.spec).await {
        Err(failure) => failure,
        Ok(_) => match bench.executor().launch(host, launch).await {
            Err(LaunchError::NotLaunched(failure)) => failure,
            Err(error @ LaunchError::MaybeLaunched(_)) => panic!("refused, and the launch gave {error}"),
            Ok(id) => match bench.until_ended(&id).await.outcome {
                Outcome::Failed(failure) => failure,
                outcome @ Outcome::Exited(_) => panic!("it cannot have run, and ended with {outcome:?}"),
            },
        },
    };
    assert_eq!(failure.exit_code, None, "nothing ran, so nothing exited: {failure}");
    assert!(bench.owned().await.iter().all(|owned| !owned.running), "what failed runs");
    failure
}

/// What a worker created and did not live to start is this attempt's: launching starts it.
pub async fn a_created_container_is_adopted_and_started(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.exit(3)?);
    let created = bench.subject.leave_created(&launch).await?;
    assert_eq!(bench.executor().find(bench.subject.host(), &launch.name).await, Found::Found(created.clone()));
    assert_eq!(bench.observe(&created).await, Observed::Starting);
    let id = bench.executor().launch(bench.subject.host(), &launch).await.expect("adopts");
    assert_eq!(id, created);
    assert_eq!(bench.until_ended(&id).await.outcome, Outcome::Exited(3));
    assert_one_container(bench, &launch).await;
    Ok(())
}

fn idempotent(bench: &Bench<'_>) -> Verdict {
    match bench.executor().idempotence() {
        Idempotence::Never => Err(NotApplicable("a launch under a name is not idempotent here")),
        Idempotence::Forever | Idempotence::For(_) => Ok(()),
    }
}

async fn assert_one_container(bench: &Bench<'_>, launch: &Launch) {
    let owned = bench.owned().await;
    let count = owned.iter().filter(|owned| owned.job == launch.job).count();
    assert_eq!(count, 1, "one launch, one container: {owned:?}");
}
