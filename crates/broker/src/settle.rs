//! The side of a channel that deliveries are settled on.

#![expect(clippy::disallowed_methods, reason = "the one place that settles: the delivery passes the failpoints")]

use std::{collections::BTreeSet, sync::Mutex};

use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};

/// What became of settling a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// RabbitMQ was told.
    Done,
    /// The channel of the delivery is gone, and RabbitMQ has put the message
    /// back already: it comes again.
    Stale,
}

/// The unsettled deliveries of one channel.
#[derive(Debug)]
pub(crate) struct Settler {
    channel: Channel,
    outstanding: Mutex<BTreeSet<u64>>,
}

impl Settler {
    pub(crate) fn new(channel: Channel) -> Self {
        Self { channel, outstanding: Mutex::default() }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.channel.status().connected()
    }

    pub(crate) fn took(&self, tag: u64) {
        self.lock().insert(tag);
    }

    /// Deliveries handed out and not settled yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.lock().len()
    }

    pub(crate) async fn ack(&self, tag: u64) -> Settled {
        self.lock().remove(&tag);
        let options = BasicAckOptions { multiple: false };
        settled(self.channel.basic_ack(tag, options).await)
    }

    pub(crate) async fn nack(&self, tag: u64, requeue: bool) -> Settled {
        self.lock().remove(&tag);
        let options = BasicNackOptions { multiple: false, requeue };
        settled(self.channel.basic_nack(tag, options).await)
    }

    /// Acks many with as few frames as is correct.
    pub(crate) async fn ack_many(&self, tags: &[u64]) -> Settled {
        let (up_to, single) = self.split(tags);
        let mut all = Settled::Done;
        if let Some(tag) = up_to {
            let options = BasicAckOptions { multiple: true };
            all = settled(self.channel.basic_ack(tag, options).await);
        }
        let singles = single.iter().map(|tag| {
            let options = BasicAckOptions { multiple: false };
            self.channel.basic_ack(*tag, options)
        });
        for answer in futures::future::join_all(singles).await {
            if settled(answer) == Settled::Stale {
                all = Settled::Stale;
            }
        }
        all
    }

    /// The tag up to which one `multiple` ack settles these and nothing else,
    /// and the tags beyond it. Tags come in order, so all below the largest one
    /// handed out are known here.
    fn split(&self, tags: &[u64]) -> (Option<u64>, Vec<u64>) {
        let mut outstanding = self.lock();
        let mut tags: BTreeSet<u64> = tags.iter().copied().collect();
        for tag in &tags {
            outstanding.remove(tag);
        }
        let single = match outstanding.first() {
            Some(unsettled) => tags.split_off(unsettled),
            None => BTreeSet::new(),
        };
        (tags.last().copied(), single.into_iter().collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.outstanding.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn settled(answer: lapin::Result<()>) -> Settled {
    match answer {
        Ok(()) => Settled::Done,
        Err(_) => Settled::Stale,
    }
}
