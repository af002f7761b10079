//! How a container ended.

use gantry_core::FailureClass;
use gantry_core::state::Outcome;

use crate::contract::{Bench, Verdict};

/// 0 and 3 and 255 arrive as they are.
pub async fn exit_codes_are_kept(bench: &Bench<'_>) -> Verdict {
    for code in [0, 3, 255] {
        let started = bench.start(bench.subject.exit(code)?).await;
        assert_eq!(bench.until_ended(&started.id).await.outcome, Outcome::Exited(code));
    }
    Ok(())
}

/// SIGKILL from inside is 137 and no OOM kill; SIGTERM is 143.
pub async fn a_signal_is_128_and_its_number(bench: &Bench<'_>) -> Verdict {
    for signal in [9, 15] {
        let started = bench.start(bench.subject.killed(signal)?).await;
        assert_eq!(bench.until_ended(&started.id).await.outcome, Outcome::Exited(128 + signal));
    }
    Ok(())
}

/// An OOM kill is a failure of its own class, its exit code kept.
pub async fn an_oom_kill_is_told_apart(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.oom()?).await;
    let end = bench.until_ended(&started.id).await;
    match &end.outcome {
        Outcome::Failed(failure) => {
            assert_eq!(failure.class, FailureClass::OomKilled, "{end:?}");
            assert!(matches!(failure.exit_code, Some(137) | None), "{end:?}");
        }
        Outcome::Exited(_) => panic!("killed at its memory limit, and seen as {end:?}"),
    }
    Ok(())
}
