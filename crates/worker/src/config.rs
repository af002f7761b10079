//! What a worker must be told.

use std::time::Duration;

use gantry_runtime::{process, serve, telemetry};
use serde::Deserialize;

/// The configuration of a worker process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Postgres, as the role `gantry_fleet`.
    pub database: gantry_store::Config,
    /// RabbitMQ.
    pub broker: gantry_broker::Config,
    /// Logs, traces, metrics.
    #[serde(default)]
    pub telemetry: telemetry::Config,
    /// Health and metrics over HTTP.
    #[serde(default)]
    pub serve: serve::Config,
    /// The worker itself.
    #[serde(default)]
    pub worker: Settings,
}

impl process::Config for Config {
    fn telemetry(&self) -> &telemetry::Config {
        &self.telemetry
    }
}

/// How a worker works. Times are in the unit that the name says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long after a beat others may declare this worker dead. Default 18. Requests to a backend are bounded by a
    /// third of it, and the database's `transaction_timeout_millis` must be less than that.
    pub lease_seconds: u32,
    /// Time between two beats. Default 2,000.
    pub beat_millis: u64,
    /// How often the hosts are read and checked. Default 10.
    pub host_check_seconds: u64,
    /// How long a claimed job may take to start: pull and provisioning. Default 600.
    pub launch_timeout_seconds: u64,
    /// How long a backend that answers `throttled` is asked again within one attempt, in jittered pauses that grow from 1 s
    /// to 5 s, before the attempt ends and the job goes on to the next executor of its list; 0 for not at all. A job that
    /// may run nowhere else asks until the launch timeout, whatever this says. Default 30.
    pub throttle_patience_seconds: u64,
    /// Time between SIGTERM and SIGKILL of a container that is stopped. Default 10.
    pub stop_grace_seconds: u64,
    /// Launches in flight on one host at most. Default 16.
    pub launches_per_host: usize,
    /// Messages in hand at most. Default 64; each is a list of up to 100 jobs.
    pub prefetch: u16,
    /// Bytes of one stream that are stored from its beginning. Default 16 MiB.
    pub log_head_bytes: u64,
    /// Bytes of one stream that are stored from its end, when the beginning is full. Default 1 MiB.
    pub log_tail_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_seconds: 18,
            beat_millis: 2_000,
            host_check_seconds: 10,
            launch_timeout_seconds: 600,
            throttle_patience_seconds: 30,
            stop_grace_seconds: 10,
            launches_per_host: 16,
            prefetch: 64,
            log_head_bytes: 16 << 20,
            log_tail_bytes: 1 << 20,
        }
    }
}

/// Settings that do not go together.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// A frozen transaction could outlive the lease.
    #[error(
        "`lease_seconds` is {lease_seconds}, and a third of it is not more than the database's transaction timeout \
         ({timeout:?}); raise the one or lower `transaction_timeout_millis`"
    )]
    LeaseTooShort {
        /// The lease.
        lease_seconds: u32,
        /// The timeout.
        timeout: Duration,
    },
    /// The lease would be over before it is renewed.
    #[error("`beat_millis` is {beat_millis}: it must be less than a third of `lease_seconds` ({lease_seconds})")]
    BeatTooSlow {
        /// The beat.
        beat_millis: u64,
        /// The lease.
        lease_seconds: u32,
    },
}

impl Settings {
    /// Whether these settings keep the lease's promises over this store.
    pub(crate) fn check(&self, transaction_timeout: Duration) -> Result<(), Invalid> {
        let lease_seconds = self.lease_seconds;
        if self.request_timeout() <= transaction_timeout {
            return Err(Invalid::LeaseTooShort { lease_seconds, timeout: transaction_timeout });
        }
        if self.beat() >= self.request_timeout() {
            return Err(Invalid::BeatTooSlow { beat_millis: self.beat_millis, lease_seconds });
        }
        Ok(())
    }

    /// The lease's time to live.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }

    /// The longest that a mutating request may take: a third of the lease.
    pub(crate) fn request_timeout(&self) -> Duration {
        self.lease() / 3
    }

    pub(crate) fn beat(&self) -> Duration {
        Duration::from_millis(self.beat_millis)
    }

    pub(crate) fn host_check(&self) -> Duration {
        Duration::from_secs(self.host_check_seconds)
    }

    pub(crate) fn launch_timeout(&self) -> Duration {
        Duration::from_secs(self.launch_timeout_seconds)
    }

    pub(crate) fn throttle_patience(&self) -> Duration {
        Duration::from_secs(self.throttle_patience_seconds)
    }

    pub(crate) fn stop_grace(&self) -> Duration {
        Duration::from_secs(self.stop_grace_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_must_outlast_three_transactions_and_three_beats() {
        let timeout = Duration::from_secs(5);
        assert!(Settings::default().check(timeout).is_ok());
        let short = Settings { lease_seconds: 15, ..Settings::default() };
        assert!(matches!(short.check(timeout), Err(Invalid::LeaseTooShort { .. })));
        let slow = Settings { beat_millis: 6_000, ..Settings::default() };
        assert!(matches!(slow.check(timeout), Err(Invalid::BeatTooSlow { .. })));
    }
}
