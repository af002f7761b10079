//! What could not be processed is kept, looked at, and replayed: as often as somebody likes, with one effect.

use std::collections::BTreeSet;
use std::time::Duration;

use gantry_broker::{Broker, Consumer, consume};
use gantry_core::JobId;
use gantry_store::Scope;
use gantry_store::dead_letters::{self, Arrival};
use gantry_store::templates::{self, NewTemplate};
use gantry_testkit::{eventually, eventually_some};
use gantry_tests::{Client, Fleet, Outgoing, PATIENCE, Process, Role, jobs};
use serde_json::{Value, json};

const PART: &str = env!("CARGO_BIN_EXE_gantry-part");

/// The letters that a list shows.
async fn letters(client: &Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/v1/dead-letters?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["letters"].as_array().expect("a list").clone()
}

/// Waits until the list holds one letter.
async fn one(client: &Client, query: &str) -> Value {
    eventually_some(PATIENCE, async || {
        let [letter] = <[Value; 1]>::try_from(letters(client, query).await).ok()?;
        Some(letter)
    })
    .await
}

fn id(letter: &Value) -> String {
    letter["id"].as_str().expect("an id").to_owned()
}

/// Asks for a replay; says how many letters it concerns.
async fn replay(client: &Client, request: Value) -> Value {
    let answer = client.post("/v1/dead-letters/replay", request.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body
}

/// Waits until a letter was replayed so often, and returns it.
async fn replayed(client: &Client, id: &str, times: u64) -> Value {
    eventually_some(PATIENCE, async || {
        let answer = client.get(&format!("/v1/dead-letters/{id}")).await;
        let letter = answer.body;
        (letter["replays"] == times && letter["state"] != "replaying").then_some(letter)
    })
    .await
}

async fn template(fleet: &Fleet, name: &str) {
    let template = NewTemplate::new(fleet.tenant, name, "simulated", "test");
    templates::put(&fleet.store, Scope::Fleet, &template).await.expect("stored");
}

#[tokio::test]
async fn a_refused_submission_runs_once_its_cause_is_gone() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let producer = fleet.producer().await;
    let early = json!({ "template": "nightly", "preferred_executor": "mock" });
    let answer = producer.ask(producer.message(&early)).await;
    assert_eq!(answer["code"], "unknown_template", "{answer}");

    let letter = one(&client, "state=waiting").await;
    let told = ["reason", "origin", "queue", "tenant"].map(|field| letter[field].as_str().unwrap_or_default());
    assert_eq!(told, ["unknown_template", "dispatcher", "gantry.submissions", &fleet.tenant.to_string()]);
    let id = id(&letter);
    let shown = client.get(&format!("/v1/dead-letters/{id}")).await.body;
    assert_eq!(shown["body"]["text"], early.to_string(), "{shown}");
    assert!(!shown.to_string().contains("the-key-of-acme"), "a credential in {shown}");

    // Too early: refused for the same reason, and it waits again.
    replay(&client, json!({ "ids": [id] })).await;
    let refused = replayed(&client, &id, 1).await;
    assert_eq!(refused["state"], "waiting", "{refused}");
    assert!(refused["replay_problem"].as_str().is_some_and(|why| why.starts_with("unknown_template")), "{refused}");

    template(&fleet, "nightly").await;
    let asked = replay(&client, json!({ "filter": { "reason": "unknown_template" } })).await;
    assert_eq!(asked["letters"], 1, "{asked}");
    let done = replayed(&client, &id, 2).await;
    assert_eq!((&done["state"], &done["replay_problem"]), (&json!("replayed"), &Value::Null), "{done}");
    let job: JobId = done["replayed_as"].as_str().and_then(|id| id.parse().ok()).expect("a job");
    fleet.all_complete(&[job]).await;

    // Once more: the same job. By a filter it is not found again.
    assert_eq!(replay(&client, json!({ "filter": {} })).await["letters"], 0);
    replay(&client, json!({ "ids": [id] })).await;
    let again = replayed(&client, &id, 3).await;
    assert_eq!((&again["state"], &again["replayed_as"]), (&done["state"], &done["replayed_as"]), "{again}");
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 1);

    // Each request that concerned a letter is written down.
    let audit = fleet.operator(&client).await.get("/v1/audit").await.body;
    let entries: Vec<_> = audit["entries"].as_array().expect("entries").iter().map(|entry| &entry["action"]).collect();
    assert_eq!(entries, ["letters_replayed"; 3], "{audit}");
    assert_eq!(audit["entries"][1]["subject"], asked["request"]);
    assert_eq!(audit["entries"][1]["detail"]["filter"]["reason"], "unknown_template");
}

