//! What a run costs on a host.

use std::time::Duration;

use rust_decimal::Decimal;

/// A host's prices, in the operator's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// For each started container.
    pub per_job: Decimal,
    /// For each hour that it runs.
    pub per_hour: Decimal,
}

/// `per_job + per_hour * hours`, rounded to six places.
pub fn cost(prices: Prices, run: Duration) -> Decimal {
    let millis = Decimal::from(u64::try_from(run.as_millis()).unwrap_or(u64::MAX));
    (prices.per_job + prices.per_hour * millis / Decimal::from(3_600_000_u32)).round_dp(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_hour() {
        let prices = Prices { per_job: Decimal::new(10, 2), per_hour: Decimal::new(3, 0) };
        assert_eq!(cost(prices, Duration::from_secs(1800)), Decimal::new(160, 2));
    }
}
