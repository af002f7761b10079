//! `gantry cost`.

use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use gantry_api::wire::{self, CostList};
use gantry_core::clock::{Clock as _, SystemClock};
use gantry_core::cost::By;
use rust_decimal::Decimal;

use super::values::one_of;
use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, money, short, table};

const NAME: usize = 40;
/// Lines of a page, which is as many as the API gives.
const PAGE: u32 = 1_000;

#[derive(Args)]
pub(crate) struct Cost {
    /// What each line is of; by tenant an operator's key sees all of them
    #[arg(long, value_parser = one_of::<By>(), default_value = "template")]
    by: By,
    /// The first day, in UTC: a date, or how long ago, such as 7d
    #[arg(long, value_parser = day, default_value = "7d", value_name = "DAY")]
    since: NaiveDate,
    /// The last day, in UTC, in the same way. Today if absent
    #[arg(long, value_parser = day, value_name = "DAY")]
    until: Option<NaiveDate>,
    /// By host or executor: the costs of all tenants (with an operator's key)
    #[arg(long)]
    all_tenants: bool,
    /// By job: at most so many, the latest first
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

impl Cost {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let of_jobs = self.by == By::Job;
        let mut query = vec![
            ("by", self.by.to_string()),
            ("since", self.since.to_string()),
            ("limit", if of_jobs { self.limit } else { PAGE }.to_string()),
        ];
        query.extend(self.until.map(|until| ("until", until.to_string())));
        query.extend(self.all_tenants.then(|| ("all_tenants", "true".to_owned())));
        let mut list = client.costs(&query).await?;
        // Jobs there may be any number of; of everything else all of it is shown.
        while let Some(after) = list.next.take_if(|_| !of_jobs) {
            let mut query = query.clone();
            query.push(("after", after));
            let page = client.costs(&query).await?;
            list.costs.extend(page.costs);
            list.next = page.next;
        }
        if !of_jobs {
            list.costs.sort_by_key(|cost| std::cmp::Reverse(cost.cost));
        }
        format.print(&list, listing)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A date, or how long ago.
fn day(text: &str) -> std::result::Result<NaiveDate, String> {
    day_before(SystemClock.now(), text)
}

fn day_before(now: DateTime<Utc>, text: &str) -> std::result::Result<NaiveDate, String> {
    if let Ok(date) = text.parse() {
        return Ok(date);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| chrono::Duration::from_std(ago).ok());
    let day = ago.and_then(|ago| now.checked_sub_signed(ago)).map(|time| time.date_naive());
    day.ok_or_else(|| "it is a date such as 2026-01-31, or how long ago, such as 7d".to_owned())
}

fn listing(list: &CostList) -> String {
    let mut rows: Vec<_> = list.costs.iter().map(|cost| row(&named(cost), cost)).collect();
    if list.costs.len() > 1 && list.next.is_none() {
        rows.push(row("all of them", &total(&list.costs)));
    }
    let header = [
        list.by.to_string().to_uppercase(),
        "RUNS".into(),
        "COMPLETED".into(),
        "FAILED".into(),
        "COST".into(),
        "OF FAILED".into(),
        "HOURS".into(),
        "ESTIMATED".into(),
    ];
    let table = table(header.each_ref().map(String::as_str), &[1, 2, 3, 4, 5, 6, 7], rows);
    let mut notes =
        vec![format!("{} to {} (days in UTC), in the currency of the hosts' prices", list.since, list.until)];
    match list.costs.iter().map(|cost| cost.untimed).sum::<i64>() {
        0 => {}
        untimed => notes.push(format!("{untimed} runs are not in the cost: their backend told no times")),
    }
    if list.next.is_some() {
        notes.push("there are more jobs: --limit shows up to 1000, and the API all of them".to_owned());
    }
    format!("{table}\n\n{}", notes.join("\n"))
}

/// By name, and where that says too little by id.
fn named(cost: &wire::Cost) -> String {
    match (&cost.id, &cost.name) {
        (Some(id), Some(name)) if cost.ended_at.is_some() => format!("{id} {}", short(name, NAME)),
        (_, Some(name)) => short(name, NAME),
        (Some(id), None) => id.clone(),
        (None, None) => "(no template)".to_owned(),
    }
}

fn row(name: &str, cost: &wire::Cost) -> [String; 8] {
    [
        name.to_owned(),
        cost.runs.to_string(),
        cost.completed.to_string(),
        cost.failed.to_string(),
        known(cost.cost),
        money(cost.failed_cost),
        hours(cost.run_millis),
        known(cost.estimated_cost),
    ]
}

fn total(costs: &[wire::Cost]) -> wire::Cost {
    wire::Cost {
        id: None,
        name: None,
        runs: costs.iter().map(|cost| cost.runs).sum(),
        completed: costs.iter().map(|cost| cost.completed).sum(),
        failed: costs.iter().map(|cost| cost.failed).sum(),
        untimed: costs.iter().map(|cost| cost.untimed).sum(),
        run_millis: costs.iter().map(|cost| cost.run_millis).sum(),
        cost: Some(costs.iter().filter_map(|cost| cost.cost).sum()),
        failed_cost: costs.iter().map(|cost| cost.failed_cost).sum(),
        estimated_cost: Some(costs.iter().filter_map(|cost| cost.estimated_cost).sum()),
        ended_at: None,
    }
}

/// An amount that may not be known.
fn known(amount: Option<Decimal>) -> String {
    amount.map_or_else(|| "?".to_owned(), money)
}

fn hours(millis: i64) -> String {
    let hours = Duration::from_millis(u64::try_from(millis).unwrap_or_default()).as_secs_f64() / 3_600.0;
    format!("{hours:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn list(by: &str, costs: serde_json::Value, next: Option<&str>) -> CostList {
        let list = json!({"by": by, "since": "2026-01-01", "until": "2026-01-08", "costs": costs, "next": next});
        serde_json::from_value(list).expect("costs")
    }

    #[test]
    fn days_are_dates_or_ages() {
        let now = DateTime::from_timestamp(1_767_226_000, 0).expect("a time");
        assert_eq!(day_before(now, "2025-11-30"), Ok(NaiveDate::from_ymd_opt(2025, 11, 30).expect("a day")));
        assert_eq!(day_before(now, "7d"), Ok(NaiveDate::from_ymd_opt(2025, 12, 25).expect("a day")));
        assert_eq!(day_before(now, "2h"), Ok(NaiveDate::from_ymd_opt(2025, 12, 31).expect("a day")));
        for text in ["", "yesterday", "2025-13-01", "999999999999y"] {
            assert!(day_before(now, text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_failed_is_told_apart_and_all_is_added_up() {
        let seen = listing(&list(
            "template",
            json!([
                {"id": "0192f0c0-0000-7000-8000-000000000001", "name": "nightly", "runs": 3, "completed": 2, "failed": 1,
                    "untimed": 1, "run_millis": 5_400_000, "cost": "1.5", "failed_cost": "0.250001", "estimated_cost": "1"},
                {"runs": 1, "completed": 1, "failed": 0, "untimed": 0, "run_millis": 0, "cost": "0", "failed_cost": "0",
                    "estimated_cost": "0"},
            ]),
            None,
        ));
        assert_eq!(
            seen,
            "TEMPLATE       RUNS  COMPLETED  FAILED  COST  OF FAILED  HOURS  ESTIMATED\n\
             nightly           3          2       1  1.50   0.250001  1.500       1.00\n\
             (no template)     1          1       0  0.00       0.00  0.000       0.00\n\
             all of them       4          3       1  1.50   0.250001  1.500       1.00\n\n\
             2026-01-01 to 2026-01-08 (days in UTC), in the currency of the hosts' prices\n\
             1 runs are not in the cost: their backend told no times"
        );
    }

    #[test]
    fn what_a_job_cost_may_be_unknown() {
        let job = "0192f0c0-0000-7000-8000-000000000001";
        let seen = listing(&list(
            "job",
            json!([{"id": job, "name": "count", "runs": 1, "completed": 0, "failed": 1, "untimed": 1, "run_millis": 0,
                "failed_cost": "0", "ended_at": "2026-01-01T00:00:00Z"}]),
            Some("1.x"),
        ));
        assert!(
            seen.contains(&format!("{job} count     1          0       1     ?       0.00  0.000          ?")),
            "{seen}"
        );
        assert!(seen.contains("there are more jobs"), "{seen}");
    }
}
