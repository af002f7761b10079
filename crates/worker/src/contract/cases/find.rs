//! What became of a launch.

use std::time::Duration;

use crate::contract::{Bench, Verdict};
use crate::executor::Found;

/// Running or ended, it is found by its name, by any worker, and is absent only when it was removed.
pub async fn a_container_is_found_in_every_state(bench: &Bench<'_>) -> Verdict {
    let (host, executor) = (bench.subject.host(), bench.executor());
    let started = bench.start(bench.subject.sleep(Duration::from_secs(120))?).await;
    let (name, found) = (&started.launch.name, Found::Found(started.id.clone()));
    assert_eq!(executor.find(host, name).await, found, "just launched");
    bench.until_running(&started.id).await;
    assert_eq!(bench.subject.another().find(host, name).await, found, "running, asked by another worker");
    executor.stop(host, &started.id, Duration::ZERO).await.expect("stops");
    bench.until_ended(&started.id).await;
    assert_eq!(executor.find(host, name).await, found, "ended");
    executor.remove(host, &started.id).await.expect("removes");
    bench
        .until("a removed one is absent", async || (executor.find(host, name).await == Found::Absent).then_some(()))
        .await;
    Ok(())
}

/// A name that nothing was launched under is absent, even if it is the beginning of another's.
pub async fn what_never_was_is_absent(bench: &Bench<'_>) -> Verdict {
    let mut launch = bench.launch_of(bench.subject.exit(0)?);
    bench.until_absent(&launch.name).await;
    let name = launch.name.clone();
    launch.name.push('2');
    bench.start_launch(launch).await;
    // Only a longer name is taken.
    bench.until_absent(&name).await;
    Ok(())
}

/// A host that does not answer cannot say that there is none.
pub async fn an_unreachable_host_knows_nothing(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.exit(0)?);
    let found = bench.executor().find(&bench.subject.unreachable_host(), &launch.name).await;
    assert!(matches!(found, Found::Unknown(_)), "nobody answered, and yet it is {found:?}");
    Ok(())
}
