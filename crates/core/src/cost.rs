//! What a run is expected to cost, and what it did cost. Money is in the operator's currency, whatever that is: the one in
//! which the prices of the hosts are. It is exact, to six places.

use std::time::Duration;

use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// Places of an amount of money.
const PLACES: u32 = 6;
/// No attempt runs for longer. What a backend tells beyond it is no time, and no sum may break for it: 366 days.
const LONGEST_MILLIS: u64 = 366 * 86_400_000;

/// What costs are told of.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    JsonSchema,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "CostBy")]
#[strum(serialize_all = "snake_case")]
pub enum By {
    /// Who owns the jobs.
    Tenant,
    /// What they were made from.
    Template,
    /// Where they ran.
    Host,
    /// The executor types to which they were routed.
    Executor,
    /// Each by itself.
    Job,
}

/// A host's prices, in the operator's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prices {
    /// For each started container.
    pub per_job: Decimal,
    /// For each hour that it runs.
    pub per_hour: Decimal,
}

/// For how long the container of an attempt ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It never started.
    Never,
    /// It was launched, and its backend has told no times.
    Unknown,
    /// By the backend's own pair of times.
    For(Duration),
}

impl Ran {
    /// For so many milliseconds, as a backend told.
    pub fn millis(millis: u64) -> Self {
        Self::For(Duration::from_millis(millis.min(LONGEST_MILLIS)))
    }
}

/// The completed runs of a template in its latest days.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// How many of them told how long they ran.
    pub runs: u64,
    /// For how long those ran together, in milliseconds.
    pub millis: u64,
}

/// What an attempt cost: nothing if its container never started, none if nobody knows.
pub fn actual(prices: Prices, ran: Ran) -> Option<Decimal> {
    match ran {
        Ran::Never => Some(Decimal::ZERO),
        Ran::Unknown => None,
        Ran::For(run) => Some(cost(prices, run)),
    }
}

/// How long a run is expected to take: as long as the template's runs took on the average, else as long as it may.
///
/// The mean, because cost is linear in time: the sum of many estimates comes out at the sum of their costs, where a
/// median would miss whatever is paid for the few long runs.
pub fn expected(history: History, timeout: Duration) -> Duration {
    match history.millis.checked_div(history.runs) {
        Some(mean) => Duration::from_millis(mean).min(timeout),
        None => timeout,
    }
}

/// What a run is expected to cost on the cheapest of these hosts; none if there is no host.
pub fn estimate(hosts: impl IntoIterator<Item = Prices>, expected: Duration) -> Option<Decimal> {
    hosts.into_iter().map(|prices| cost(prices, expected)).min()
}

/// `per_job + per_hour * hours`.
fn cost(prices: Prices, run: Duration) -> Decimal {
    let millis = Decimal::from(u64::try_from(run.as_millis()).unwrap_or(u64::MAX));
    (prices.per_job + prices.per_hour * millis / Decimal::from(3_600_000_u32)).round_dp(PLACES).normalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);

    fn prices(per_job: &str, per_hour: &str) -> Prices {
        Prices { per_job: money(per_job), per_hour: money(per_hour) }
    }

    fn money(text: &str) -> Decimal {
        text.parse().expect("a number")
    }

    #[test]
    fn a_run_costs_its_start_and_its_time() {
        let prices = prices("0.10", "3");
        assert_eq!(actual(prices, Ran::For(HALF_AN_HOUR)), Some(money("1.6")));
        assert_eq!(actual(prices, Ran::For(Duration::ZERO)), Some(money("0.1")));
        assert_eq!(actual(prices, Ran::For(Duration::from_millis(1))), Some(money("0.100001")), "six places");
        assert_eq!(actual(prices, Ran::Never), Some(Decimal::ZERO));
        assert_eq!(actual(prices, Ran::Unknown), None, "which is not the same as nothing");
    }

    #[test]
    fn what_no_run_can_last_breaks_no_sum() {
        let dearest = prices("1000000000", "1000000000");
        assert_eq!(actual(dearest, Ran::millis(u64::MAX)), Some(money("8785000000000")));
    }

    #[test]
    fn a_run_is_expected_to_take_the_mean_and_never_more_than_it_may() {
        let history = History { runs: 4, millis: 10_000 };
        assert_eq!(expected(history, HALF_AN_HOUR), Duration::from_millis(2_500));
        assert_eq!(expected(history, Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(expected(History::default(), HALF_AN_HOUR), HALF_AN_HOUR);
    }

    #[test]
    fn the_cheapest_host_depends_on_how_long_it_takes() {
        let hosts = [prices("0", "2"), prices("0.5", "1"), prices("9", "9")];
        assert_eq!(estimate(hosts, Duration::from_secs(900)), Some(money("0.5")));
        assert_eq!(estimate(hosts, Duration::from_secs(3_600)), Some(money("1.5")));
        assert_eq!(estimate([], HALF_AN_HOUR), None);
    }
}
