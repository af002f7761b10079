//! How long a command goes on trying to reach an API that answered before.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};

/// Longer than a rolling update or a restart takes.
const LIMIT: Duration = Duration::from_secs(120);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pauses between tries, growing until something is heard again.
#[derive(Debug)]
pub(crate) struct Patience {
    heard: Instant,
    pause: Duration,
}

impl Patience {
    /// Begins now, having heard from the API.
    pub(crate) fn new() -> Self {
        Self { heard: Instant::now(), pause: FIRST_PAUSE }
    }

    /// The API was heard.
    pub(crate) fn renew(&mut self) {
        *self = Self::new();
    }

    /// Waits before the next try, or gives `error` back: it is about the request, or lasts too long.
    pub(crate) async fn after(&mut self, error: Error) -> Result<()> {
        if !error.is_temporary() || self.heard.elapsed() > LIMIT {
            return Err(error);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Error {
        Error::Lost { url: "http://h".parse().expect("an address"), cause: "reset".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nothing_is_heard_for_long() {
        let begin = Instant::now();
        let mut patience = Patience::new();
        while patience.after(lost()).await.is_ok() {}
        let took = begin.elapsed();
        assert!(took > LIMIT && took < LIMIT + 2 * LONGEST_PAUSE, "{took:?}");
        patience.renew();
        assert!(patience.after(lost()).await.is_ok());
    }

    #[tokio::test]
    async fn what_waiting_cannot_change_is_told_at_once() {
        assert!(matches!(Patience::new().after(Error::NoKey).await, Err(Error::NoKey)));
    }
}
