//! How containers end, what they used, and how soon it is known.

use std::time::{Duration, Instant};

use bollard::query_parameters::KillContainerOptionsBuilder;
use futures::StreamExt;
use gantry_core::FailureClass;
use gantry_core::state::Outcome;
use gantry_executor_docker::DockerExecutor;
use gantry_worker::executor::{ExecutionId, Executor, Observed};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::common::{endpoint, host_to, sh, words};
use crate::lab::Lab;

#[tokio::test]
async fn a_memory_limit_is_told_every_time() {
    let lab = Lab::new();
    // The engine learns of the kill and of the end by two ways: often enough to see one overtake the other.
    let ends = futures::stream::iter(0..24).map(async |n| {
        // At once, and after a while: the engine does not watch the limit from the first moment on.
        let script = r#"exec awk 'BEGIN { s = "x"; while (1) s = s s }'"#;
        let mut spec = sh(&format!("sleep {}; {script}", if n % 2 == 0 { "0" } else { "1.2" }));
        spec.container.memory_limit_mb = Some(16);
        lab.run(spec).await.1
    });
    for end in ends.buffer_unordered(6).collect::<Vec<_>>().await {
        let Outcome::Failed(failure) = &end.outcome else { panic!("killed at its limit, and seen as {end:?}") };
        assert_eq!((failure.class, failure.exit_code), (FailureClass::OomKilled, Some(137)));
        assert!(failure.message.contains("16 MiB"), "{failure}");
    }
}

#[tokio::test]
async fn a_job_that_copes_with_a_kill_has_not_failed() {
    let lab = Lab::new();
    let mut spec = sh(r#"awk 'BEGIN { s = "x"; while (1) s = s s }'; exit 0"#);
    spec.container.memory_limit_mb = Some(16);
    assert_eq!(lab.run(spec).await.1.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn use_of_memory_and_cpu_is_sampled() {
    let lab = Lab::new();
    // 30 MB held and one CPU busy, for long enough to be sampled.
    let script = r#"awk 'BEGIN { s = "x"; while (length(s) < 30000000) s = s s; while (1) n++ }'"#;
    let mut spec = sh(&format!("timeout 4 {script}; exit 0"));
    spec.container.memory_limit_mb = Some(256);
    let (_, end) = lab.run(spec).await;
    let memory = end.max_memory_usage.expect("a sample");
    assert!((30_000_000..260_000_000).contains(&memory), "{memory}");
    let cpu = end.cpu_usage_percent.expect("a sample");
    assert!((5.0..220.0).contains(&cpu), "{cpu}");
    let run = end.run.expect("the engine's times");
    assert!((Duration::from_millis(3500)..Duration::from_secs(20)).contains(&run), "{run:?}");
}

#[tokio::test]
async fn a_short_container_has_no_sample() {
    let lab = Lab::new();
    let (_, end) = lab.run(words(&["true"])).await;
    assert_eq!((end.max_memory_usage, end.cpu_usage_percent), (None, None));
    assert_eq!(end.message, "");
}

#[tokio::test]
async fn an_end_wakes_a_waiter_at_once() {
    let lab = Lab::new();
    let id = lab.start(sh("sleep 1")).await;
    let at_most = Duration::from_secs(30);
    let began = Instant::now();
    loop {
        if let Observed::Ended(_) = lab.observe(&id).await {
            break;
        }
        // Other tests' containers end too, so it may wake more often than for this one.
        lab.executor.changed(&lab.host, at_most).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "woken only after {:?}", began.elapsed());
}

#[tokio::test]
async fn what_happens_between_two_waits_is_not_missed() {
    let lab = Lab::new();
    lab.executor.changed(&lab.host, Duration::from_millis(500)).await;
    // It ends while nobody waits; the end is seen by other means.
    lab.run_unwatched(sh("exit 0")).await;
    let began = Instant::now();
    lab.executor.changed(&lab.host, Duration::from_secs(30)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "it had ended before: {:?}", began.elapsed());
}

/// The shim of a container, which the engine asks about it by way of containerd; frozen for as long as this lives.
struct FrozenShim(rustix::process::Pid);

impl FrozenShim {
    fn of(id: &str) -> Self {
        let shim = std::fs::read_dir("/proc").expect("Linux").flatten().find_map(|entry| {
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let is_its = line.contains("containerd-shim") && line.split('\0').any(|word| word == id);
            is_its.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        });
        let pid = shim.and_then(rustix::process::Pid::from_raw).expect("every running container has a shim");
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("it is there");
        Self(pid)
    }
}

impl Drop for FrozenShim {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

#[tokio::test]
async fn a_container_that_the_engine_hangs_on_hides_no_other() {
    let lab = Lab::new();
    let stuck = lab.start(sh("trap 'exit 7' TERM; sleep 600 & wait")).await;
    let running = lab.start(sh("sleep 600")).await;
    let (ended, _) = lab.run(sh("exit 3")).await;
    let shim = FrozenShim::of(&stuck.0);
    let all = [stuck.clone(), running.clone(), ended.clone()];
    // The engine keeps the container to itself for as long as it waits for the signal to be sent.
    let stop = tokio::spawn({
        let docker = lab.docker().await;
        let stuck = stuck.clone();
        async move { docker.kill_container(&stuck.0, Some(KillContainerOptionsBuilder::new().signal("TERM").build())).await }
    });
    let began = Instant::now();
    let states = loop {
        let states = lab.executor.observe(&lab.host, &all).await.expect("the engine answers for the others");
        let seen: Vec<&ExecutionId> = states.iter().map(|(id, _)| id).collect();
        assert!(seen.contains(&&running) && seen.contains(&&ended), "{states:?}");
        if !seen.contains(&&stuck) {
            break states;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the engine does not hang on it");
    };
    assert!(states.iter().any(|(_, state)| matches!(state, Observed::Ended(end) if end.outcome == Outcome::Exited(3))));
    drop(shim);
    stop.await.expect("no panic").expect("the signal is sent in the end");
    // The question that hung may be on its way still: then a look at this one alone has no answer yet.
    let began = Instant::now();
    while lab.executor.observe(&lab.host, std::slice::from_ref(&stuck)).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "the engine answers once the signal is sent");
        // The pace of asking.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(lab.until_ended(&stuck).await.outcome, Outcome::Exited(7));
}

/// A caller may wait for a connection and not be polled for a while, as in a `select!` whose other branch goes on. It
/// must not keep the others from the engine meanwhile.
#[tokio::test]
async fn who_waits_for_a_connection_without_going_on_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let (executor, host) =
        (DockerExecutor::new(), host_to(json!({ "endpoint": format!("unix://{}", socket.display()) }), json!({})));
    let mut forgotten = Box::pin(executor.identity(&host));
    let silent = tokio::select! {
        accepted = listener.accept() => accepted.expect("a connection").0,
        identity = &mut forgotten => panic!("nobody has answered: {identity:?}"),
    };
    // From here on the engine is there, and nobody polls the first caller.
    drop(silent);
    let engine = endpoint();
    let _relay = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = UnixStream::connect(engine.trim_start_matches("unix://")).await.expect("the test engine");
            connections
                .spawn(async move { copy_bidirectional(&mut client, &mut server).await.map(drop).unwrap_or_default() });
        }
    }));
    let answered = async {
        while executor.identity(&host).await.is_err() {
            // The pace of asking.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("the engine answers, whoever asked before");
    drop(forgotten);
}