/// A dispatcher that dies right after a replay's admission leaves the letter to the next one, which finds the job.
#[tokio::test]
async fn a_replay_that_nobody_wrote_down_is_repeated_without_effect() {
    let fleet = Fleet::new().await;
    let (_api, client) = fleet.api().await;
    let producer = fleet.producer().await;
    let dispatcher = fleet.dispatcher();
    // Without any key: the letter gives it one.
    let mut unkeyed = producer.message(&json!({ "template": "later", "preferred_executor": "mock" }));
    unkeyed.message_id = None;
    assert_eq!(producer.ask(unkeyed).await["code"], "missing_idempotency_key");
    let id = id(&one(&client, "state=waiting").await);
    dispatcher.stop().await;
    template(&fleet, "later").await;

    replay(&client, json!({ "ids": [id] })).await;
    let fatal = [("FAILPOINT", "commit.admission::insert.after")];
    let mut dying: Process = fleet.process(PART, Role::Dispatcher, &fatal).await;
    eventually(PATIENCE, async || dying.has_ended()).await;
    dying.kill();
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 1, "it died after the commit");
    assert_eq!(letters(&client, "state=replaying").await.len(), 1, "and before it said so");

    // The time for which nobody else takes it is over.
    fleet.execute("update dead_letters set replay_at = now()").await;
    let _dispatcher = fleet.dispatcher();
    let done = replayed(&client, &id, 1).await;
    assert_eq!(done["state"], "replayed", "{done}");
    let job: String = fleet.scalar("select string_agg(id::text, ',') from container_jobs").await;
    assert_eq!(done["replayed_as"], job, "one job, and the letter names it");
}

#[tokio::test]
async fn a_thousand_are_listed_in_pages_and_replayed_at_their_rate() {
    let fleet = Fleet::new().await;
    let (_api, client) = fleet.api().await;
    let arrivals: Vec<Arrival> = (0..1_000)
        .map(|n| Arrival {
            tenant: Some(fleet.tenant),
            queue: Some("gantry.submissions".into()),
            origin: "dispatcher".into(),
            reason: "unknown_template".into(),
            message_id: Some(format!("m-{n}")),
            body: jobs::mock(&[]).to_string().into_bytes(),
            ..Arrival::default()
        })
        .collect();
    // Twice: what comes again is no second letter.
    for batch in arrivals.chunks(100).chain(arrivals.chunks(250)) {
        dead_letters::put(&fleet.store, batch).await.expect("stored");
    }

    let (mut seen, mut query, mut pages) = (BTreeSet::new(), "limit=300".to_owned(), 0);
    loop {
        let page = client.get(&format!("/v1/dead-letters?{query}")).await.body;
        let letters = page["letters"].as_array().expect("a list");
        assert!(letters.len() <= 300 && letters.iter().all(|letter| letter["arrivals"] == 2), "{page}");
        seen.extend(letters.iter().map(id));
        pages += 1;
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=300&before={next}");
    }
    assert_eq!((seen.len(), pages), (1_000, 4));

    let asked = replay(&client, json!({ "filter": {}, "limit": 900, "rate_per_second": 300 })).await;
    assert_eq!((&asked["letters"], &asked["more"]), (&json!(900), &json!(true)), "{asked}");
    let _dispatcher = fleet.dispatcher();
    eventually(PATIENCE, async || {
        fleet.scalar::<i64>("select count(*) from dead_letters where state = 'replayed'").await == 900
    })
    .await;
    assert_eq!(fleet.scalar::<i64>("select count(distinct replayed_as) from dead_letters").await, 900);
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 900);
    // By its own times, whenever the dispatcher began: none sooner than its turn came, 300 in each second.
    let early: i64 = fleet
        .scalar(
            "select count(*) from (
                 select l.replayed_at, row_number() over (order by l.id) - 1 as place, a.created_at as asked_at
                 from dead_letters l join audit_log a on a.subject = l.request_id::text) l
             where replayed_at < asked_at + make_interval(secs => place / 300.0)",
        )
        .await;
    assert_eq!(early, 0);
    assert_eq!(letters(&client, "state=waiting&limit=500").await.len(), 100, "the newest were left alone");
}

