//! The engine's two ways of writing a time.

use chrono::{DateTime, Datelike, Utc};

/// A time as the engine reports it (RFC 3339); `None` for its "never", which is in the year 1.
pub(crate) fn parse(text: &str) -> Option<DateTime<Utc>> {
    let time: DateTime<Utc> = text.parse().ok()?;
    (time.year() > 1).then_some(time)
}

/// A time as the engine's event filters take it: seconds of the Unix epoch and nanoseconds.
pub(crate) fn unix(time: DateTime<Utc>) -> String {
    format!("{}.{:09}", time.timestamp(), time.timestamp_subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        let time = parse("2026-11-20T14:14:04.057617691Z").expect("a time");
        assert_eq!(unix(time), "1795184044.057617691");
        assert_eq!(parse("2026-11-20T15:14:04.057617691+01:00"), Some(time));
        assert_eq!(parse("0001-01-01T00:00:00Z"), None);
        assert_eq!(parse(""), None);
    }
}
