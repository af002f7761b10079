//! One bad item among a hundred, at every stage: it hurts itself and nobody else.

use std::collections::BTreeMap;

use gantry_core::message::{Token, WorkItem};
use gantry_core::{ExecutorType, JobId, WorkerId};
use gantry_store::claims::{self, Request};
use gantry_store::lines::{self, Ask};
use gantry_store::tenants;
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_testkit::{eventually, eventually_some};
use gantry_tests::{Fleet, Message, PATIENCE, Producer, Received, Tap, jobs};
use serde_json::{Value, json};

/// Moves what waits into the window, and publishes nothing: for tests that are the dispatcher themselves.
async fn dispatch(fleet: &Fleet) -> Vec<WorkItem> {
    let standing = lines::standing(&fleet.store, ExecutorType::Mock).await.expect("lines");
    let asks: Vec<Ask> = standing.iter().map(|line| Ask { at: line.entrance(), jobs: 1_000, look: 1_000 }).collect();
    let served = lines::dispatch(&fleet.store, ExecutorType::Mock, &asks).await.expect("dispatched");
    served.into_iter().flat_map(|served| served.items).collect()
}

/// Waits for a dead letter that `is` describes.
async fn dead_letter(dead: &Tap, is: impl Fn(&Received) -> bool) -> Received {
    eventually_some(PATIENCE, async || dead.received().into_iter().find(|letter| is(letter))).await
}

/// Each with its code and field, and whether its tenant is known.
fn bad_messages(producer: &Producer) -> Vec<(Message, &'static str, Option<&'static str>, bool)> {
    let of = |body: Value| producer.message(&jobs::with(jobs::mock(&[]), body));
    let mut not_json = of(json!({}));
    not_json.body = b"{\"spec\": ".to_vec();
    let template = producer.message(&json!({ "template": "none" }));
    let (mut unkeyed, mut stranger) = (of(json!({ "name": "unkeyed" })), of(json!({ "name": "stranger" })));
    unkeyed.message_id = None;
    stranger.api_key = Some("of somebody else".into());
    vec![
        (not_json, "invalid_json", None, true),
        (of(json!({ "nmae": "typing error" })), "invalid_field", Some("nmae"), true),
        (of(json!({ "name": "n\u{0}" })), "invalid_field", Some("name"), true),
        (template, "unknown_template", Some("template"), true),
        (unkeyed, "missing_idempotency_key", Some("idempotency_key"), true),
        (stranger, "unauthorized", None, false),
    ]
}

#[tokio::test]
async fn a_submission() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(40).await;
    // This test reads the queue itself.
    let settings = gantry_dispatcher::Settings { store_dead_letters: false, ..Default::default() };
    let _parts = [fleet.dispatcher_with(settings), fleet.recorder(), fleet.mock_worker(gantry_tests::quick())];
    fleet.served(host, 1).await;
    let producer = fleet.producer().await;
    let dead = fleet.amqp.drain("gantry.dead").await;
    let mut jobs_so_far = 0;
    for (place, (bad, code, field, known)) in bad_messages(&producer).into_iter().enumerate() {
        let body = bad.body.clone();
        let mut messages: Vec<Message> = (0..99).map(|_| producer.message(&jobs::mock(&[]))).collect();
        messages.insert(place * 19, bad);
        let mut answers = producer.ask_all(messages).await;
        let answer = answers.remove(place * 19);
        assert_eq!(answer["result"], "rejected", "{answer}");
        assert_eq!((answer["code"].as_str(), answer["field"].as_str()), (Some(code), field), "{answer}");
        let ids: Vec<JobId> = answers
            .iter()
            .map(|answer| answer["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id"))
            .collect();
        fleet.all_complete(&ids).await;
        jobs_so_far += ids.len();
        assert_eq!(fleet.count("completed").await, jobs_so_far);

        let letter = dead_letter(&dead, |letter| letter.body == body).await;
        let header = |name: &str| letter.headers.get(name).map(String::as_str);
        assert_eq!(header("x-gantry-reason"), Some(code), "{letter:?}");
        assert_eq!(header("x-gantry-origin"), Some("dispatcher"));
        assert_eq!(header("x-gantry-queue"), Some("gantry.submissions"));
        assert!(header("x-gantry-message").is_some_and(|message| !message.is_empty()));
        assert_eq!(header("x-gantry-tenant"), known.then_some(&*fleet.tenant.to_string()), "{letter:?}");
        assert!(!format!("{letter:?}").contains("the-key-of-acme"), "a credential in {letter:?}");
        assert_eq!(header("x-gantry-api-key"), None);
    }
    assert_eq!(dead.received().len(), 6);
}

