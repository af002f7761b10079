//! The task behind a publisher: one session per channel, and what is carried
//! from one to the next.

use std::collections::VecDeque;

use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Request,
    session::{End, Session},
};
use crate::{Broker, connection::back_off, metrics, topology};

/// Publishes in flight on one channel before new ones wait.
pub(super) const WINDOW: usize = 8192;

/// What a session begins with.
pub(super) struct Round {
    /// Left over from the last channel, oldest first.
    pub(super) again: VecDeque<Request>,
    /// How many may be in flight, fewer than [`WINDOW`] in search of a culprit.
    pub(super) window: usize,
}

/// Publishes what comes until every publisher handle is gone.
pub(super) async fn run(broker: Broker, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
    let mut round = Round { again: VecDeque::new(), window: WINDOW };
    let mut pauses = back_off();
    loop {
        let opened = tokio::select! {
            // With every handle gone nobody waits for an answer any more.
            () = stop.cancelled(), if !broker.is_connected() => return,
            opened = broker.confirming_channel() => opened,
        };
        let channel = match opened {
            Ok(channel) => channel,
            Err(cause) => {
                // The wait for a connection was a pause in itself.
                tracing::debug!(%cause, "the publisher has no channel yet");
                sleep(back_off().next().unwrap_or_default()).await;
                continue;
            }
        };
        let mut session = Session::new(&broker, channel, round);
        let error = match session.run(&mut requests).await {
            End::Stopped => return,
            End::Refused => {
                let (sent, unsent) = session.into_unconfirmed();
                round = everything(sent, unsent);
                continue;
            }
            End::Silent => {
                let (sent, unsent) = session.into_unconfirmed();
                metrics::retried(sent.len());
                round = everything(sent, unsent);
                continue;
            }
            End::ChannelLost(error) => error,
        };
        if session.confirmed_any() {
            pauses = back_off();
        }
        let (sent, unsent) = session.into_unconfirmed();
        metrics::retried(sent.len());
        if topology::is_not_found(&error) {
            broker.is_missing_something();
        }
        tracing::warn!(%error, messages = sent.len(), "the publisher lost its channel");
        round = if error.is_amqp_soft_error() {
            narrow(sent, unsent, &error)
        } else {
            sleep(pauses.next().unwrap_or_default()).await;
            everything(sent, unsent)
        };
    }
}

fn everything(mut sent: VecDeque<Request>, unsent: VecDeque<Request>) -> Round {
    sent.extend(unsent);
    Round { again: sent, window: WINDOW }
}

/// RabbitMQ closed the channel over *one* of the messages in flight, without
/// saying which. Halving the window finds the culprit in a few rounds, so that
/// it alone fails and its neighbours go through.
fn narrow(mut sent: VecDeque<Request>, unsent: VecDeque<Request>, error: &lapin::Error) -> Round {
    if sent.len() > 1 {
        let window = sent.len() / 2;
        return Round { window, ..everything(sent, unsent) };
    }
    if let Some(culprit) = sent.pop_front() {
        let exchange = culprit.outgoing.exchange.clone();
        let reason = error.to_string();
        culprit.finish(Err(Error::Rejected { exchange, reason }));
    }
    everything(sent, unsent)
}
