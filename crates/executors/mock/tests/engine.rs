//! What the mock promises beyond the contract: prompt ends, faults, a ledger that can be trusted.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

use std::path::Path;
use std::time::{Duration, Instant};

use gantry_core::host::Host;
use gantry_core::naming::external_name;
use gantry_core::{ExecutorType, FailureClass, FleetId, HostId, JobId};
use gantry_executor_mock::{Fault, MockExecutor, fault, ledger};
use gantry_worker::executor::{ExecutionId, Executor, Found, Idempotence, Launch, LaunchError, LogCursor, Observed};
use serde_json::{Value, json};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);

struct Fixture {
    executor: MockExecutor,
    host: Host,
    fleet: FleetId,
    dir: TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().expect("a directory");
    let host = host(json!({ "dir": dir.path() }), json!({}));
    Fixture { executor: MockExecutor::new(), host, fleet: FleetId::new(), dir }
}

fn host(connection_config: Value, executor_config: Value) -> Host {
    Host {
        id: HostId::new(),
        name: "mock".into(),
        executor_type: ExecutorType::Mock,
        connection_config,
        executor_config,
    }
}

impl Fixture {
    fn launch(&self, labels: Value) -> Launch {
        let (job, attempt) = (JobId::new(), 1);
        let spec = serde_json::from_value(json!({"image": "any", "labels": labels})).expect("a spec");
        Launch { name: external_name(self.fleet, job, attempt), fleet: self.fleet, job, attempt, spec }
    }

    async fn start(&self, labels: Value) -> (Launch, ExecutionId) {
        let launch = self.launch(labels);
        let id = self.executor.launch(&self.host, &launch).await.expect("launches");
        (launch, id)
    }