#[tokio::test]
async fn an_item_of_an_http_array() {
    let (fleet, _parts) = Fleet::simulated(40).await;
    let (_api, client) = fleet.api().await;
    let bad = [
        (json!({ "spec": { "image": "i" }, "nmae": "x" }), "invalid_field", Some("nmae")),
        (json!({ "spec": { "image": "i" }, "name": "n\u{0}" }), "invalid_field", Some("name")),
        (json!({ "template": "none" }), "unknown_template", Some("template")),
        (json!("nonsense"), "invalid_field", None),
    ];
    for (place, (body, code, field)) in bad.into_iter().enumerate() {
        let mut items = vec![jobs::mock(&[]); 99];
        items.insert(place * 33, body);
        let answer = client.post("/v1/jobs", Value::from(items).to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut results = answer.body.as_array().expect("an array").clone();
        let refused = results.remove(place * 33);
        assert_eq!((refused["code"].as_str(), refused["field"].as_str()), (Some(code), field), "{refused}");
        let ids: Vec<JobId> =
            results.iter().map(|result| result["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")).collect();
        assert_eq!(ids.len(), 99);
        fleet.all_complete(&ids).await;
    }
}

/// The list is the message: if one of its items cannot be read the list is put aside, and its other jobs are found
/// by their rows.
#[tokio::test]
async fn an_item_of_a_list_of_work() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(100).await;
    let (_api, client) = fleet.api().await;
    let _parts = [fleet.recorder(), fleet.mock_worker(gantry_tests::quick())];
    fleet.served(host, 1).await;
    let dead = fleet.amqp.drain("gantry.dead").await;
    let nobody = WorkItem { job: JobId::new(), attempt: 1, sequence: 1 };
    let nonsense = [
        (json!(nobody), false),
        (json!({ "job": nobody.job, "attempt": -1, "sequence": i32::MAX }), false),
        (json!({ "job": "nobody", "attempt": 1, "sequence": 1 }), true),
        (json!("nonsense"), true),
    ];
    for (bad, is_put_aside) in nonsense {
        let ids = client.submit_all(&vec![jobs::mock(&[]); 99]).await;
        // Without a dispatcher: the test does what one does, and adds the item.
        let items = dispatch(&fleet).await;
        let mut list: Vec<Value> = items.iter().map(|item| json!(item)).collect();
        list.insert(50, bad.clone());
        let message = json!({ "version": "1", "jobs": list });
        fleet.amqp.publish_json("gantry.jobs", "mock", &message).await;
        fleet.all_complete(&ids).await;
        if is_put_aside {
            let letter = dead_letter(&dead, |letter| letter.json() == message).await;
            assert_eq!(letter.headers["x-gantry-origin"], "worker");
        }
    }
    assert_eq!(dead.received().len(), 2);
}

/// Attempts whose worker is this test.
struct Attempts {
    tokens: Vec<Token>,
}

impl Attempts {
    async fn claim(fleet: &Fleet, jobs: usize) -> Self {
        let host = fleet.mock_host(200).await;
        let worker = NewWorker {
            id: WorkerId::new(),
            executor_type: ExecutorType::Mock,
            name: "test",
            version: "0",
            reads_version: 1,
            lease_seconds: 3_600,
        };
        workers::register(&fleet.store, &worker).await.expect("stored");
        let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
        workers::put_checks(&fleet.store, worker.id, &[check]).await.expect("stored");
        let (api, client) = fleet.api().await;
        client.submit_all(&vec![jobs::mock(&[]); jobs]).await;
        api.stop().await;
        let items = dispatch(fleet).await;
        let request = Request {
            worker: worker.id,
            fleet: tenants::fleet(&fleet.store).await.expect("a fleet"),
            executor: ExecutorType::Mock,
            hosts: &[host],
            items: &items,
            alone: false,
            launch_follows: true,
        };
        let claimed = claims::claim(&fleet.store, &request).await.expect("claimed").claimed;
        assert_eq!(claimed.len(), jobs);
        Self { tokens: claimed.into_iter().map(|claimed| claimed.token).collect() }
    }

