//! One channel's worth of publishing.

#![expect(clippy::disallowed_methods, reason = "the one place that publishes: the publisher passes the failpoints")]

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{Channel, Confirmation, message::BasicReturnMessage, options::BasicPublishOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::{
    Error, Request,
    task::{Round, WINDOW},
};
use crate::{Broker, Headers, Outgoing, message::short, metrics};

/// Numbers mandatory messages, so that a returned one can be told from its
/// neighbours: lapin hands a return to *some* confirm of the same moment.
const PUBLISH_ID: &str = "x-gantry-publish";

/// Requests that are taken up before confirms are looked at again.
const GULP: usize = 256;

/// The least time that a channel is used before it is replaced for a refusal: queues are full for longer.
const REPLACE_AFTER: Duration = Duration::from_secs(1);

/// Why a session ended.
pub(super) enum End {
    /// Every publisher handle is gone and everything is answered.
    Stopped,
    /// The channel died; what it had not confirmed is in the session.
    ChannelLost(lapin::Error),
    /// RabbitMQ refused messages, and everything sent is answered. Mostly the queue is full. But a channel whose first
    /// message finds a quorum queue between two leaders is refused *for as long as it lives*, the new leader
    /// notwithstanding (seen with RabbitMQ 3.10): so it is replaced.
    Refused,
    /// Nothing was confirmed for long, over a connection that seems to be sound: a node that has lost the majority of
    /// its cluster. The connection is given up, and what was sent is in the session.
    Silent,
}

/// A publish that waits for its confirm.
struct Waiting {
    outgoing: Arc<Outgoing>,
    answer: Option<oneshot::Sender<Result<(), Error>>>,
    sent: Instant,
}

type Outcome = (u64, lapin::Result<Confirmation>);

pub(super) struct Session {
    broker: Broker,
    channel: Channel,
    /// While RabbitMQ takes no messages nothing new is sent: it would pile up in this process, once for each time
    /// that somebody tries again.
    blocked: watch::Receiver<bool>,
    /// How many may be in flight.
    window: usize,
    /// The window is narrow, because one of `again` closed the last channel;
    /// nothing new joins them until they are through.
    searching: bool,
    /// To be published before anything new.
    again: VecDeque<Request>,
    waiting: BTreeMap<u64, Waiting>,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
    /// Ids of messages that came back and whose own confirm is still to come.
    returned: HashSet<u64>,
    last_id: u64,
    confirmed_any: bool,
    opened: Instant,
    refused_any: bool,
    /// When something was confirmed at last, or could begin to be.
    progress: Instant,
}

impl Session {
    pub(super) fn new(broker: &Broker, channel: Channel, round: Round) -> Self {
        Self {
            broker: broker.clone(),
            channel,
            blocked: broker.blocked(),
            window: round.window,
            searching: round.window < WINDOW,
            again: round.again,
            waiting: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            returned: HashSet::new(),
            last_id: 0,
            confirmed_any: false,
            opened: Instant::now(),
            refused_any: false,
            progress: Instant::now(),
        }
    }

    /// Publishes and settles until the channel is lost or nobody is left.
    pub(super) async fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> End {
        let mut open = true;
        loop {
            while self.has_room() {
                let Some(request) = self.again.pop_front() else {
                    break;
                };
                self.start(request);
            }
            if self.in_flight.is_empty() {
                if self.is_suspect() {
                    return End::Refused;
                }
                (self.window, self.searching) = (WINDOW, false);
                if !open {
                    return End::Stopped;
                }
            }
            let patient_until = self.patient_until();
            tokio::select! {
                // Confirms first: polling them is also what sends new messages.
                biased;
                Some(first) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    if let Err(error) = self.settle(first) {
                        return End::ChannelLost(error);
                    }
                }
                // The supervisor of the connection outlives this session.
                _ = self.blocked.changed() => self.progress = Instant::now(),
                next = requests.recv(), if open && self.takes_new() => {
                    match next {
                        Some(request) => self.start(request),
                        None => open = false,
                    }
                    for _ in 1..GULP {
                        if !self.takes_new() {
                            break;
                        }
                        let Ok(request) = requests.try_recv() else {
                            break;
                        };
                        self.start(request);
                    }
                }
                () = sleep_until(patient_until), if self.expects_confirms() => {
                    // If another publisher was first, that was the connection of this channel too.
                    if self.channel.status().connected() {
                        self.broker.give_up().await;
                    }
                    return End::Silent;
                }
            }
        }
    }

    /// Whether this channel confirmed anything.
    pub(super) fn confirmed_any(&self) -> bool {
        self.confirmed_any
    }

    /// What was sent and not confirmed, and what was not sent yet, oldest
    /// first. Messages that nobody waits for are let go.
    pub(super) fn into_unconfirmed(self) -> (VecDeque<Request>, VecDeque<Request>) {
        // The publishes share their messages with `waiting`.
        drop(self.in_flight);
        let sent = self.waiting.into_values().map(Waiting::into_request);
        let wanted = |request: &Request| request.answer.is_some() && !request.abandoned();
        (sent.filter(wanted).collect(), self.again)
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < self.window && !*self.blocked.borrow() && !self.is_suspect()
    }

    /// Whether this channel, and not a queue, may be why messages are refused.
    fn is_suspect(&self) -> bool {
        self.refused_any && self.opened.elapsed() >= REPLACE_AFTER
    }

    fn expects_confirms(&self) -> bool {
        !self.in_flight.is_empty() && !*self.blocked.borrow()
    }

    /// Until when a node may confirm nothing. Callers have given up before, so that no more is lost than time.
    fn patient_until(&self) -> Instant {
        self.progress + 2 * self.broker.config().publish_deadline
    }

    fn takes_new(&self) -> bool {
        self.has_room() && self.again.is_empty() && !self.searching
    }

    fn start(&mut self, request: Request) {
        if request.abandoned() {
            return;
        }
        if self.in_flight.is_empty() {
            self.progress = Instant::now();
        }
        self.last_id += 1;
        let id = self.last_id;
        let outgoing = Arc::new(request.outgoing);
        let publish = publish(self.channel.clone(), id, outgoing.clone());
        self.in_flight.push(publish.boxed());
        let answer = request.answer;
        self.waiting.insert(id, Waiting { outgoing, answer, sent: Instant::now() });
    }

    /// Settles all confirms that are there, `first` among them.
    ///
    /// RabbitMQ sends a return before the confirm of the same message, and lapin
    /// attaches it to whichever confirm completes next. So all returns at hand
    /// are noted first; then a confirm without one, whose message is not noted,
    /// is good, and one with somebody else's return is undecided and published
    /// again.
    fn settle(&mut self, first: Outcome) -> lapin::Result<()> {
        let mut outcomes = vec![first];
        while let Some(Some(outcome)) = self.in_flight.next().now_or_never() {
            outcomes.push(outcome);
        }
        for (_, outcome) in &outcomes {
            if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = outcome
                && let Some(id) = publish_id(message)
            {
                self.returned.insert(id);
            }
        }
        self.progress = Instant::now();
        let mut lost = None;
        for (id, outcome) in outcomes {
            match outcome {
                Ok(confirmation) => self.settle_one(id, confirmation),
                Err(error) => lost = Some(error),
            }
        }
        lost.map_or(Ok(()), Err)
    }

    fn settle_one(&mut self, id: u64, confirmation: Confirmation) {
        self.confirmed_any = true;
        let came_back = self.returned.remove(&id);
        let Some(waiting) = self.waiting.remove(&id) else {
            return;
        };
        let route = || {
            let outgoing = &waiting.outgoing;
            (outgoing.exchange.clone(), outgoing.routing_key.clone())
        };
        metrics::confirmed_after(&waiting.outgoing.exchange, waiting.sent.elapsed());
        let result = match confirmation {
            _ if came_back => {
                let (exchange, routing_key) = route();
                // Replies go through the default exchange, and their reader's queue is none of ours.
                if !exchange.is_empty() {
                    self.broker.is_missing_something();
                }
                Err(Error::Unroutable { exchange, routing_key })
            }
            Confirmation::Nack(_) => {
                self.refused_any = true;
                let (exchange, routing_key) = route();
                Err(Error::Refused { exchange, routing_key })
            }
            Confirmation::Ack(Some(_)) if waiting.outgoing.mandatory => {
                self.again.push_back(waiting.into_request());
                return;
            }
            Confirmation::Ack(_) | Confirmation::NotRequested => Ok(()),
        };
        waiting.into_request().finish(result);
    }
}

impl Waiting {
    fn into_request(self) -> Request {
        Request { outgoing: Arc::unwrap_or_clone(self.outgoing), answer: self.answer }
    }
}

/// Sends at its first poll, so messages leave in the order they were started.
async fn publish(channel: Channel, id: u64, outgoing: Arc<Outgoing>) -> Outcome {
    let options = BasicPublishOptions { mandatory: outgoing.mandatory, immediate: false };
    let properties = outgoing.to_lapin((PUBLISH_ID, id.cast_signed()));
    let sent = channel
        .basic_publish(short(&outgoing.exchange), short(&outgoing.routing_key), options, &outgoing.body, properties)
        .await;
    match sent {
        Ok(confirm) => (id, confirm.await),
        Err(error) => (id, Err(error)),
    }
}

fn publish_id(message: &BasicReturnMessage) -> Option<u64> {
    let headers = Headers::from(message.properties.headers().as_ref()?);
    headers.get_integer(PUBLISH_ID).map(i64::cast_unsigned)
}