    async fn state(&self, executor: &MockExecutor, id: &ExecutionId) -> Observed {
        let mut states = executor.observe(&self.host, std::slice::from_ref(id)).await.expect("reachable");
        states.pop().expect("one was asked for").1
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn ledger_text(&self) -> String {
        std::fs::read_to_string(self.path("ledger/00000001.jsonl")).expect("readable")
    }
}

#[tokio::test]
async fn an_end_is_announced_without_polling() {
    let fixture = fixture();
    let began = Instant::now();
    let (_, id) = fixture.start(json!({"mock.duration": "200ms"})).await;
    while !matches!(fixture.state(&fixture.executor, &id).await, Observed::Ended(_)) {
        fixture.executor.changed(&fixture.host, LONG).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launch_wakes_who_waits_for_a_later_end() {
    let fixture = fixture();
    fixture.start(json!({"mock.duration": "1h"})).await;
    let began = Instant::now();
    let launch = async {
        // Either order must do: the waiter may be asleep by now, or come later.
        tokio::time::sleep(Duration::from_millis(50)).await;
        fixture.start(json!({})).await
    };
    let ((), (_, id)) = tokio::join!(fixture.executor.changed(&fixture.host, LONG), launch);
    assert!(matches!(fixture.state(&fixture.executor, &id).await, Observed::Ended(_)));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_end_nobody_asks_for_does_not_make_a_busy_loop() {
    let fixture = fixture();
    fixture.start(json!({})).await;
    let (began, mut wakes) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(2) {
        fixture.executor.changed(&fixture.host, Duration::from_secs(2)).await;
        wakes += 1;
    }
    assert!(wakes < 20, "woken {wakes} times for one end");
}

#[tokio::test]
async fn a_stop_by_another_worker_is_seen() {
    let fixture = fixture();
    let (_, id) = fixture.start(json!({"mock.duration": "1h"})).await;
    let (_, other) = fixture.start(json!({"mock.duration": "1h"})).await;
    let another = MockExecutor::new();
    for id in [&id, &other] {
        // Right after one another: the second change may leave the folder's time as it was.
        assert_eq!(fixture.state(&fixture.executor, id).await, Observed::Running);
        another.stop(&fixture.host, id, Duration::ZERO).await.expect("stops");
        assert!(matches!(fixture.state(&fixture.executor, id).await, Observed::Ended(_)));
    }
    another.remove(&fixture.host, &id).await.expect("removes");
    assert_eq!(fixture.state(&fixture.executor, &id).await, Observed::Gone);

    // Stopped and removed between two looks.
    let (_, id) = fixture.start(json!({"mock.duration": "1h"})).await;
    another.stop(&fixture.host, &id, Duration::ZERO).await.expect("stops");
    another.remove(&fixture.host, &id).await.expect("removes");
    assert_eq!(fixture.state(&fixture.executor, &id).await, Observed::Gone);
}

#[tokio::test]
async fn a_slow_stop_ends_it_late_and_is_a_kill_without_grace() {
    let fixture = fixture();
    let labels = json!({"mock.fail": "slow_stop", "mock.stop_delay": "300ms", "mock.duration": "1h"});
    for (grace, least, code) in
        [(Duration::from_secs(5), Duration::from_millis(300), 143), (Duration::ZERO, Duration::ZERO, 137)]
    {
        let (_, id) = fixture.start(labels.clone()).await;
        let began = Instant::now();
        fixture.executor.stop(&fixture.host, &id, grace).await.expect("stops");
        let end = loop {
            if let Observed::Ended(end) = fixture.state(&fixture.executor, &id).await {
                break end;
            }
            fixture.executor.changed(&fixture.host, LONG).await;
        };
        assert_eq!(end.outcome, gantry_core::state::Outcome::Exited(code));
        let took = began.elapsed();
        assert!(took >= least && took < Duration::from_secs(10), "{took:?}");
    }
}

#[tokio::test]
async fn faults_happen_where_they_belong() {
    let fixture = fixture();
    for class in ["image_not_found", "image_pull_denied"] {
        let launch = fixture.launch(json!({ "mock.fail": class }));
        let failure = fixture.executor.prepare(&fixture.host, &launch.spec).await.expect_err("no image");
        assert_eq!(failure.class.as_str(), class);
    }
    for class in ["invalid_spec", "launch_rejected", "no_capacity", "throttled", "host_unreachable", "backend_error"] {
        let launch = fixture.launch(json!({ "mock.fail": class }));
        fixture.executor.validate(&fixture.host, &launch.spec).expect("a fault is no mistake in the spec");
        fixture.executor.prepare(&fixture.host, &launch.spec).await.expect("only the launch fails");
        match fixture.executor.launch(&fixture.host, &launch).await {
            Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class.as_str(), class),
            other => panic!("{class}: {other:?}"),
        }
        assert_eq!(fixture.executor.find(&fixture.host, &launch.name).await, Found::Absent);
    }
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").runs().count(), 0);
}

#[tokio::test]
async fn a_lost_container_runs_and_is_nowhere_to_be_found() {
    let fixture = fixture();
    let (launch, id) = fixture.start(json!({"mock.fail": "lost", "mock.duration": "300ms"})).await;
    assert_eq!(fixture.state(&fixture.executor, &id).await, Observed::Running);
    while fixture.state(&fixture.executor, &id).await == Observed::Running {
        fixture.executor.changed(&fixture.host, LONG).await;
    }
    assert_eq!(fixture.state(&fixture.executor, &id).await, Observed::Gone);
    assert_eq!(fixture.executor.find(&fixture.host, &launch.name).await, Found::Absent);
    assert_eq!(fixture.executor.list_owned(&fixture.host, fixture.fleet).await.expect("reachable"), []);
    let failure = fixture.executor.logs(&fixture.host, &id, None, 100).await.expect_err("nothing to read");
    assert_eq!(failure.class, FailureClass::Lost);
}

#[tokio::test]
async fn an_unavailable_service_has_done_nothing_and_does_it_the_second_time() {
    let fixture = fixture();
    let launch = fixture.launch(json!({"mock.fail": "unavailable", "mock.duration": "1h"}));
    let error = fixture.executor.launch(&fixture.host, &launch).await.expect_err("503");
    assert!(matches!(error, LaunchError::MaybeLaunched(_)), "{error}");
    assert_eq!(fixture.executor.find(&fixture.host, &launch.name).await, Found::Absent);
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").runs().count(), 0);

    // Whoever tries again: what the first one met is known to all.
    let another = MockExecutor::new();
    let id = another.launch(&fixture.host, &launch).await.expect("launches");
    assert_eq!(fixture.executor.launch(&fixture.host, &launch).await.expect("adopts"), id);
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)], 1);
}

