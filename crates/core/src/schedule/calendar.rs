//! A cron expression in a time zone.

use chrono::{DateTime, Duration, SecondsFormat, SubsecRound, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::problem::{Code, Problem};

/// What an expression may look like, for those who wrote one that is none.
const EXAMPLES: &str = "such as `30 2 * * 1-5` (02:30 on workdays), `*/10 * * * *` (every ten minutes) or, with seconds \
                        first, `*/15 * * * * *`";
/// The fields of an expression, in their order, with what each may hold.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0-59"),
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of the month", "1-31 or L"),
    ("month", "1-12 or JAN-DEC"),
    ("day of the week", "0-7 or SUN-SAT"),
];
/// The longest expression. Every field with every value written out is shorter.
const CRON_BYTES: usize = 1_000;
/// How alike two names must be (Jaro-Winkler, 0 to 1) for one to be suggested for the other.
const ALIKE: f64 = 0.85;

/// When a schedule is due.
///
/// Five fields (minute, hour, day of the month, month, day of the week) or six, with seconds first; `@hourly`,
/// `@daily`, `@weekly`, `@monthly`, `@yearly`. Where both the day of the month and that of the week are restricted,
/// either is enough, as in Vixie cron.
///
/// An expression with one second, one minute and one hour is a fixed time, any other an interval. Where a zone's clocks go
/// forward, a fixed time that they leave out is due at the first instant after the gap, and an interval goes on after it.
/// Where they go back, a fixed time is due once, the first time that the clocks show it, and an interval in both hours.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    cron: Cron,
    zone: Tz,
}

impl Calendar {
    /// Reads an expression and the name of an IANA time zone.
    ///
    /// # Errors
    /// A problem with the field `cron` or `time_zone`, which says what is wrong and what would be right.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, Problem> {
        let zone = time_zone.parse().map_err(|_| unknown_zone(time_zone))?;
        if cron.len() > CRON_BYTES {
            let message = format!("a cron expression has at most {CRON_BYTES} bytes, this one {}", cron.len());
            return Err(invalid_cron(message));
        }
        let parsed = parser().parse(cron).map_err(|_| explain(cron))?;
        Ok(Self { cron: parsed, zone })
    }

    /// The first due time after `time`; none if there never is one again.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The library gives up on a gap of more than two hours, such as a day that a zone left out: behind it it goes on.
        [Duration::zero(), Duration::hours(1), Duration::days(1), Duration::days(2)].into_iter().find_map(|later| {
            // A second before: what is due at that very moment counts, but not the one asked about.
            let before = if later.is_zero() { later } else { later - Duration::seconds(1) };
            let start = (time + before).with_timezone(&self.zone);
            let next = self.cron.find_next_occurrence(&start, false).ok()?.to_utc();
            // Whatever the library finds at the edges of a zone's changes: a schedule goes forward.
            (next > time).then_some(next)
        })
    }

    /// The last due time before `time`; none if there was none.
    pub fn last_before(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // The library compares whole seconds.
        let second = time.trunc_subsecs(0);
        let whole = if second == time { second } else { second + Duration::seconds(1) };
        let last = self.cron.find_previous_occurrence(&whole.with_timezone(&self.zone), false).ok()?.to_utc();
        (last < time).then_some(last)
    }

    /// A time as the clocks of its zone show it (RFC 3339), for people.
    pub fn local(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.zone).to_rfc3339_opts(SecondsFormat::Secs, true)
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

fn invalid_cron(message: String) -> Problem {
    Problem::field(Code::InvalidField, "cron", message)
}

/// Which of the fields is at fault, found by reading each alone.
fn explain(cron: &str) -> Problem {
    let words: Vec<&str> = cron.split_whitespace().collect();
    if let [word] = words[..]
        && word.starts_with('@')
    {
        return invalid_cron(format!(
            "{word:?} is not known; there are @hourly, @daily, @weekly, @monthly and @yearly"
        ));
    }
    let Some(without_seconds) = FIELDS.len().checked_sub(words.len()).filter(|missing| *missing <= 1) else {
        let message = format!(
            "a cron expression has five fields (minute, hour, day of the month, month, day of the week) or six, with \
             seconds first, not {}; {EXAMPLES}",
            words.len()
        );
        return invalid_cron(message);
    };
    let fields = words.iter().zip(&FIELDS[without_seconds..]).enumerate();
    for (index, (word, (name, range))) in fields {
        let mut alone = ["*"; FIELDS.len()];
        alone[without_seconds + index] = word;
        if parser().parse(&alone.join(" ")).is_err() {
            let message = format!(
                "the {name} (field {} of {cron:?}) is {range}, a list such as 1,5, a range such as 1-5, or a step such \
                 as */5, not {word:?}; an expression looks {EXAMPLES}",
                index + 1
            );
            return invalid_cron(message);
        }
    }
    invalid_cron(format!("{cron:?} is not a cron expression, {EXAMPLES}"))
}

