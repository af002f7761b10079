//! What a run costs is counted once, from its backend's own times, and what failed is told apart.

use gantry_core::message::{Ended, Report, ReportKind, Token};
use gantry_core::state::Outcome;
use gantry_tests::{Fleet, jobs};
use serde_json::{Value, json};

fn money(value: &Value) -> f64 {
    value.as_str().expect("a decimal").parse().expect("a number")
}

fn sum<'a>(values: impl Iterator<Item = &'a Value>) -> f64 {
    values.map(money).sum()
}

#[tokio::test]
async fn every_attempt_is_paid_for_once_and_a_refused_launch_not_at_all() {
    let (fleet, _parts) = Fleet::simulated(10).await;
    let (_api, client) = fleet.api().await;
    // A start costs a half, and a second one.
    fleet.execute("update executor_hosts set cost_per_job = 0.5, cost_per_hour = 3600").await;
    let twice = json!({ "spec": { "retry": { "max_attempts": 2, "backoff_seconds": 0 }, "timeout_seconds": 10 } });
    let failing = client.submit(&jobs::with(jobs::mock(&[("exit_code", "75"), ("duration", "300ms")]), twice)).await;
    let refused = client.submit(&jobs::mock(&[("fail", "image_not_found")])).await;
    let fine = client.submit(&jobs::mock(&[("duration", "200ms")])).await;
    for job in [failing, refused, fine] {
        fleet.ended(job).await;
    }
    // What was recorded comes again, as after a crash; and then one more job, behind it in the same queue.
    let kind = ReportKind::Ended(Ended { run_millis: Some(60_000), ..Ended::bare(Outcome::Exited(75).into()) });
    let again = Report { token: Token { job: failing, attempt: 2, epoch: 1 }, traceparent: None, kind };
    let list = json!({ "version": "1", "reports": [again] });
    fleet.amqp.publish_json("gantry.reports", "gantry.reports", &list).await;
    let last = client.submit(&jobs::mock(&[])).await;
    fleet.ended(last).await;

    let shown = client.get(&format!("/v1/jobs/{failing}")).await.body;
    assert_eq!(money(&shown["estimated_cost"]), 10.5, "its timeout and a start");
    let attempts = shown["attempts"].as_array().expect("attempts");
    let paid = sum(attempts.iter().map(|attempt| &attempt["cost"]));
    assert!((paid - money(&shown["actual_cost"])).abs() < 1e-9, "{shown}");
    assert!(attempts.len() == 2 && paid >= 2.0 * 0.8, "each a start and 300 ms at least: {shown}");
    assert!(paid < 12.0, "by the times of its backend: {shown}");
    let refused = client.get(&format!("/v1/jobs/{refused}")).await.body;
    assert_eq!(money(&refused["actual_cost"]), 0.0);

    let by = async |what: &str| client.get(&format!("/v1/costs?by={what}")).await.body["costs"].clone();
    let by_job = by("job").await;
    for what in ["tenant", "template", "host", "executor"] {
        let lines = by(what).await;
        let line = &lines[0];
        assert_eq!(lines.as_array().map(Vec::len), Some(1), "{lines}");
        let counts = ["runs", "completed", "failed", "untimed"].map(|field| line[field].as_i64().expect("a number"));
        assert_eq!(counts, [5, 2, 3, 0], "{line}");
        for field in ["cost", "failed_cost", "estimated_cost"] {
            let jobs = sum(by_job.as_array().expect("jobs").iter().map(|job| &job[field]));
            assert!((money(&line[field]) - jobs).abs() < 1e-9, "{field} of {line}, and of the jobs {jobs}");
        }
        assert!((money(&line["failed_cost"]) - paid).abs() < 1e-9, "{line}");
    }
}
