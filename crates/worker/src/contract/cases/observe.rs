//! States of many containers, and what is no state.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use gantry_core::state::Outcome;

use crate::contract::{Bench, Verdict};
use crate::executor::{ExecutionId, Found, Observed};

/// Twenty at once, with one among them that never was: each has its own state, and that one is gone.
pub async fn many_are_observed_at_once(bench: &Bench<'_>) -> Verdict {
    let mut codes = HashMap::new();
    for code in 0..19 {
        codes.insert(bench.start(bench.subject.exit(code)?).await.id, code);
    }
    let sleeper = bench.start(bench.subject.sleep(Duration::from_secs(120))?).await.id;
    let nobody = bench.subject.unknown_id();
    let ids: Vec<ExecutionId> = codes.keys().chain([&sleeper, &nobody]).cloned().collect();
    let states = bench
        .until("all that should end have ended", async || {
            let states: HashMap<_, _> = bench
                .executor()
                .observe(bench.subject.host(), &ids)
                .await
                .expect("the host answers")
                .into_iter()
                .collect();
            let ended = states.values().filter(|state| matches!(state, Observed::Ended(_))).count();
            let running = states.get(&sleeper) == Some(&Observed::Running);
            (states.len() == ids.len() && ended == codes.len() && running).then_some(states)
        })
        .await;
    for (id, state) in states {
        match codes.get(&id) {
            Some(code) => {
                let Observed::Ended(end) = state else { panic!("{id} should have ended, it is {state:?}") };
                assert_eq!(end.outcome, Outcome::Exited(*code), "{id}");
            }
            None if id == nobody => assert_eq!(state, Observed::Gone),
            None => assert_eq!(state, Observed::Running),
        }
    }
    Ok(())
}

/// Asking of nothing answers nothing.
pub async fn none_are_observed_as_none(bench: &Bench<'_>) -> Verdict {
    assert_eq!(bench.executor().observe(bench.subject.host(), &[]).await.expect("the host answers"), []);
    Ok(())
}

/// A host that does not answer says nothing of its containers, least of all that they are gone.
pub async fn a_poll_error_is_no_state(bench: &Bench<'_>) -> Verdict {
    let started = bench.start(bench.subject.sleep(Duration::from_secs(120))?).await;
    let ids = [started.id.clone(), bench.subject.unknown_id()];
    let answer = bench.executor().observe(&bench.subject.unreachable_host(), &ids).await;
    assert!(answer.is_err(), "nobody answered, and yet there are states: {answer:?}");
    bench.until_running(&started.id).await;
    Ok(())
}

/// A backend that shows late what it launched is asked again: it is neither gone nor absent, for any worker.
pub async fn what_is_not_visible_yet_is_not_gone(bench: &Bench<'_>) -> Verdict {
    let (host, another) = (bench.subject.host(), bench.subject.another());
    let started = bench.start(bench.subject.hidden_at_first()?).await;
    bench
        .until("it is seen to run", async || {
            for executor in [bench.executor(), another.as_ref()] {
                let seen = bench.look(executor, &started.id).await;
                assert!(matches!(seen, None | Some(Observed::Starting | Observed::Running)), "it runs, seen: {seen:?}");
                let found = executor.find(host, &started.launch.name).await;
                assert_ne!(found, Found::Absent, "it was launched, and may not be called absent");
            }
            let found = another.find(host, &started.launch.name).await == Found::Found(started.id.clone());
            let runs = bench.look(another.as_ref(), &started.id).await == Some(Observed::Running);
            (found && runs).then_some(())
        })
        .await;
    Ok(())
}

/// States are the backend's, not the memory of the process that launched.
pub async fn another_worker_sees_the_same(bench: &Bench<'_>) -> Verdict {
    let ended = bench.start(bench.subject.exit(3)?).await.id;
    let runs = bench.start(bench.subject.sleep(Duration::from_secs(120))?).await.id;
    bench.until_ended(&ended).await;
    bench.until_running(&runs).await;
    let another = bench.subject.another();
    match bench.look(another.as_ref(), &ended).await {
        Some(Observed::Ended(end)) => assert_eq!(end.outcome, Outcome::Exited(3)),
        other => panic!("ended with 3, another worker sees {other:?}"),
    }
    assert_eq!(bench.look(another.as_ref(), &runs).await, Some(Observed::Running));
    another.stop(bench.subject.host(), &runs, Duration::ZERO).await.expect("another worker may stop it");
    bench.until_ended(&runs).await;
    Ok(())
}

/// `changed` is a hint: it may come early, but it always comes, together and one by one.
pub async fn waiting_for_a_change_ends_in_time(bench: &Bench<'_>) -> Verdict {
    let (host, at_most) = (bench.subject.host(), Duration::from_millis(300));
    bench.start(bench.subject.sleep(Duration::from_secs(120))?).await;
    let began = Instant::now();
    bench.executor().changed(host, at_most).await;
    join_all((0..4).map(|_| bench.executor().changed(host, at_most))).await;
    bench.executor().changed(&bench.subject.unreachable_host(), at_most).await;
    assert!(began.elapsed() < at_most * 3 + Duration::from_secs(5), "waited {:?}", began.elapsed());
    Ok(())
}
