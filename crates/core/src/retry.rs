//! Whether and when a failed job is tried again. Two budgets that never mix: the user's policy for what the
//! job did, and Gantry's own for what happened to it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::EnumString;

use crate::failure::{Disposition, Failure, FailureClass};

/// The user's policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Attempts of the job's own in total, 1 to 100. Failures of the infrastructure do not count. Default 1.
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: u32,
    /// Seconds before the second attempt at most, 0 to 86,400; doubled for each one after. The wait is drawn between half of
    /// that and all of it. Default 10.
    #[schemars(range(max = 86_400))]
    pub backoff_seconds: u32,
    /// The longest wait in seconds, 1 to 86,400. Default 600.
    #[schemars(range(min = 1, max = 86_400))]
    pub max_backoff_seconds: u32,
    /// Retry only on these exit codes; empty means on every code but 0.
    pub on_exit_codes: Vec<i32>,
    /// Retry also on these failure classes, such as `oom_killed` or `image_not_found`. Empty means `oom_killed`
    /// alone. A timeout and a cancel are never retried; infrastructure failures have a budget of their own.
    pub on_failures: Vec<FailureClass>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            backoff_seconds: 10,
            max_backoff_seconds: 600,
            on_exit_codes: Vec::new(),
            on_failures: Vec::new(),
        }
    }
}

/// How often an infrastructure failure is made good before the job fails.
pub const INFRASTRUCTURE_RETRIES: u32 = 5;
const INFRASTRUCTURE_BACKOFF: Duration = Duration::from_secs(2);
const INFRASTRUCTURE_MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Which budget pays for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, EnumString)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[schemars(rename = "RetryBudget")]
pub enum Budget {
    /// The user's policy.
    User,
    /// Gantry's own.
    Infrastructure,
    /// Nobody's: an operator moved the job off its host.
    Operator,
}

/// Another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The budget it is taken from.
    pub budget: Budget,
    /// How long it waits.
    pub delay: Duration,
}

/// Retry or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt.
    Retry(Retry),
    /// No more.
    GiveUp,
}

/// How many retries each budget has paid for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// From the user's policy.
    pub user: u32,
    /// From the infrastructure budget.
    pub infrastructure: u32,
}

/// Decides about an attempt that ended with `failure`. `jitter` in `0.0..1.0` spreads the retries of jobs
/// that failed together over the second half of the wait.
pub fn decide(policy: &Policy, used: Used, failure: Option<&Failure>, jitter: f64) -> Verdict {
    let Some(failure) = failure else { return Verdict::GiveUp };
    if failure.class.disposition() == Disposition::Infrastructure {
        return handed_on(used, false, jitter);
    }
    if !policy.covers(failure) || used.user + 1 >= policy.max_attempts {
        return Verdict::GiveUp;
    }
    let first = Duration::from_secs(policy.backoff_seconds.into());
    let longest = Duration::from_secs(policy.max_backoff_seconds.into());
    Verdict::Retry(Retry { budget: Budget::User, delay: backoff(first, longest, used.user, jitter) })
}

/// Another attempt of a job that its place refused, where routing says: at a place that has not refused it, at once.
/// The infrastructure budget pays for both.
pub fn handed_on(used: Used, at_once: bool, jitter: f64) -> Verdict {
    if used.infrastructure >= INFRASTRUCTURE_RETRIES {
        return Verdict::GiveUp;
    }
    let delay = match at_once {
        true => Duration::ZERO,
        false => backoff(INFRASTRUCTURE_BACKOFF, INFRASTRUCTURE_MAX_BACKOFF, used.infrastructure, jitter),
    };
    Verdict::Retry(Retry { budget: Budget::Infrastructure, delay })
}

/// Another attempt at once, for a job that an operator moved off its host: no budget pays for it.
pub fn moved() -> Verdict {
    Verdict::Retry(Retry { budget: Budget::Operator, delay: Duration::ZERO })
}

impl Policy {
    pub(crate) fn covers(&self, failure: &Failure) -> bool {
        match failure.class {
            FailureClass::Cancelled | FailureClass::Timeout => false,
            FailureClass::ExitNonzero => {
                self.on_exit_codes.is_empty()
                    || failure.exit_code.is_some_and(|code| self.on_exit_codes.contains(&code))
            }
            FailureClass::OomKilled => self.on_failures.is_empty() || self.on_failures.contains(&failure.class),
            class => self.on_failures.contains(&class),
        }
    }
}