#[tokio::test]
async fn what_is_hidden_is_unknown_and_never_absent() {
    let fixture = fixture();
    let (launch, id) = fixture.start(json!({"mock.hidden_for": "1500ms"})).await;
    let (executor, host) = (&fixture.executor, &fixture.host);
    assert_eq!(executor.observe(host, std::slice::from_ref(&id)).await.expect("reachable"), []);
    assert!(matches!(executor.find(host, &launch.name).await, Found::Unknown(_)));
    assert_eq!(executor.list_owned(host, fixture.fleet).await.expect("reachable"), []);
    assert!(executor.logs(host, &id, None, 100).await.is_err());
    assert!(executor.stop(host, &id, Duration::ZERO).await.is_err());
    assert!(executor.remove(host, &id).await.is_err());
    assert_eq!(executor.launch(host, &launch).await.expect("adopts"), id, "the name is taken for all that");

    // Its end is announced once it can be seen.
    let began = Instant::now();
    while executor.observe(host, std::slice::from_ref(&id)).await.expect("reachable").is_empty() {
        executor.changed(host, LONG).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(matches!(fixture.state(executor, &id).await, Observed::Ended(_)));
    executor.remove(host, &id).await.expect("removes");
}

#[tokio::test]
async fn any_worker_draws_the_same_faults() {
    let fixture = fixture();
    let faults = json!({"fail": {"throttled": 0.3, "no_exit_code": 0.3}, "seed": 11});
    let host = host(json!({ "dir": fixture.dir.path() }), faults);
    let mut met = std::collections::BTreeMap::new();
    for _ in 0..100 {
        let launch = fixture.launch(json!({}));
        let expected = fault(&host.executor_config, &launch.spec.labels, launch.job, 1).expect("valid");
        *met.entry(expected).or_insert(0) += 1;
        match MockExecutor::new().launch(&host, &launch).await {
            Err(LaunchError::NotLaunched(failure)) => {
                assert_eq!((expected, failure.class), (Some(Fault::Throttled), FailureClass::Throttled));
            }
            Ok(id) => {
                let Observed::Ended(end) = fixture.state(&fixture.executor, &id).await else { panic!("0 s are over") };
                assert_eq!(end.outcome.failure().is_some(), expected == Some(Fault::NoExitCode), "{end:?}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(met.len() == 3 && met.values().all(|count| *count > 10), "{met:?}");
}

#[tokio::test]
async fn a_flood_is_read_in_pages_and_never_stored() {
    let fixture = fixture();
    let labels =
        json!({"mock.lines": "100000", "mock.line_bytes": "100", "mock.print_time": "0s", "mock.duration": "1h"});
    let (_, id) = fixture.start(labels).await;
    let (mut bytes, mut cursor): (usize, Option<LogCursor>) = (0, None);
    loop {
        let page = fixture.executor.logs(&fixture.host, &id, cursor.as_ref(), 1 << 20).await.expect("readable");
        bytes += page.chunks.iter().map(|(_, chunk)| chunk.len()).sum::<usize>();
        cursor = page.cursor;
        if !page.more {
            break;
        }
    }
    assert_eq!(bytes, 10_000_000);
    assert!(fixture.ledger_text().len() < 1000);
}

#[tokio::test]
async fn what_says_much_is_a_container_all_the_same() {
    let fixture = fixture();
    let text = "x".repeat(100_000);
    let (launch, id) = fixture.start(json!({ "mock.stdout": text })).await;
    let another = MockExecutor::new();
    assert_eq!(another.launch(&fixture.host, &launch).await.expect("adopts"), id);
    let page = another.logs(&fixture.host, &id, None, 1 << 20).await.expect("readable");
    assert_eq!(page.chunks, [(gantry_worker::executor::Stream::Stdout, text.into())]);
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)], 1);

    fixture.executor.remove(&fixture.host, &id).await.expect("removes");
    assert_eq!(another.find(&fixture.host, &launch.name).await, Found::Absent);
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").left().count(), 0);
    assert_eq!(std::fs::read_dir(fixture.path("scratch")).expect("a folder").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_launch_one_name_at_once_get_one_container() {
    let fixture = fixture();
    for _ in 0..50 {
        let launch = fixture.launch(json!({"mock.duration": "1h"}));
        let launches: Vec<_> = (0..4)
            .map(|_| {
                let (host, launch) = (fixture.host.clone(), launch.clone());
                tokio::spawn(async move { MockExecutor::new().launch(&host, &launch).await })
            })
            .collect();
        let mut ids = std::collections::BTreeSet::new();
        for launch in launches {
            ids.insert(launch.await.expect("no panic").expect("launches or adopts"));
        }
        assert_eq!(ids.len(), 1, "{ids:?}");
        assert_eq!(ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)], 1);
    }
}

#[tokio::test]
async fn a_launch_repeated_where_it_must_not_be_is_in_the_ledger() {
    let fixture = fixture();
    let never = MockExecutor::new().with_idempotence(Idempotence::Never);
    let launch = fixture.launch(json!({"mock.duration": "1h"}));
    never.launch(&fixture.host, &launch).await.expect("launches");
    let starts = || ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)];
    assert_eq!(starts(), 1);
    let error = never.launch(&fixture.host, &launch).await.expect_err("a second container");
    assert!(matches!(error, LaunchError::NotLaunched(failure) if failure.class == FailureClass::LaunchRejected));
    assert_eq!(starts(), 2, "it is counted");

    let launch = fixture.launch(json!({"mock.duration": "1h"}));
    let starts = || ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)];
    let hour = MockExecutor::new().with_idempotence(Idempotence::For(Duration::from_secs(3600)));
    let id = hour.launch(&fixture.host, &launch).await.expect("launches");
    assert_eq!(hour.launch(&fixture.host, &launch).await.expect("adopts"), id);
    assert_eq!(starts(), 1);
    let none = MockExecutor::new().with_idempotence(Idempotence::For(Duration::ZERO));
    assert!(none.launch(&fixture.host, &launch).await.is_err(), "its time is over");
    assert_eq!(starts(), 2);
}

