//! What is over is removed; what runs is not.

use std::time::Duration;

use crate::contract::{Bench, Verdict};
use crate::executor::{Found, Observed};

/// Afterwards it is gone and absent, and removing it again succeeds, as does removing what never was.
pub async fn what_ended_is_removed_for_good(bench: &Bench<'_>) -> Verdict {
    let (host, executor) = (bench.subject.host(), bench.executor());
    let started = bench.start(bench.subject.print("output\n", "")?).await;
    bench.until_ended(&started.id).await;
    executor.remove(host, &started.id).await.expect("removes");
    bench.until("it is gone", async || (bench.observe(&started.id).await == Observed::Gone).then_some(())).await;
    assert_eq!(executor.find(host, &started.launch.name).await, Found::Absent);
    assert_eq!(bench.owned().await, []);
    executor.remove(host, &started.id).await.expect("removing it again succeeds");
    bench.subject.another().remove(host, &started.id).await.expect("so it does for another worker");
    executor.remove(host, &bench.subject.unknown_id()).await.expect("it never was");
    Ok(())
}

/// A running container is refused and runs on.
pub async fn a_running_container_is_not_removed(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.sleep(Duration::from_secs(120))?).await;
    bench.until_running(&started.id).await;
    let answer = bench.executor().remove(bench.subject.host(), &started.id).await;
    assert!(answer.is_err(), "a running container was removed");
    bench.until_running(&started.id).await;
    Ok(())
}

/// One that was never started is removed like one that ended.
pub async fn a_created_container_is_removed(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.exit(0)?);
    let created = bench.subject.leave_created(&launch).await?;
    bench.executor().remove(bench.subject.host(), &created).await.expect("it never ran");
    assert_eq!(bench.executor().find(bench.subject.host(), &launch.name).await, Found::Absent);
    assert_eq!(bench.owned().await, []);
    Ok(())
}
