//! Everything that can come twice comes twice, and changes nothing.

use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, Received, Tap, jobs, quick};
use serde_json::{Value, json};

/// Sends copies again, to where they came from.
async fn again(fleet: &Fleet, exchange: &str, copies: &[Received]) {
    for copy in copies {
        fleet.amqp.publish_json(exchange, &copy.routing_key, &copy.json()).await;
    }
}

async fn taps(fleet: &Fleet) -> (Tap, Tap, Tap) {
    tokio::join!(
        fleet.amqp.tap("gantry.jobs", "mock"),
        fleet.amqp.tap("gantry.reports", "gantry.reports"),
        fleet.amqp.tap("gantry.events", "#"),
    )
}

#[tokio::test]
async fn one_job_twice_at_every_step() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let producer = fleet.producer().await;
    let (work, reports, events) = taps(&fleet).await;

    // The submission, while the first one is on its way and when it is long done. It runs long enough for its start
    // to be reported by itself.
    let body = jobs::with(jobs::mock(&[("duration", "1500ms")]), json!({ "idempotency_key": "once" }));
    let answers = producer.ask_all(vec![producer.message(&body), producer.message(&body)]).await;
    assert_eq!(answers[0]["job_id"], answers[1]["job_id"]);
    let existing: Vec<_> = answers.iter().filter(|answer| answer["existing"] == true).collect();
    assert_eq!(existing.len(), 1, "{answers:?}");
    let id = answers[0]["job_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");

    // The work message, while the job runs.
    fleet.reaches(id, "running").await;
    let sent = work.received();
    again(&fleet, "gantry.jobs", &sent).await;
    again(&fleet, "gantry.jobs", &sent).await;
    fleet.all_complete(&[id]).await;

    // Everything once more, when it has ended: another job at the end of each queue shows that all was read.
    let before = (fleet.job(id).await, fleet.attempts(id).await);
    let kinds: Vec<Value> = reports.received().iter().map(|list| list.json()["reports"][0]["kind"].clone()).collect();
    assert_eq!(kinds, ["started", "ended"]);
    again(&fleet, "gantry.jobs", &work.received()).await;
    again(&fleet, "gantry.reports", &reports.received()).await;
    again(&fleet, "gantry.reports", &reports.received()).await;
    let answer = producer.ask(producer.message(&body)).await;
    assert_eq!((answer["job_id"].as_str(), &answer["existing"]), (Some(&*id.to_string()), &json!(true)));
    let last = producer.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[last]).await;
    for queue in ["gantry.jobs.mock", "gantry.reports"] {
        eventually(PATIENCE, async || fleet.amqp.ready(queue).await == 0).await;
    }

    assert_eq!((fleet.job(id).await, fleet.attempts(id).await), before);
    assert_eq!(fleet.ledger().starts()[&(id, 1)], 1);
    assert_eq!(fleet.count("completed").await, 2);
    let of_job = |event: &Received| event.json()["subject"] == json!(id);
    let types: Vec<Value> =
        events.received().into_iter().filter(of_job).map(|event| event.json()["type"].clone()).collect();
    assert_eq!(types, ["gantry.job.started", "gantry.job.completed"]);
}

/// Many at once, with copies and copies of copies of every list that travels, and two workers to take them.
#[tokio::test]
async fn every_list_again_and_again() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(8).await;
    let _parts = [fleet.dispatcher(), fleet.recorder(), fleet.mock_worker(quick()), fleet.mock_worker(quick())];
    fleet.served(host, 2).await;
    let producer = fleet.producer().await;
    let (work, reports, events) = taps(&fleet).await;
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "20ms")]); 60]).await;
    let mut copied = 0;
    eventually(PATIENCE, async || {
        // The taps see copies too, and they are copied again: up to a number, or it would never end.
        for (tap, exchange) in [(&work, "gantry.jobs"), (&reports, "gantry.reports")] {
            let copies = tap.take();
            if copied < 300 {
                copied += copies.len();
                again(&fleet, exchange, &copies).await;
            }
        }
        fleet.count("completed").await == ids.len()
    })
    .await;
    assert!(copied >= 20, "{copied}");
    fleet.all_complete(&ids).await;
    let starts = fleet.ledger().starts();
    assert!(ids.iter().all(|id| starts.get(&(*id, 1)) == Some(&1)), "{starts:?}");
    let is_end = |event: &Received| event.json()["type"] == "gantry.job.completed";
    eventually(PATIENCE, async || events.received().iter().filter(|event| is_end(event)).count() >= ids.len()).await;
    assert_eq!(events.received().iter().filter(|event| is_end(event)).count(), ids.len());
    assert_eq!(fleet.slots_used(host).await, 0);
}