#[tokio::test]
async fn a_host_with_a_bad_configuration_fails_its_check() {
    let fixture = fixture();
    let typo = host(json!({ "dir": fixture.dir.path() }), json!({"durration": "1s"}));
    let failure = fixture.executor.check(&typo).await.expect_err("no job is sent there to fail");
    assert_eq!(failure.class, FailureClass::InvalidSpec);
    assert!(failure.message.starts_with("executor_config.durration: "), "{failure}");
}

#[tokio::test]
async fn a_name_is_never_taken_from_another_job() {
    let fixture = fixture();
    let (launch, _) = fixture.start(json!({})).await;
    let thief = Launch { job: JobId::new(), ..launch };
    let error = fixture.executor.launch(&fixture.host, &thief).await.expect_err("taken");
    assert!(matches!(error, LaunchError::NotLaunched(failure) if failure.class == FailureClass::LaunchRejected));
}

#[tokio::test]
async fn the_ledger_outlives_the_containers() {
    let fixture = fixture();
    let (long, id) = fixture.start(json!({"mock.duration": "1h"})).await;
    let (short, short_id) = fixture.start(json!({"mock.duration": "0s"})).await;
    let ledger = ledger::read(fixture.dir.path()).expect("readable");
    assert_eq!((ledger.max_concurrency(), ledger.runs().count()), (2, 2));

    fixture.executor.stop(&fixture.host, &id, Duration::ZERO).await.expect("stops");
    for id in [&id, &short_id] {
        fixture.executor.remove(&fixture.host, id).await.expect("removes");
        fixture.executor.remove(&fixture.host, id).await.expect("removes again");
    }
    let after = fixture.start(json!({"mock.duration": "1h"})).await.0;
    let ledger = ledger::read(fixture.dir.path()).expect("readable");
    assert_eq!(ledger.max_concurrency(), 2, "the stopped one was over before the third began");
    let starts = ledger.starts();
    assert_eq!([&long, &short, &after].map(|launch| starts[&(launch.job, 1)]), [1, 1, 1]);

    // The same attempt a second time, which Gantry must never do, is counted.
    fixture.executor.launch(&fixture.host, &long).await.expect("the name is free again");
    let ledger = ledger::read(fixture.dir.path()).expect("readable");
    assert_eq!(ledger.starts()[&(long.job, 1)], 2);
}