#[tokio::test]
async fn nobody_touches_what_is_not_his() {
    let fleet = Fleet::new().await;
    fleet.other_tenant("globex").await;
    let (_api, client) = fleet.api().await;
    let (other, operator) = (client.with_key(Some("globex")), fleet.operator(&client).await);
    let _dispatcher = fleet.dispatcher();
    let producer = fleet.producer().await;
    producer.ask(producer.message(&json!({}))).await;
    let own = one(&client, "").await;
    let mut stranger = producer.message(&json!({ "of": "whom?" }));
    stranger.api_key = Some("of nobody".into());
    assert_eq!(producer.ask(stranger).await["code"], "unauthorized");
    let nobody_s = one(&operator, "reason=unauthorized").await;
    assert_eq!(nobody_s["tenant"], Value::Null);

    assert_eq!(letters(&client, "").await, std::slice::from_ref(&own));
    assert_eq!(letters(&operator, "").await.len(), 2, "the tenant's, and what is nobody's");
    assert_eq!(letters(&other, "").await, Vec::<Value>::new());
    for (client, letter) in [(&other, &own), (&other, &nobody_s), (&client, &nobody_s)] {
        let path = format!("/v1/dead-letters/{}", id(letter));
        assert_eq!(client.get(&path).await.body["code"], "not_found");
        let ids = json!({ "ids": [id(letter)] });
        assert_eq!(replay(client, ids.clone()).await["letters"], 0);
        let dropped = client.post("/v1/dead-letters/drop", ids.to_string()).await;
        assert_eq!((dropped.status, &dropped.body["letters"]), (200, &json!(0)), "{dropped:?}");
    }
    assert_eq!(fleet.scalar::<i64>("select count(*) from dead_letters where state = 'waiting'").await, 2);
    assert_eq!(fleet.scalar::<i64>("select count(*) from audit_log").await, 0, "nothing was done");

    // What is nobody's can be dropped, and never be admitted.
    let ids = json!({ "ids": [id(&nobody_s)] });
    replay(&operator, ids.clone()).await;
    let refused = replayed(&operator, &id(&nobody_s), 1).await;
    assert!(refused["replay_problem"].as_str().is_some_and(|why| why.contains("whose")), "{refused}");
    let dropped = operator.post("/v1/dead-letters/drop", ids.to_string()).await;
    assert_eq!(dropped.body["letters"], 1, "{dropped:?}");
    assert_eq!(one(&operator, "state=dropped").await["id"], nobody_s["id"]);
    assert_eq!(replay(&operator, ids).await["letters"], 0, "it is dropped");
}

