//! Consuming in batches, across lost connections.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use lapin::{
    options::{BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Broker, Delivery, connection, connection::back_off, message::short, metrics, settle::Settler,
    topology::is_not_found,
};

/// How a consumer gathers messages.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most deliveries in one batch.
    pub max_batch: usize,
    /// How long a batch under load waits to become full. An idle consumer hands
    /// out a lone message at once.
    pub max_wait: Duration,
    /// Deliveries that may be unsettled in this process. At least `max_batch`,
    /// or a batch never becomes full.
    pub prefetch: u16,
    /// How long silence is believed, before the queue is asked whether messages
    /// are ready and the channel replaced if they are.
    pub watchdog: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_batch: 256, max_wait: Duration::from_millis(2), prefetch: 512, watchdog: Duration::from_secs(30) }
    }
}

/// What is consumed.
#[derive(Debug, Clone)]
enum Source {
    /// A queue of the topology.
    Queue(String),
    /// A queue of this consumer alone, made anew with every channel.
    Subscription { exchange: String, keys: Vec<String> },
}

/// Messages a subscriber may lag behind before the oldest are dropped:
/// subscriptions are lossy by contract, and a stuck one must not fill the broker.
const MAX_LAG: i64 = 100_000;

/// How long the watchdog waits before it believes its own suspicion.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// Takes messages from one queue, as batches.
///
/// It reconnects by itself, so [`Consumer::next_batch`] has no error. Dropping
/// it stops the intake; deliveries already handed out can still be settled.
#[derive(Debug)]
pub struct Consumer {
    broker: Broker,
    source: Source,
    options: Options,
    live: Option<Live>,
    /// The next `live`. A task, so that it comes about even if no caller waits
    /// for the batch as long as that takes.
    opening: Option<AbortOnDropHandle<Live>>,
    /// Gathered so far: kept here, so that a caller that stops waiting for the
    /// batch (a `select!` branch) loses nothing.
    gathered: Vec<Delivery>,
}

#[derive(Debug)]
struct Live {
    stream: lapin::Consumer,
    settler: Arc<Settler>,
    /// The queue's name, which RabbitMQ chose in the case of a subscription.
    queue: String,
    /// Until when silence is believed. It outlasts the call that waits.
    believed_until: Instant,
    /// Messages were ready although nothing came; it is time for a second look.
    suspected: bool,
    /// The answer to whether messages are ready, while it is waited for. A
    /// task, because a question holds a lock that others wait for.
    asked: Option<AbortOnDropHandle<bool>>,
}

/// What waiting for the first delivery of a batch came to.
enum First {
    Gathered,
    Lost(String),
    Silence,
}

impl Consumer {
    /// Consumes `queue` (a full name, see [`Topology`](crate::Topology)).
    pub fn new(broker: &Broker, queue: impl Into<String>, options: Options) -> Self {
        Self::of(broker, Source::Queue(queue.into()), options)
    }

    /// Listens to `exchange` through an exclusive queue of its own. What is
    /// published while this process has no connection is missed; `keys` are
    /// the patterns of a topic exchange (`job.*.docker.#`), and a fanout
    /// exchange takes `[""]`.
    pub fn subscribe(broker: &Broker, exchange: impl Into<String>, keys: &[&str], options: Options) -> Self {
        let source =
            Source::Subscription { exchange: exchange.into(), keys: keys.iter().map(|&key| key.to_owned()).collect() };
        Self::of(broker, source, options)
    }

    fn of(broker: &Broker, source: Source, options: Options) -> Self {
        Self { broker: broker.clone(), source, options, live: None, opening: None, gathered: Vec::new() }
    }

    /// Starts consuming, once. Needed only where something must be listening
    /// before the caller goes on; [`Consumer::next_batch`] does it otherwise.
    ///
    /// # Errors
    /// Where the queue cannot be consumed at this moment.
    pub async fn start(&mut self) -> Result<(), Error> {
        if self.live.is_none() {
            self.live = Some(open(&self.broker, &self.source, &self.options).await?);
            self.opening = None;
        }
        Ok(())
    }