#[tokio::test]
async fn a_launch_that_was_answered_is_in_the_ledger() {
    let fixture = fixture();
    let (launch, id) = fixture.start(json!({"mock.duration": "1h"})).await;
    assert_eq!(fixture.ledger_text().lines().count(), 1, "there is nothing else that could be lost");
    let ledger = || ledger::read(fixture.dir.path()).expect("readable");
    assert_eq!(ledger().left().collect::<Vec<_>>(), [launch.name.as_str()]);
    fixture.executor.stop(&fixture.host, &id, Duration::ZERO).await.expect("stops");
    fixture.executor.remove(&fixture.host, &id).await.expect("removes");
    assert_eq!(fixture.ledger_text().lines().count(), 3);
    assert_eq!((ledger().left().count(), ledger().starts()[&(launch.job, 1)]), (0, 1));
}

#[tokio::test]
async fn a_process_that_comes_later_knows_what_is_there() {
    let fixture = fixture();
    let (running, id) = fixture.start(json!({"mock.duration": "1h"})).await;
    let (_, stopped) = fixture.start(json!({"mock.duration": "1h"})).await;
    let (_, removed) = fixture.start(json!({})).await;
    fixture.executor.stop(&fixture.host, &stopped, Duration::ZERO).await.expect("stops");
    fixture.executor.remove(&fixture.host, &removed).await.expect("removes");
    let later = MockExecutor::new();
    assert_eq!(fixture.state(&later, &id).await, Observed::Running);
    assert!(matches!(fixture.state(&later, &stopped).await, Observed::Ended(_)));
    assert_eq!(fixture.state(&later, &removed).await, Observed::Gone);
    assert_eq!(later.list_owned(&fixture.host, fixture.fleet).await.expect("reachable").len(), 2);
    assert_eq!(later.launch(&fixture.host, &running).await.expect("adopts"), id);
    later.remove(&fixture.host, &stopped).await.expect("removes");
    assert_eq!(fixture.state(&fixture.executor, &stopped).await, Observed::Gone);
}

#[tokio::test]
async fn another_directory_is_another_engine() {
    let fixture = fixture();
    let before = fixture.executor.check(&fixture.host).await.expect("reachable").identity;
    let (_, id) = fixture.start(json!({"mock.duration": "1h"})).await;
    empty(fixture.dir.path());
    assert!(fixture.executor.observe(&fixture.host, &[id]).await.is_err(), "the engine is gone, not its containers");
    let after = fixture.executor.check(&fixture.host).await.expect("reachable").identity;
    assert_ne!(before, after);
}

fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removable");
    }
}

#[tokio::test]
async fn a_bad_connection_says_what_is_wrong() {
    let fixture = fixture();
    for connection in [json!({}), json!({"dir": 1}), json!({"dir": "/tmp", "port": 1}), json!(null)] {
        let failure = fixture.executor.check(&host(connection, json!({}))).await.expect_err("not a connection");
        assert!(failure.message.contains("connection_config"), "{failure}");
    }
}

#[tokio::test]
async fn the_hosts_defaults_hold_where_no_label_says_otherwise() {
    let fixture = fixture();
    let host = host(json!({ "dir": fixture.dir.path() }), json!({"exit_code": 7, "stdout": "hello\n"}));
    let launch = fixture.launch(json!({}));
    let id = fixture.executor.launch(&host, &launch).await.expect("launches");
    let Observed::Ended(end) = fixture.state(&fixture.executor, &id).await else { panic!("0 s are over") };
    assert_eq!(end.outcome, gantry_core::state::Outcome::Exited(7));
    let page = fixture.executor.logs(&host, &id, None, 100).await.expect("readable");
    assert_eq!(page.chunks, [(gantry_worker::executor::Stream::Stdout, "hello\n".into())]);
}
