//! A broker that came back without its data, or whose queues somebody deleted: the parts declare everything again by
//! themselves, and jobs flow.

use gantry_testkit::eventually;
use gantry_tests::{Amqp, Fleet, PATIENCE, Producer, jobs};

/// Jobs run to their end, through both doors, and are told of.
async fn flows(fleet: &Fleet, client: &gantry_tests::Client) {
    // Once the queues are there again. Over a connection of its own: the one before may be gone.
    let amqp = Amqp::connect(fleet.amqp_address()).await;
    for queue in ["gantry.submissions", "gantry.jobs.docker", "gantry.reports", "gantry.dead"] {
        eventually(PATIENCE, async || Amqp::connect(fleet.amqp_address()).await.exists(queue).await).await;
    }
    let events = amqp.tap("gantry.events", "job.completed.#").await;
    let mut ids = client.submit_all(&vec![jobs::mock(&[("duration", "20ms")]); 10]).await;
    let producer: Producer = fleet.producer_on(amqp).await;
    ids.extend(producer.submit_all(&vec![jobs::mock(&[("duration", "20ms")]); 10]).await);
    fleet.all_complete(&ids).await;
    eventually(PATIENCE, async || events.received().len() >= ids.len()).await;
}

#[tokio::test]
async fn a_broker_that_lost_its_data() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    flows(&fleet, &client).await;
    // Jobs wait in every place meanwhile.
    let waiting = client.submit_all(&vec![jobs::mock(&[("duration", "500ms")]); 12]).await;
    fleet.count_reaches("running", 4).await;
    fleet.reset_broker().await;
    fleet.all_complete(&waiting).await;
    flows(&fleet, &client).await;
}

#[tokio::test]
async fn queues_and_exchanges_that_somebody_deleted() {
    let (fleet, _parts) = Fleet::simulated(4).await;
    let (_api, client) = fleet.api().await;
    flows(&fleet, &client).await;
    let waiting = client.submit_all(&vec![jobs::mock(&[("duration", "500ms")]); 12]).await;
    fleet.count_reaches("running", 4).await;
    fleet.delete_topology().await;
    fleet.all_complete(&waiting).await;
    flows(&fleet, &client).await;
}