/// Lists go back to their queue. What is stale there changes nothing, and what is still unreadable comes back as the
/// letter that it was.
#[tokio::test]
async fn lists_of_work_and_reports_go_back_to_their_queues() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    let job = client.submit(&jobs::mock(&[])).await;
    let row = fleet.ended(job).await;
    let end = json!({ "kind": "ended", "execution_id": "c", "outcome": { "outcome": "exited", "exit_code": 7 } });
    let report = jobs::with(json!({ "job": job, "attempt": 1, "epoch": 1 }), end);
    let lists = [
        ("gantry.jobs.mock", json!({ "version": "1", "jobs": [{ "job": job, "attempt": 1, "sequence": 1 }] })),
        ("gantry.reports", json!({ "version": "1", "reports": [report] })),
        ("gantry.nowhere", json!("nonsense")),
    ];
    let arrivals = lists.map(|(queue, body)| Arrival {
        queue: Some(queue.into()),
        reason: "invalid_message".into(),
        body: body.to_string().into_bytes(),
        ..Arrival::default()
    });
    dead_letters::put(&fleet.store, &arrivals).await.expect("stored");
    assert_eq!(replay(&operator, json!({ "filter": {} })).await["letters"], 3);
    eventually(PATIENCE, async || letters(&operator, "state=replayed").await.len() == 2).await;
    let nowhere = one(&operator, "state=waiting").await;
    assert_eq!(nowhere["replay_problem"], "its queue takes no letters back", "{nowhere}");

    // A second job has passed through the same queues: what was replayed before it is done with.
    fleet.all_complete(&[client.submit(&jobs::mock(&[])).await]).await;
    assert_eq!(fleet.job(job).await, row, "not a byte has changed");
    assert_eq!(fleet.attempts(job).await.len(), 1);

    let unreadable = json!({ "version": "2", "jobs": [] });
    fleet.amqp.publish_json("gantry.jobs", "mock", &unreadable).await;
    let letter = one(&operator, "queue=gantry.jobs.mock&state=waiting").await;
    assert_eq!((&letter["origin"], &letter["reason"]), (&json!("worker"), &json!("invalid_message")), "{letter}");
    replay(&operator, json!({ "ids": [id(&letter)] })).await;
    let back = eventually_some(PATIENCE, async || {
        let back = one(&operator, "queue=gantry.jobs.mock&state=waiting").await;
        (back["arrivals"] == 2).then_some(back)
    })
    .await;
    assert_eq!((&back["id"], &back["replays"]), (&letter["id"], &json!(1)), "{back}");
}

/// What RabbitMQ itself gave up on says so; a submission among it has its key taken off, and is its tenant's.
#[tokio::test]
async fn what_rabbitmq_gave_up_on_is_kept_too() {
    let fleet = Fleet::new().await;
    let (_api, client) = fleet.api().await;
    let operator = fleet.operator(&client).await;
    fleet.amqp.publish_json("gantry.reports", "gantry.reports", &json!("nonsense")).await;
    let broker = Broker::connect(gantry_broker::Config::new(fleet.amqp_address()), "test").await.expect("connected");
    let mut reports = Consumer::new(&broker, broker.topology().reports_queue(), consume::Options::default());
    for delivery in reports.next_batch().await {
        delivery.reject().await;
    }
    drop(reports);
    let _dispatcher = fleet.dispatcher();
    let letter = one(&operator, "origin=rabbitmq").await;
    assert_eq!((&letter["queue"], &letter["reason"]), (&json!("gantry.reports"), &json!("rejected")), "{letter}");

    fleet
        .amqp
        .publish(Outgoing {
            exchange: "gantry.dead".into(),
            routing_key: "gantry.submissions.expired".into(),
            body: jobs::mock(&[]).to_string().into_bytes(),
            headers: [("x-gantry-api-key".to_owned(), "the-key-of-acme".to_owned())].into(),
            message_id: Some("m".into()),
            ..Outgoing::default()
        })
        .await;
    let expired = one(&client, "").await;
    assert_eq!((&expired["queue"], &expired["reason"]), (&json!("gantry.submissions"), &json!("delivery_limit")));
    let shown = client.get(&format!("/v1/dead-letters/{}", id(&expired))).await.body;
    assert!(!shown.to_string().contains("the-key-of-acme"), "a credential in {shown}");
    replay(&client, json!({ "filter": {} })).await;
    assert_eq!(replayed(&client, &id(&expired), 1).await["state"], "replayed");
    assert_eq!(fleet.scalar::<i64>("select count(*) from container_jobs").await, 1);
}

#[tokio::test]
async fn they_stay_in_their_queue_where_others_drain_it() {
    let fleet = Fleet::new().await;
    let settings = gantry_dispatcher::Settings { store_dead_letters: false, ..Default::default() };
    let _dispatcher = fleet.dispatcher_with(settings);
    let producer = fleet.producer().await;
    producer.ask(producer.message(&json!({}))).await;
    eventually(PATIENCE, async || fleet.amqp.ready("gantry.dead").await == 1).await;
    // As long as a consumer would need to take it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fleet.amqp.ready("gantry.dead").await, 1);
    assert_eq!(fleet.scalar::<i64>("select count(*) from dead_letters").await, 0);
}
