//! Ctrl-C while a job is followed.

use std::future::Future;
use std::pin::pin;

use gantry_core::JobId;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::Client;
use crate::error::{Error, Result};
use crate::output::note;

/// Takes Ctrl-C from the shell's default, which would leave without a word to Gantry.
pub(super) struct Interrupts {
    signal: Signal,
}

impl Interrupts {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { signal: signal(SignalKind::interrupt())? })
    }

    /// Runs `work`; none if it is interrupted.
    pub(super) async fn or_leave<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            _ = self.signal.recv() => None,
        }
    }

    /// Runs `work`, which follows a job: the first interrupt asks to cancel the job and goes on following it, the
    /// second gives up. None if it was given up.
    pub(super) async fn or_cancel<T>(
        &mut self,
        client: &Client,
        job: JobId,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        if let Some(done) = self.or_leave(work.as_mut()).await {
            return Some(done);
        }
        note("gantry: cancelling the job; press Ctrl-C again to leave it");
        let cancel = async {
            match client.cancel(job).await {
                // A job that has ended meanwhile refuses, and its end is on its way here.
                Ok(_) | Err(Error::Refused(_)) => {}
                Err(error) => note(&format!("gantry: the job could not be cancelled: {error}")),
            }
            std::future::pending().await
        };
        self.or_leave(async {
            tokio::select! {
                done = work => done,
                never = cancel => never,
            }
        })
        .await
    }
}
