//! SIGTERM, grace, SIGKILL; and a stop that finds nothing to stop.

use std::time::{Duration, Instant};

use gantry_core::state::Outcome;

use crate::contract::bench::Log;
use crate::contract::{Bench, Verdict};

const LONG: Duration = Duration::from_secs(120);

/// A container that heeds SIGTERM ends with 143, long before the grace is over.
pub async fn sigterm_is_heeded_before_the_grace_is_over(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.sleep(LONG)?).await;
    bench.until_running(&started.id).await;
    let began = Instant::now();
    bench.executor().stop(bench.subject.host(), &started.id, Duration::from_secs(30)).await.expect("stops");
    let end = bench.until_ended(&started.id).await;
    assert_eq!(end.outcome, Outcome::Exited(143), "{end:?}");
    assert!(began.elapsed() < Duration::from_secs(25), "took {:?}", began.elapsed());
    Ok(())
}

/// One that does not is killed after the grace and not before, and ends with 137.
pub async fn sigkill_follows_the_grace(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.ignore_term(LONG)?).await;
    bench.until_running(&started.id).await;
    bench
        .until("it says that it does not heed SIGTERM", async || {
            let mut log = Log::default();
            log.add(&bench.page(&started.id, None, 4096).await);
            (log.stdout == b"ready\n").then_some(())
        })
        .await;
    let (began, grace) = (Instant::now(), Duration::from_secs(2));
    bench.executor().stop(bench.subject.host(), &started.id, grace).await.expect("stops");
    let end = bench.until_ended(&started.id).await;
    assert_eq!(end.outcome, Outcome::Exited(137), "{end:?}");
    let took = began.elapsed();
    // An engine may count the grace in whole seconds of its own clock.
    assert!(took + Duration::from_millis(500) >= grace, "killed after {took:?}, before the grace of {grace:?}");
    assert!(took < LONG, "not killed: it ended by itself");
    Ok(())
}

/// Stopping what has ended, was removed or never was succeeds, and changes no end.
pub async fn stopping_what_is_over_succeeds(bench: &Bench<'_>) -> Verdict {
    let (host, executor) = (bench.subject.host(), bench.executor());
    let started = bench.start(bench.subject.exit(3)?).await;
    let end = bench.until_ended(&started.id).await;
    executor.stop(host, &started.id, Duration::from_secs(1)).await.expect("it has ended");
    assert_eq!(bench.until_ended(&started.id).await.outcome, end.outcome);
    executor.remove(host, &started.id).await.expect("removes");
    executor.stop(host, &started.id, Duration::from_secs(1)).await.expect("it was removed");
    executor.stop(host, &bench.subject.unknown_id(), Duration::from_secs(1)).await.expect("it never was");
    Ok(())
}

/// A stop that nobody heard is an error: the container may run on.
pub async fn stopping_on_an_unreachable_host_fails(bench: &Bench<'_>) -> Verdict {
    let host = bench.subject.unreachable_host();
    let answer = bench.executor().stop(&host, &bench.subject.unknown_id(), Duration::ZERO).await;
    assert!(answer.is_err(), "nobody answered there");
    Ok(())
}