fn unknown_zone(name: &str) -> Problem {
    let wanted = name.to_lowercase();
    // A city alone is what people write most.
    let alike = |known: &str| {
        let known = known.to_lowercase();
        let city = known.rsplit('/').next().unwrap_or(&known);
        strsim::jaro_winkler(&known, &wanted).max(strsim::jaro_winkler(city, &wanted))
    };
    let best = TZ_VARIANTS.iter().map(|zone| (alike(zone.name()), zone.name())).max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = match best {
        Some((score, known)) if score >= ALIKE => format!("did you mean `{known}`?"),
        _ => "give an IANA name such as `Europe/Paris`, `America/New_York` or `UTC`".to_owned(),
    };
    Problem::field(Code::InvalidField, "time_zone", format!("there is no time zone {name:?}; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;
    use proptest::prelude::*;

    fn calendar(cron: &str, zone: &str) -> Calendar {
        Calendar::parse(cron, zone).expect("valid")
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    /// The next `N` due times after `from`.
    fn due<const N: usize>(cron: &str, zone: &str, from: &str) -> [String; N] {
        let calendar = calendar(cron, zone);
        let mut time = utc(from);
        std::array::from_fn(|_| {
            time = calendar.next_after(time).expect("due again");
            time.format("%m-%dT%H:%M:%SZ").to_string()
        })
    }

    #[test]
    fn five_fields_are_minutes_and_six_are_seconds() {
        assert_eq!(due("*/20 * * * *", "UTC", "2026-01-01T00:00:00Z"), ["01-01T00:20:00Z", "01-01T00:40:00Z"]);
        assert_eq!(due("*/20 * * * * *", "UTC", "2026-01-01T00:00:00.5Z"), ["01-01T00:00:20Z", "01-01T00:00:40Z"]);
        assert_eq!(due("@daily", "Europe/Paris", "2026-01-01T00:00:00Z"), ["01-01T23:00:00Z"]);
    }

    #[test]
    fn every_form_that_is_documented_is_understood() {
        for (cron, due_at) in [
            ("10-50/10 * * * *", "01-01T00:10:00Z"),
            ("0 0 15W * *", "01-15T00:00:00Z"),
            ("0 0 * * 5#2", "01-09T00:00:00Z"),
            ("0 0 * * 5L", "01-30T00:00:00Z"),
            ("0 0 13 * +5", "02-13T00:00:00Z"),
            ("0 0 * FEB SUN", "02-01T00:00:00Z"),
            ("@hourly", "01-01T01:00:00Z"),
            ("@weekly", "01-04T00:00:00Z"),
            ("@monthly", "02-01T00:00:00Z"),
            ("@yearly", "01-01T00:00:00Z"),
        ] {
            assert_eq!(due(cron, "UTC", "2026-01-01T00:00:00Z"), [due_at], "{cron}");
        }
    }

    #[test]
    fn the_day_of_the_month_and_that_of_the_week_are_alternatives() {
        // The 13th is a Tuesday, the 16th the first Friday after it.
        assert_eq!(due("0 0 13 * 5", "UTC", "2026-01-10T00:00:00Z"), ["01-13T00:00:00Z", "01-16T00:00:00Z"]);
    }

    #[test]
    fn a_fixed_time_in_the_gap_is_due_right_after_it() {
        // Clocks go from 02:00 to 03:00 on 29 March, which is 01:00 in UTC.
        assert_eq!(
            due("30 2 * * *", "Europe/Paris", "2026-03-27T12:00:00Z"),
            ["03-28T01:30:00Z", "03-29T01:00:00Z", "03-30T00:30:00Z"]
        );
        assert_eq!(
            due("*/30 * * * *", "Europe/Paris", "2026-03-29T00:20:00Z"),
            ["03-29T00:30:00Z", "03-29T01:00:00Z", "03-29T01:30:00Z"]
        );
    }

    #[test]
    fn a_fixed_time_in_the_repeated_hour_is_due_once_and_an_interval_in_both() {
        // Clocks go from 03:00 back to 02:00 on 25 October, which is 01:00 in UTC.
        assert_eq!(due("30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z"), ["10-25T00:30:00Z", "10-26T01:30:00Z"]);
        assert_eq!(
            due("*/30 * * * *", "Europe/Paris", "2026-10-25T00:10:00Z"),
            ["10-25T00:30:00Z", "10-25T01:00:00Z", "10-25T01:30:00Z", "10-25T02:00:00Z"]
        );
    }

    #[test]
    fn leap_days_and_the_ends_of_months_are_found() {
        let leap = calendar("0 0 29 2 *", "UTC");
        assert_eq!(leap.next_after(utc("2026-01-01T00:00:00Z")), Some(utc("2028-02-29T00:00:00Z")));
        assert_eq!(due("0 0 L * *", "UTC", "2028-02-01T00:00:00Z"), ["02-29T00:00:00Z", "03-31T00:00:00Z"]);
    }

    /// Samoa left out 30 December 2011.
    #[test]
    fn a_day_that_a_zone_left_out_is_no_trap() {
        let noon = calendar("0 12 * * *", "Pacific/Apia");
        let before = chrono_tz::Pacific::Apia.with_ymd_and_hms(2011, 12, 29, 12, 0, 0).single().expect("a time");
        let next = noon.next_after(before.to_utc()).expect("due again").with_timezone(&chrono_tz::Pacific::Apia);
        assert!(next.to_rfc3339().starts_with("2011-12-31T"), "{next}");
    }

    #[test]
    fn what_is_never_due_has_no_next_time() {
        assert_eq!(calendar("0 0 30 2 *", "UTC").next_after(utc("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn a_bad_expression_is_told_its_field_and_an_example() {
        for (cron, says) in [
            ("61 * * * *", "the minute (field 1"),
            ("0 24 * * *", "the hour (field 2"),
            ("0 0 32 * *", "the day of the month (field 3"),
            ("0 0 * 13 *", "the month (field 4"),
            ("0 0 * * 8", "the day of the week (field 5"),
            ("60 0 0 * * *", "the second (field 1"),
            ("0 0 0 * * monday", "the day of the week (field 6"),
            ("* * * *", "not 4"),
            ("0 0 0 1 1 * 2030", "not 7"),
            ("", "not 0"),
            ("@fortnightly", "@weekly"),
        ] {
            let problem = Calendar::parse(cron, "UTC").expect_err(cron);
            assert_eq!((problem.code, problem.field.as_deref()), (Code::InvalidField, Some("cron")));
            assert!(problem.message.contains(says), "{cron}: {problem}");
        }
        assert!(Calendar::parse("0 25 * * *", "UTC").expect_err("no hour").message.contains("30 2 * * 1-5"));
        assert!(Calendar::parse(&"1,".repeat(600), "UTC").is_err());
    }

    #[test]
    fn an_unknown_zone_is_told_what_was_meant() {
        for (zone, says) in [
            ("Berlin", "`Europe/Berlin`"),
            ("europe/paris", "`Europe/Paris`"),
            ("America/NewYork", "`America/New_York`"),
            ("nowhere at all", "IANA"),
        ] {
            let problem = Calendar::parse("* * * * *", zone).expect_err(zone);
            assert_eq!(problem.field.as_deref(), Some("time_zone"));
            assert!(problem.message.contains(says), "{zone}: {problem}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn due_times_go_forward_and_back_alike(
            cron in prop::sample::select(vec!["*/7 * * * *", "30 2 * * *", "15 1,2,3 * * *", "*/13 * * * * *", "0 0 29 2 *", "59 23 L * *", "0 */5 * * 1-5"]),
            zone in prop::sample::select(vec!["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "Africa/Casablanca"]),
            seconds in 1_767_225_600_i64..1_893_456_000,
            nanos in prop::sample::select(vec![0_u32, 1, 500_000_000]),
        ) {
            let calendar = calendar(cron, zone);
            let from = DateTime::from_timestamp(seconds, nanos).expect("a time");
            let first = calendar.next_after(from).expect("due again");
            let second = calendar.next_after(first).expect("due again");
            prop_assert!(from < first && first < second);
            prop_assert_eq!(first.timestamp_subsec_nanos(), 0);
            prop_assert_eq!(calendar.last_before(second), Some(first), "{} {}", first, second);
            let before = calendar.last_before(first).expect("due before");
            prop_assert!(before <= from && calendar.next_after(before) == Some(first), "{} {}", before, first);
        }
    }
}