    /// The next batch: at least one delivery, at most `max_batch`. Waits as
    /// long as there is nothing, and may be cancelled at any point.
    pub fn next_batch(&mut self) -> impl Future<Output = Vec<Delivery>> {
        self.next_batch_gathered_until(Instant::now())
    }

    /// The same, but what is there before `until` waits for more until then, a
    /// lone message too: for a caller who knows that there is load, and when
    /// its next batch is due.
    pub async fn next_batch_gathered_until(&mut self, until: Instant) -> Vec<Delivery> {
        loop {
            self.ensure_live().await;
            if self.gathered.is_empty() {
                match self.first().await {
                    First::Gathered => {}
                    First::Lost(cause) => {
                        self.lose(&cause);
                        continue;
                    }
                    First::Silence => {
                        self.watch().await;
                        continue;
                    }
                }
            }
            match self.fill(until).await {
                Ok(()) => return std::mem::take(&mut self.gathered),
                Err(cause) => self.lose(&cause),
            }
        }
    }

    async fn ensure_live(&mut self) {
        while self.live.is_none() {
            let opening = self.opening.take().unwrap_or_else(|| self.begin_opening(Duration::ZERO));
            // Kept until it has ended: the caller may stop waiting here.
            let opening = self.opening.insert(opening);
            // Nothing in it panics; if it did, it would begin anew.
            self.live = opening.await.ok();
            self.opening = None;
        }
    }

    fn begin_opening(&self, pause: Duration) -> AbortOnDropHandle<Live> {
        let (broker, source, options) = (self.broker.clone(), self.source.clone(), self.options.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            sleep(pause).await;
            open_at_last(&broker, &source, &options).await
        }))
    }

    async fn first(&mut self) -> First {
        let Some(live) = self.live.as_mut() else {
            return First::Lost("not open".to_owned());
        };
        match timeout_at(live.believed_until, live.stream.next()).await {
            Ok(Some(Ok(delivery))) => {
                self.gather(delivery);
                First::Gathered
            }
            Ok(Some(Err(error))) => First::Lost(error.to_string()),
            Ok(None) => First::Lost("cancelled by the broker".to_owned()),
            Err(_) => First::Silence,
        }
    }

    fn gather(&mut self, delivery: lapin::message::Delivery) {
        if let Some(live) = &mut self.live {
            live.believe_for(self.options.watchdog);
            self.gathered.push(Delivery::new(delivery, &live.settler));
        }
    }

    /// Adds what is there now; a batch of more than one means load, and then a
    /// short wait makes fuller batches. So does the caller's word for it.
    async fn fill(&mut self, until: Instant) -> Result<(), String> {
        let full_by = Instant::now() + self.options.max_wait;
        while self.gathered.len() < self.options.max_batch {
            let full = self.at_prefetch();
            let until = if self.gathered.len() < 2 { until } else { until.max(full_by) };
            let Some(live) = self.live.as_mut() else {
                return Err("not open".to_owned());
            };
            let next = match live.stream.next().now_or_never() {
                Some(next) => next,
                // Not left to the timer: it is up to a millisecond late.
                None if full || until <= Instant::now() => break,
                None => match timeout_at(until, live.stream.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            match next {
                Some(Ok(delivery)) => self.gather(delivery),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("cancelled by the broker".to_owned()),
            }
        }
        Ok(())
    }

    /// Whether RabbitMQ may send nothing before something is settled.
    fn at_prefetch(&self) -> bool {
        let outstanding = self.live.as_ref().map_or(0, |l| l.settler.outstanding());
        outstanding >= usize::from(self.options.prefetch)
    }

    /// Forgets the channel. What was gathered on it comes again.
    fn lose(&mut self, cause: &str) {
        tracing::warn!(queue = self.source.name(), cause, "lost a consumer, starting it again");
        metrics::consumer_restarted(self.source.name());
        self.live = None;
        self.gathered.clear();
        // A queue that is gone or refused is not asked for in a tight loop.
        self.opening = Some(self.begin_opening(back_off().next().unwrap_or_default()));
    }

    /// A consumer can be registered and yet get nothing, after a failure of the
    /// broker. If that is suspected, and still is at a second look, its channel
    /// is replaced.
    async fn watch(&mut self) {
        let may_be_sent_more = !self.at_prefetch();
        let Some(live) = self.live.as_mut() else {
            return;
        };
        if !live.settler.is_live() {
            return self.lose("its connection was given up");
        }
        let suspicious = may_be_sent_more && live.is_suspicious(&self.broker).await;
        match (suspicious, live.suspected) {
            (false, _) => live.believe_for(self.options.watchdog),
            (true, false) => {
                live.believe_for(SECOND_LOOK.min(self.options.watchdog));
                live.suspected = true;
            }
            (true, true) => self.lose("messages are ready, yet none is delivered"),
        }
    }
}

impl Live {
    fn believe_for(&mut self, time: Duration) {
        self.believed_until = Instant::now() + time;
        self.suspected = false;
        self.asked = None;
    }

    /// Whether messages are ready that RabbitMQ could deliver here, or the queue
    /// is gone without a word.
    async fn is_suspicious(&mut self, broker: &Broker) -> bool {
        let asked = self.asked.get_or_insert_with(|| {
            let (broker, queue) = (broker.clone(), self.queue.clone());
            AbortOnDropHandle::new(tokio::spawn(async move {
                match broker.ready_messages(&queue).await {
                    Ok(ready) => ready > 0,
                    Err(connection::Error::Depth { .. }) => true,
                    // Without a connection the stream ends by itself.
                    Err(_) => false,
                }
            }))
        });
        asked.await.unwrap_or(false)
    }
}

/// Why a queue cannot be consumed at this moment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no connection.
    #[error(transparent)]
    Connection(#[from] connection::Error),
    /// RabbitMQ refused: the queue does not exist, or the user may not read it.
    #[error("could not consume `{what}`")]
    Consume {
        /// The queue, or the exchange of a subscription.
        what: String,
        /// What lapin said.
        #[source]
        source: lapin::Error,
    },
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Queue(queue) => queue,
            Self::Subscription { exchange, .. } => exchange,
        }
    }
}

