//! Jobs that run three times as long as RabbitMQ lets a delivery stay unacked.

#![expect(clippy::disallowed_methods, reason = "a client of its own, and not a part of the fleet")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt;
use gantry_servers::{Postgres, RabbitMq};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

use super::jobs::{Client, End};
use super::judge::judge;
use super::lab::{Backend, Ground, Lab, Pace, Work};
use super::management::Management;
use super::row::Row;

/// In which a consumer that withholds its ack must be cut off: the timeout, the tick, and a busy machine.
const CUT_WITHIN: Duration = Duration::from_secs(15);
/// What RabbitMQ logs of each one.
const CUT: &str = "timed out waiting for";

pub(super) async fn run(binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let mut row = Row::default();
    let settings = [("consumer_timeout", 10_000), ("channel_tick_interval", 1_000)];
    let (postgres, rabbitmq) = tokio::join!(Postgres::start(folder), RabbitMq::start_with(folder, &settings));
    let (postgres, rabbitmq) = (postgres?, rabbitmq?);
    let broker = rabbitmq.amqp_url("/");
    let mut lab = Lab::create(Ground {
        binaries,
        postgres: &postgres,
        broker: broker.clone(),
        backend: Backend::Mock(folder.join("mock")),
        slots: 4,
        folder: folder.join("logs"),
        name: "consumer_timeout",
    })
    .await?;
    lab.start_all(&["worker-1"], Pace::Quick)?;
    let mut client = Client::connect(vec![broker.clone()]).await?;
    for index in 0..4 {
        let job = lab.job(Work::Labels(&[("duration", "30s"), ("stdout", "long\n")]));
        client.submit(&format!("30 s, {index}"), job, End::exits(0, "long\n")).await?;
    }
    // Behind them, so that messages come whose jobs find no place.
    for index in 0..6 {
        let job = lab.job(Work::Labels(&[("duration", "1s"), ("stdout", "short\n")]));
        client.submit(&format!("1 s, {index}"), job, End::exits(0, "short\n")).await?;
    }
    let running = lab.until(Duration::from_secs(60), async |lab| Ok(lab.running().await?.len() == 4)).await?;
    ensure!(running.is_some(), "the long jobs do not run");
    row.faults = 1;
    row.did("consumer_timeout 10 s, channel_tick_interval 1 s; 4 jobs of 30 s on 4 slots, 6 behind them");

    let management = Management::new(&rabbitmq.management_url())?;
    // RabbitMQ's statistics are up to 5 s old.
    lab.until(Duration::from_secs(30), async |_| Ok(management.connections().await?.len() >= 3)).await?;
    let before = management.connections().await?;
    let cut = control(&broker).await?;
    row.prove(cut.is_some(), "a consumer that withholds its ack is cut off in this very run");
    row.within("cut off after", cut, CUT_WITHIN);

    lab.until(Duration::from_secs(90), async |lab| client.settled(lab).await).await?;
    let after = management.connections().await?;
    row.prove(
        !before.is_empty() && before == after,
        format!("the same {} connections of Gantry's before and after: {}", before.len(), parts(&before)),
    );
    let log = std::fs::read_to_string(rabbitmq.log())?;
    let cuts = log.lines().filter(|line| line.contains(CUT)).count();
    row.prove(cuts == 1, format!("RabbitMQ's log tells of {cuts} consumers cut off: the control"));
    let lost = lab.said("lost a consumer")? + lab.said("lost the broker")? + lab.said("lost its channel")?;
    row.prove(lost == 0, format!("{lost} lines in the parts' logs about lost channels"));
    row.judged(client.jobs.len(), judge(&mut lab, &client).await?);
    lab.close().await?;
    rabbitmq.stop().await?;
    postgres.stop().await?;
    Ok(row)
}

fn parts(connections: &std::collections::BTreeMap<String, (String, String)>) -> String {
    connections.values().map(|(part, _)| part.as_str()).collect::<Vec<_>>().join(", ")
}

/// Takes a message and does not ack it; how long RabbitMQ watched, or None if it did for a minute.
async fn control(url: &str) -> anyhow::Result<Option<Duration>> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?.name().clone();
    let publish = BasicPublishOptions::default();
    channel.basic_publish("".into(), queue.clone(), publish, b"held", BasicProperties::default()).await?;
    let consume = BasicConsumeOptions::default();
    let mut consumer = channel.basic_consume(queue, "".into(), consume, FieldTable::default()).await?;
    let _held = consumer.next().await.context("the control got nothing")??;
    let began = Instant::now();
    let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
    Ok(match next {
        // Closed, with or without an error to say why.
        Ok(None | Some(Err(_))) => Some(began.elapsed()),
        Ok(Some(Ok(_))) | Err(_) => None,
    })
}
