//! What the servers can do when nobody orchestrates anything: the row writes of a job's life in batches and nothing
//! else; the messages of a job's life and nothing else; and both at once.

use std::time::{Duration, Instant};

use anyhow::Context;
use gantry_broker::consume::{self, Consumer};
use gantry_broker::{Broker, Outgoing, Publisher, Topology, ack_all};
use gantry_core::ExecutorType;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use sqlx::{AssertSqlSafe, Connection, Executor as _, PgConnection};

use crate::fleet::Servers;

/// The yardstick, with its procedure `floor(batch, batches)`.
const SCRIPT: &str = include_str!("../sql_floor.sql");
const BATCH: usize = 500;
const DATABASE: &str = "floor";
/// Publishes in flight at once, like a producer's.
const WAVE: usize = 2_000;

/// Messages of one kind, all alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// The messages of a run, by their way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flows {
    pub(crate) submissions: Flow,
    pub(crate) work: Flow,
    pub(crate) reports: Flow,
    pub(crate) events: Flow,
    /// Whether a queue is bound to the events, and drained.
    pub(crate) events_drained: bool,
}

/// Jobs per second of Postgres alone: `jobs` of them through `sql_floor.sql` at batch 500, in a fresh database.
pub(crate) async fn sql(servers: &Servers, jobs: usize) -> anyhow::Result<f64> {
    servers.fresh_database(DATABASE).await?;
    let mut connection = PgConnection::connect(&servers.database(DATABASE)).await?;
    connection.execute(SCRIPT).await?;
    servers.settle().await?;
    let began = Instant::now();
    // Unprepared: the procedure commits.
    let call = format!("call floor({BATCH}, {})", jobs / BATCH);
    sqlx::raw_sql(AssertSqlSafe(call)).execute(&mut connection).await?;
    let seconds = began.elapsed().as_secs_f64();
    connection.close().await?;
    Ok((jobs / BATCH * BATCH) as f64 / seconds)
}

/// Jobs per second of RabbitMQ alone: as many messages as `jobs` really sent, to queues of the same kinds, published with
/// confirms and consumed with acks.
pub(crate) async fn broker(servers: &Servers, jobs: usize, flows: Flows) -> anyhow::Result<f64> {
    let config =
        gantry_broker::Config { prefix: "floor.".into(), ..gantry_broker::Config::new(servers.rabbitmq.amqp_url("/")) };
    let broker = Broker::connect(config, "floor").await?;
    let topology = broker.topology().clone();
    topology.declare(&broker, &[ExecutorType::Mock.as_str()]).await?;
    let events = match flows.events_drained {
        true => Some(subscribed(servers, &broker).await?),
        false => None,
    };
    let began = Instant::now();
    let executor = ExecutorType::Mock.as_str();
    let queued = |flow, route, queue: String| {
        let consumer = Consumer::new(&broker, queue, options());
        let message = move |body| Outgoing::work(route, body);
        let broker = broker.clone();
        async move { tokio::try_join!(publish(&broker, flow, message), drain(consumer, flow.messages)) }
    };
    tokio::try_join!(
        queued(flows.submissions, topology.submissions(), topology.submissions_queue()),
        queued(flows.work, topology.jobs(executor), topology.jobs_queue(executor)),
        queued(flows.reports, topology.reports(), topology.reports_queue()),
        publish_events(&broker, &topology, flows.events, events),
    )?;
    let seconds = began.elapsed().as_secs_f64();
    if flows.events_drained {
        unsubscribed(servers, &broker).await?;
    }
    Ok(jobs as f64 / seconds)
}

/// Jobs per second of both at once, until the slower is done.
pub(crate) async fn both(servers: &Servers, jobs: usize, flows: Flows) -> anyhow::Result<f64> {
    let (sql, broker) = tokio::try_join!(sql(servers, jobs), broker(servers, jobs, flows))?;
    Ok(sql.min(broker))
}

fn options() -> consume::Options {
    consume::Options { max_batch: 500, prefetch: 1_000, ..consume::Options::default() }
}

/// Somebody who wants every event: a durable quorum queue, bound to all of them.
pub(crate) async fn subscribed(servers: &Servers, broker: &Broker) -> anyhow::Result<Consumer> {
    let exchange = broker.topology().events_exchange();
    let queue = format!("bench.{exchange}");
    let connection = lapin::Connection::connect(&servers.rabbitmq.amqp_url("/"), Default::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.as_str().into(), durable, arguments).await?;
    let (name, exchange) = (queue.as_str().into(), exchange.as_str().into());
    channel.queue_bind(name, exchange, "#".into(), Default::default(), FieldTable::default()).await?;
    connection.close(200, "declared".into()).await?;
    Ok(Consumer::new(broker, queue, options()))
}

/// Nobody wants them any more.
pub(crate) async fn unsubscribed(servers: &Servers, broker: &Broker) -> anyhow::Result<()> {
    let queue = format!("bench.{}", broker.topology().events_exchange());
    let connection = lapin::Connection::connect(&servers.rabbitmq.amqp_url("/"), Default::default()).await?;
    let channel = connection.create_channel().await?;
    channel.queue_delete(queue.as_str().into(), Default::default()).await?;
    Ok(connection.close(200, "deleted".into()).await?)
}

async fn publish(broker: &Broker, flow: Flow, message: impl FnOnce(Vec<u8>) -> Outgoing) -> anyhow::Result<()> {
    let publisher = Publisher::new(broker);
    let message = message(vec![b'x'; flow.bytes]);
    let mut left = flow.messages;
    while left > 0 {
        let wave = left.min(WAVE);
        for result in publisher.publish_all(vec![message.clone(); wave]).await {
            result.context("a message of the floor was not confirmed")?;
        }
        left -= wave;
    }
    Ok(())
}

/// Consumes and acks so many messages.
pub(crate) async fn drain(mut consumer: Consumer, messages: usize) -> anyhow::Result<()> {
    let mut left = messages;
    while left > 0 {
        let batch = tokio::time::timeout(Duration::from_secs(60), consumer.next_batch()).await;
        let batch = batch.context("messages of the floor did not come")?;
        left = left.saturating_sub(batch.len());
        ack_all(batch).await;
    }
    Ok(())
}

async fn publish_events(
    broker: &Broker,
    topology: &Topology,
    flow: Flow,
    subscriber: Option<Consumer>,
) -> anyhow::Result<((), ())> {
    let route = topology.events("job.completed.mock.floor");
    let drained = async {
        match subscriber {
            Some(consumer) => drain(consumer, flow.messages).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(publish(broker, flow, move |body| Outgoing::event(route, body)), drained)
}
