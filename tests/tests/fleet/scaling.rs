//! By what a pool of workers is scaled: the query of the chart itself.

use gantry_testkit::eventually;
use gantry_tests::{Fleet, PATIENCE, jobs, quick};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const CHART: &str = include_str!("../../../helm/gantry/templates/keda.yaml");

/// The query of the chart's Postgres trigger, for pools of the mock executor.
fn query() -> String {
    let (_, query) = CHART.split_once("query: >-\n").expect("the trigger has a query");
    let (query, _) = query.split_once("targetQueryValue").expect("and a target");
    let words: Vec<&str> = query.split_whitespace().collect();
    words.join(" ").replace("{{ $pool.executorType }}", "mock")
}

async fn wanted(fleet: &Fleet) -> i64 {
    // As the chart's secret has it: the fleet's role.
    let mut connection = PgConnection::connect(&fleet.fleet_database()).await.expect("the role may connect");
    sqlx::query_scalar(AssertSqlSafe(query())).fetch_one(&mut connection).await.expect("the query of the chart")
}

#[tokio::test]
async fn busy_workers_count_as_much_as_waiting_jobs() {
    let fleet = Fleet::new().await;
    let host = fleet.mock_host(2).await;
    let _parts = [fleet.dispatcher(), fleet.recorder()];
    let producer = fleet.producer().await;
    assert_eq!(wanted(&fleet).await, 0);
    // Nobody serves the host: nothing is published, and a pool without replicas must begin all the same.
    let ids = producer.submit_all(&vec![jobs::mock(&[("duration", "3s")]); 3]).await;
    assert_eq!(wanted(&fleet).await, 3);
    let _worker = fleet.mock_worker(quick());
    fleet.served(host, 1).await;
    fleet.count_reaches("running", 2).await;
    // Two run and one waits: the queue in RabbitMQ is as good as empty, and nobody may take the worker away.
    assert_eq!(wanted(&fleet).await, 3);
    fleet.all_complete(&ids[..2]).await;
    fleet.reaches(ids[2], "running").await;
    assert_eq!(wanted(&fleet).await, 1, "one runs and nothing waits: it counts to its end");
    fleet.all_complete(&ids).await;
    eventually(PATIENCE, async || wanted(&fleet).await == 0).await;
}