/// Tries until it consumes.
async fn open_at_last(broker: &Broker, source: &Source, options: &Options) -> Live {
    let mut pauses = back_off();
    loop {
        match open(broker, source, options).await {
            Ok(live) => return live,
            // The connection's supervisor says so already, and the wait for
            // a connection was a pause in itself.
            Err(Error::Connection(error)) => {
                tracing::debug!(%error, "cannot consume without a connection");
                sleep(back_off().next().unwrap_or_default()).await;
            }
            Err(Error::Consume { what, source }) => {
                if is_not_found(&source) {
                    broker.is_missing_something();
                }
                tracing::warn!(queue = what, error = %source, "cannot consume, trying again");
                sleep(pauses.next().unwrap_or_default()).await;
            }
        }
    }
}

async fn open(broker: &Broker, source: &Source, options: &Options) -> Result<Live, Error> {
    let channel = broker.channel().await?;
    let consumed = timeout(broker.config().connect_timeout, consume(&channel, source, options.prefetch)).await;
    let (stream, queue) = consumed
        .unwrap_or_else(|_| {
            let timed_out = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Err(timed_out.into())
        })
        .map_err(|error| Error::Consume { what: source.name().to_owned(), source: error })?;
    Ok(Live {
        stream,
        settler: Arc::new(Settler::new(channel)),
        queue,
        believed_until: Instant::now() + options.watchdog,
        suspected: false,
        asked: None,
    })
}

async fn consume(channel: &lapin::Channel, source: &Source, prefetch: u16) -> lapin::Result<(lapin::Consumer, String)> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let queue = match source {
        Source::Queue(queue) => queue.clone(),
        Source::Subscription { exchange, keys } => own_queue(channel, exchange, keys).await?,
    };
    let stream =
        channel.basic_consume(short(&queue), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    Ok((stream, queue))
}

/// A queue that lives and dies with this connection's consumer.
async fn own_queue(channel: &lapin::Channel, exchange: &str, keys: &[String]) -> lapin::Result<String> {
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(MAX_LAG));
    let queue = channel.queue_declare("".into(), options, arguments).await?;
    for key in keys {
        channel
            .queue_bind(
                queue.name().clone(),
                short(exchange),
                short(key),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    Ok(queue.name().to_string())
}