fn backoff(first: Duration, longest: Duration, retries: u32, jitter: f64) -> Duration {
    let full = first.saturating_mul(1_u32.checked_shl(retries).unwrap_or(u32::MAX)).min(longest);
    full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strum::VariantArray;

    fn exit(code: i32) -> Failure {
        Failure { exit_code: Some(code), ..Failure::new(FailureClass::ExitNonzero, "") }
    }

    #[test]
    fn the_budgets_do_not_mix() {
        let policy = Policy { max_attempts: 2, ..Policy::default() };
        let lost = Failure::new(FailureClass::Lost, "");
        let used = Used { user: 1, infrastructure: 0 };
        assert_eq!(decide(&policy, used, Some(&exit(1)), 0.0), Verdict::GiveUp);
        assert!(matches!(
            decide(&policy, used, Some(&lost), 0.0),
            Verdict::Retry(Retry { budget: Budget::Infrastructure, .. })
        ));
        let used = Used { user: 0, infrastructure: INFRASTRUCTURE_RETRIES };
        assert_eq!(decide(&policy, used, Some(&lost), 0.0), Verdict::GiveUp);
        assert!(matches!(
            decide(&policy, used, Some(&exit(1)), 0.0),
            Verdict::Retry(Retry { budget: Budget::User, .. })
        ));
    }

    #[test]
    fn a_place_that_has_not_refused_is_not_waited_for_and_is_paid_for_all_the_same() {
        let used = Used { user: 0, infrastructure: 2 };
        let at_once = Retry { budget: Budget::Infrastructure, delay: Duration::ZERO };
        assert_eq!(handed_on(used, true, 1.0), Verdict::Retry(at_once));
        let paused = Retry { budget: Budget::Infrastructure, delay: Duration::from_secs(8) };
        assert_eq!(handed_on(used, false, 1.0), Verdict::Retry(paused));
        let used = Used { infrastructure: INFRASTRUCTURE_RETRIES, ..used };
        assert_eq!(handed_on(used, true, 0.0), Verdict::GiveUp);
    }

    #[test]
    fn exit_codes_and_classes_are_chosen() {
        let policy = Policy { max_attempts: 3, on_exit_codes: vec![75], ..Policy::default() };
        assert!(matches!(decide(&policy, Used::default(), Some(&exit(75)), 0.0), Verdict::Retry(_)));
        assert_eq!(decide(&policy, Used::default(), Some(&exit(1)), 0.0), Verdict::GiveUp);
        let missing = Failure::new(FailureClass::ImageNotFound, "");
        assert_eq!(decide(&policy, Used::default(), Some(&missing), 0.0), Verdict::GiveUp);
        let policy = Policy { on_failures: vec![FailureClass::ImageNotFound], ..policy };
        assert!(matches!(decide(&policy, Used::default(), Some(&missing), 0.0), Verdict::Retry(_)));
        assert_eq!(decide(&policy, Used::default(), None, 0.0), Verdict::GiveUp);
    }

    /// In milliseconds, before the second, third, fourth and tenth attempt.
    fn waits(policy: &Policy, jitter: f64) -> [u128; 4] {
        [0, 1, 2, 8].map(|user| {
            let used = Used { user, infrastructure: 0 };
            match decide(policy, used, Some(&exit(1)), jitter) {
                Verdict::Retry(Retry { budget: Budget::User, delay }) => delay.as_millis(),
                other => panic!("after {user} retries: {other:?}"),
            }
        })
    }

    #[test]
    fn a_user_s_wait_doubles_up_to_the_longest_and_jitter_takes_up_to_half_of_it() {
        let policy = Policy { max_attempts: 10, backoff_seconds: 10, max_backoff_seconds: 25, ..Policy::default() };
        assert_eq!(waits(&policy, 0.0), [5_000, 10_000, 12_500, 12_500]);
        assert_eq!(waits(&policy, 0.5), [7_500, 15_000, 18_750, 18_750]);
        // The highest there is, and to a nanosecond the whole wait.
        assert_eq!(waits(&policy, 1.0 - f64::EPSILON), [10_000, 20_000, 25_000, 25_000]);
        let at_once = Policy { backoff_seconds: 0, ..policy };
        assert_eq!(waits(&at_once, 1.0 - f64::EPSILON), [0; 4]);
    }

    #[test]
    fn each_class_is_paid_for_by_its_own_budget_and_timeout_and_cancel_by_none() {
        use FailureClass::*;
        let paid = |class, on_failures: &[FailureClass]| {
            let policy = Policy { max_attempts: 2, on_failures: on_failures.to_vec(), ..Policy::default() };
            match decide(&policy, Used::default(), Some(&Failure::new(class, "")), 0.0) {
                Verdict::Retry(retry) => Some(retry.budget),
                Verdict::GiveUp => None,
            }
        };
        let (user, infrastructure) = (Some(Budget::User), Some(Budget::Infrastructure));
        // By a policy that lists no class, and by one that lists this one.
        let table = [
            (ExitNonzero, user, user),
            (OomKilled, user, user),
            (Timeout, None, None),
            (Cancelled, None, None),
            (ImageNotFound, None, user),
            (ImagePullDenied, None, user),
            (InvalidSpec, None, user),
            (LaunchRejected, None, user),
            (NoCapacity, infrastructure, infrastructure),
            (Throttled, infrastructure, infrastructure),
            (HostUnreachable, infrastructure, infrastructure),
            (Lost, infrastructure, infrastructure),
            (BackendError, infrastructure, infrastructure),
        ];
        assert_eq!(table.map(|(class, ..)| class), FailureClass::VARIANTS);
        for (class, unlisted, listed) in table {
            assert_eq!((paid(class, &[]), paid(class, &[class])), (unlisted, listed), "{class}");
        }
        assert_eq!(paid(OomKilled, &[ImageNotFound]), None, "a list is the whole of it");
        assert_eq!(paid(ExitNonzero, &[ImageNotFound]), user, "but for what exit codes decide");
    }

    proptest! {
        #[test]
        fn waits_grow_and_stay_bounded(retries in 0_u32..200, jitter in 0.0..1.0_f64) {
            let (first, longest) = (Duration::from_secs(2), Duration::from_secs(60));
            let wait = backoff(first, longest, retries, jitter);
            prop_assert!(wait <= longest && wait >= first / 2);
            prop_assert!(backoff(first, longest, retries + 1, jitter) >= wait);
        }
    }
}