    /// The report of an end, with `more` laid over it.
    fn report(&self, index: usize, more: Value) -> Value {
        let mut report = json!(self.tokens[index]);
        let end = json!({ "kind": "ended", "execution_id": "c", "outcome": { "outcome": "exited", "exit_code": 0 } });
        report = jobs::with(report, end);
        jobs::with(report, more)
    }
}

#[tokio::test]
async fn a_report() {
    let fleet = Fleet::new().await;
    let attempts = Attempts::claim(&fleet, 100).await;
    let dead = fleet.amqp.drain("gantry.dead").await;
    let nul = "a\u{0}b";
    let failure = json!({ "outcome": "failed", "class": "oom_killed", "message": nul, "exit_code": 137, "x": nul });
    let bad = BTreeMap::from([
        // Says nothing of an end: nothing is known.
        (10, json!({ "kind": "vanished" })),
        // Cannot be read as a report, but says that it is over, and in the second case how.
        (20, json!({ "outcome": { "outcome": "exited", "exit_code": "zero" } })),
        (25, json!({ "run_millis": "a while" })),
        // Can be read, and holds what Postgres does not take as text.
        (30, json!({ "metadata": { nul: [nul, { "deep": nul }] }, "execution_id": nul })),
        (40, json!({ "outcome": failure, "metadata": nul })),
        // Breaks a rule of the table.
        (50, json!({ "execution_id": "x".repeat(300), "run_millis": 7 })),
        // Larger than a column holds.
        (60, json!({ "run_millis": u64::MAX, "max_memory_usage": u64::MAX })),
    ]);
    let reports: Vec<Value> = (0..100).map(|n| attempts.report(n, bad.get(&n).cloned().unwrap_or(json!({})))).collect();
    fleet.amqp.publish_json("gantry.reports", "gantry.reports", &json!({ "version": "1", "reports": reports })).await;
    let _recorder = fleet.recorder();
    fleet.count_reaches("running", 1).await;

    for (n, token) in attempts.tokens.iter().enumerate() {
        let job = fleet.job(token.job).await;
        let expected = match n {
            10 => "running",
            20 => "pending",
            40 => "failed",
            _ => "completed",
        };
        assert_eq!(job["status"], expected, "{n}: {job}");
        let attempt = &fleet.attempts(token.job).await[0];
        assert_eq!(attempt["slot_held"], json!(expected == "running"), "{n}: {attempt}");
    }
    let unknown_end = fleet.job(attempts.tokens[20].job).await;
    assert_eq!(unknown_end["waiting_reason"], "retry_backoff", "{unknown_end}");
    assert_eq!(fleet.attempts(attempts.tokens[20].job).await[0]["failure_class"], "backend_error");
    let failed = fleet.job(attempts.tokens[40].job).await;
    assert_eq!((&failed["failure_class"], &failed["exit_code"]), (&json!("oom_killed"), &json!(137)));
    assert_eq!(failed["error_message"], "a\u{fffd}b");
    // What could not be read is kept, and so is the payload that could not be stored.
    for n in [10, 20, 25, 50] {
        let id = attempts.tokens[n].job.to_string();
        let letter = dead_letter(&dead, |letter| letter.json()["reports"][0]["job"] == *id).await;
        assert_eq!(letter.headers["x-gantry-reason"], "poison_report", "{letter:?}");
        assert_eq!(letter.json()["reports"].as_array().map(Vec::len), Some(1), "and nothing of its neighbours");
    }
    eventually(PATIENCE, async || fleet.amqp.ready("gantry.reports").await == 0).await;
}

#[tokio::test]
async fn a_list_that_is_no_list() {
    let fleet = Fleet::new().await;
    let attempts = Attempts::claim(&fleet, 10).await;
    let dead = fleet.amqp.drain("gantry.dead").await;
    let _recorder = fleet.recorder();
    let lists = [json!({ "version": "2", "reports": [] }), json!({ "version": "1" }), json!("nonsense"), json!({})];
    for (n, bad) in lists.iter().enumerate() {
        let good = json!({ "version": "1", "reports": [attempts.report(n, json!({}))] });
        fleet.amqp.publish_json("gantry.reports", "gantry.reports", bad).await;
        fleet.amqp.publish_json("gantry.reports", "gantry.reports", &good).await;
    }
    fleet.count_reaches("completed", lists.len()).await;
    for list in &lists {
        let letter = dead_letter(&dead, |letter| letter.json() == *list).await;
        assert_eq!(letter.headers["x-gantry-reason"], "invalid_message", "{letter:?}");
        assert_eq!(letter.headers["x-gantry-origin"], "recorder");
    }
}
