//! The harness sees what it must see: a check that never fails proves nothing.

use gantry_tests::{Fleet, jobs, quick};

#[tokio::test]
#[should_panic(expected = "a host counts the slots that its attempts hold, but")]
async fn a_leaked_slot_fails_its_test() {
    let fleet = Fleet::new().await;
    fleet.mock_host(2).await;
    fleet.execute("update executor_hosts set current_job_count = 1").await;
}

#[tokio::test]
#[should_panic(expected = "a job that has ended has one terminal event")]
async fn a_silent_end_fails_its_test() {
    let (fleet, _parts) = Fleet::simulated(2).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    fleet.execute("delete from job_events where kind = 'completed'").await;
}

#[tokio::test]
#[should_panic(expected = "jobs with two containers alive at once")]
async fn two_containers_of_a_job_fail_its_test() {
    let (fleet, _parts) = Fleet::simulated(2).await;
    let id = fleet.producer().await.submit(&jobs::mock(&[])).await;
    fleet.all_complete(&[id]).await;
    // As if a second attempt had run beside the first.
    let run = |execution, attempt| {
        format!(
            r#"{{"doubled":{{"id":"{execution}","name":"{execution}","job":"{id}","attempt":{attempt},"started_ns":1,"planned_end_ns":9}}}}"#
        )
    };
    let lines = format!("{}\n{}\n", run("x", 2), run("y", 3));
    std::fs::write(fleet.folder().join("ledger/00000002.jsonl"), lines).expect("written");
}

#[tokio::test]
#[should_panic(expected = "mock worker ended by itself")]
async fn a_part_that_ends_fails_its_test() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(2).await;
    let worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    fleet.execute("update workers set state = 'dead', ended_at = now()").await;
    gantry_testkit::eventually(gantry_tests::PATIENCE, async || worker.has_ended()).await;
}
