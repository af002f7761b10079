//! What the mock promises beyond the contract: prompt ends, faults, a ledger that can be trusted.

#![expect(clippy::disallowed_methods, reason = "asks the executor itself")]

use std::path::Path;
use std::time::{Duration, Instant};

use gantry_core::host::Host;
use gantry_core::naming::external_name;
use gantry_core::{ExecutorType, FailureClass, FleetId, HostId, JobId};
use gantry_executor_mock::{MockExecutor, ledger};
use gantry_worker::executor::{ExecutionId, Executor, Found, Launch, LaunchError, Observed};
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
async fn a_launcher_killed_before_its_ledger_line_hides_nothing() {
    let fixture = fixture();
    let (launch, id) = fixture.start(json!({})).await;
    std::fs::write(fixture.path("ledger.jsonl"), "").expect("writes");
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)], 1);
    fixture.executor.remove(&fixture.host, &id).await.expect("removes");
    assert_eq!(ledger::read(fixture.dir.path()).expect("readable").starts()[&(launch.job, 1)], 1);
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
