//! AWS' limits on requests, kept by this process for all of its hosts. Other processes have buckets of their own: hosts
//! say which part of the account's registrations is this one's (`registration_share`).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// RegisterTaskDefinition: a burst of 20, then one a second. Source: "Request throttling for the Amazon ECS API",
/// "Cluster resource modify actions" and task definition actions, Amazon ECS API Reference.
const REGISTRATIONS: (u32, u32) = (1, 20);
/// GetLogEvents: 25 a second. Source: "CloudWatch Logs quotas". Others read there too.
const LOG_READS: (u32, u32) = (20, 20);

/// The buckets of one account in one region.
pub(crate) struct Pace {
    /// For a RegisterTaskDefinition, by the share of the account's rate: hosts that name one share have one bucket.
    registrations: Mutex<HashMap<u64, Arc<DefaultDirectRateLimiter>>>,
    /// One token for a GetLogEvents.
    pub(crate) log_reads: DefaultDirectRateLimiter,
}

static ALL: LazyLock<Mutex<HashMap<String, Arc<Pace>>>> = LazyLock::new(Mutex::default);

impl Pace {
    /// The buckets of a region of an account, which all clusters there and all executors of the process share.
    pub(crate) fn of(account_and_region: &str) -> Arc<Self> {
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(account_and_region.to_owned()).or_insert_with(|| {
            Arc::new(Self { registrations: Mutex::default(), log_reads: RateLimiter::direct(part_of(LOG_READS, 1.0)) })
        }))
    }

    /// One token for a RegisterTaskDefinition, of this share (more than 0, up to 1) of what the account has.
    pub(crate) fn registrations(&self, share: f64) -> Arc<DefaultDirectRateLimiter> {
        let mut all = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(RateLimiter::direct(part_of(REGISTRATIONS, share)));
        Arc::clone(all.entry(share.to_bits()).or_insert_with(new))
    }
}

/// A share of a limit, both of its rate and of its burst, which is never less than one.
fn part_of((a_second, burst): (u32, u32), share: f64) -> Quota {
    let interval = Duration::from_secs_f64(1.0 / (f64::from(a_second) * share));
    // Rounded down: all shares together are not more than the whole.
    let burst = NonZeroU32::new((f64::from(burst) * share) as u32).unwrap_or(NonZeroU32::MIN);
    Quota::with_period(interval).expect("a rate has an interval").allow_burst(burst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_no_more_for_all_of_an_account() {
        let taken = |name| (0..100).filter(|_| Pace::of(name).registrations(1.0).check().is_ok()).count();
        assert_eq!(taken("1/here"), 20);
        assert_eq!(taken("1/here"), 0, "another host there shares it");
        assert_eq!(taken("2/here"), 20, "another account does not");
    }

    #[test]
    fn a_share_is_a_part_of_the_rate_and_of_the_burst() {
        for (share, millis, burst) in
            [(1.0, 1_000, 20), (0.5, 2_000, 10), (1.0 / 3.0, 3_000, 6), (0.05, 20_000, 1), (0.001, 1_000_000, 1)]
        {
            let quota = part_of(REGISTRATIONS, share);
            let interval = quota.replenish_interval();
            assert!(
                interval.abs_diff(Duration::from_millis(millis)) < Duration::from_millis(1),
                "{share}: {interval:?}"
            );
            assert_eq!(quota.burst_size().get(), burst, "{share}");
        }
        let taken = || (0..100).filter(|_| Pace::of("3/here").registrations(0.5).check().is_ok()).count();
        assert_eq!((taken(), taken()), (10, 0), "hosts with one share have one bucket");
    }
}
