//! AWS' limits on requests, kept by this process for all of its hosts.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// RegisterTaskDefinition: a burst of 20, then one a second. Source: "Request throttling for the Amazon ECS API",
/// "Cluster resource modify actions" and task definition actions, Amazon ECS API Reference.
const REGISTRATIONS: (u32, u32) = (1, 20);
/// GetLogEvents: 25 a second. Source: "CloudWatch Logs quotas". Others read there too.
const LOG_READS: (u32, u32) = (20, 20);

/// The buckets of one account in one region.
pub(crate) struct Pace {
    /// One token for a RegisterTaskDefinition.
    pub(crate) registrations: DefaultDirectRateLimiter,
    /// One token for a GetLogEvents.
    pub(crate) log_reads: DefaultDirectRateLimiter,
}

static ALL: LazyLock<Mutex<HashMap<String, Arc<Pace>>>> = LazyLock::new(Mutex::default);

impl Pace {
    /// The buckets of a region of an account, which all clusters there and all executors of the process share.
    pub(crate) fn of(account_and_region: &str) -> Arc<Self> {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(account_and_region.to_owned()).or_insert_with(|| {
            let bucket = |(a_second, burst)| {
                let positive = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
                RateLimiter::direct(Quota::per_second(positive(a_second)).allow_burst(positive(burst)))
            };
            Arc::new(Self { registrations: bucket(REGISTRATIONS), log_reads: bucket(LOG_READS) })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_no_more_for_all_of_an_account() {
        let taken = |name| (0..100).filter(|_| Pace::of(name).registrations.check().is_ok()).count();
        assert_eq!(taken("1/here"), 20);
        assert_eq!(taken("1/here"), 0, "another host there shares it");
        assert_eq!(taken("2/here"), 20, "another account does not");
    }
}
