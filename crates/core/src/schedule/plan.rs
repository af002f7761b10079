//! What is to be done about the due times of a schedule that have come.

use chrono::{DateTime, Duration, SubsecRound, Utc};

use super::{Calendar, Missed};

/// How late a due time may be seen and still be on time. Longer than a dispatcher takes to be replaced, shorter than
/// what anybody calls an outage.
pub const ON_TIME: Duration = Duration::seconds(60);

/// Due times for which no job is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The first of them.
    pub first: DateTime<Utc>,
    /// All of them are before this.
    pub before: DateTime<Utc>,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Due times that are to make a job, oldest first.
    pub due: Vec<DateTime<Utc>>,
    /// Due times that were missed and make none.
    pub skipped: Option<Skipped>,
    /// The due time to go on with, which may have come already; none if there never is one again.
    pub next: Option<DateTime<Utc>>,
}

/// Decides about the due times from `from`, the oldest that was not decided about, up to `now`: about `limit` of them
/// at most, the rest is for the next time.
pub fn plan(calendar: &Calendar, missed: Missed, from: DateTime<Utc>, now: DateTime<Utc>, limit: usize) -> Plan {
    // In whole seconds, as due times are.
    let on_time = now.trunc_subsecs(0) - ON_TIME;
    let mut due = Vec::new();
    let mut next = Some(from);
    let mut skipped = None;
    if from < on_time && missed != Missed::All {
        let skip = |before| (from < before).then_some(Skipped { first: from, before });
        next = calendar.next_after(on_time - Duration::seconds(1));
        let seen_in_time = next.is_some_and(|next| next <= now);
        if missed == Missed::One && !seen_in_time {
            // Nothing that is on time stands for those that were missed: the last of them does.
            let last = calendar.last_before(on_time).filter(|last| *last > from).unwrap_or(from);
            skipped = skip(last);
            due.push(last);
        } else {
            skipped = skip(on_time);
        }
    }
    while let Some(time) = next.filter(|time| *time <= now && due.len() < limit) {
        due.push(time);
        next = calendar.next_after(time);
    }
    Plan { due, skipped, next }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utc(text: &str) -> DateTime<Utc> {
        format!("2026-{text}Z").parse().expect("a time")
    }

    fn planned(cron: &str, missed: Missed, from: &str, now: &str, limit: usize) -> Plan {
        plan(&Calendar::parse(cron, "UTC").expect("valid"), missed, utc(from), utc(now), limit)
    }

    #[test]
    fn what_is_seen_in_time_runs_whatever_the_policy() {
        for missed in [Missed::Skip, Missed::One, Missed::All] {
            let plan = planned("* * * * *", missed, "06-01T10:00:00", "06-01T10:00:59.9", 100);
            let next = Some(utc("06-01T10:01:00"));
            assert_eq!(plan, Plan { due: vec![utc("06-01T10:00:00")], skipped: None, next });
            // Two at once, because a pass took a second: neither is lost.
            let plan = planned("* * * * * *", missed, "06-01T10:00:00", "06-01T10:00:01.5", 100);
            assert_eq!(plan.due, [utc("06-01T10:00:00"), utc("06-01T10:00:01")]);
            let plan = planned("* * * * *", missed, "06-01T10:00:00", "06-01T09:59:59", 100);
            assert_eq!((plan.due, plan.next), (vec![], Some(utc("06-01T10:00:00"))));
        }
    }

    #[test]
    fn a_month_of_downtime_by_policy() {
        let (from, now) = ("05-01T03:00:00", "06-01T12:30:00");
        let skip = planned("0 3 * * *", Missed::Skip, from, now, 100);
        let next = Some(utc("06-02T03:00:00"));
        let before = utc("06-01T12:29:00");
        assert_eq!(skip, Plan { due: vec![], skipped: Some(Skipped { first: utc(from), before }), next });
        let one = planned("0 3 * * *", Missed::One, from, now, 100);
        let last = utc("06-01T03:00:00");
        assert_eq!(one, Plan { due: vec![last], skipped: Some(Skipped { first: utc(from), before: last }), next });
        let all = planned("0 3 * * *", Missed::All, from, now, 100);
        assert_eq!((all.due.len(), all.due[0], all.due[31], all.next), (32, utc(from), last, next));
    }

    #[test]
    fn one_missed_due_time_is_made_up_for() {
        let one = planned("0 3 * * *", Missed::One, "06-01T03:00:00", "06-01T03:05:00", 100);
        let (due, next) = (vec![utc("06-01T03:00:00")], Some(utc("06-02T03:00:00")));
        assert_eq!(one, Plan { due, skipped: None, next });
    }

    #[test]
    fn a_due_time_that_is_on_time_stands_for_those_before_it() {
        let one = planned("*/5 * * * *", Missed::One, "06-01T03:00:00", "06-01T04:00:10", 100);
        assert_eq!((one.due, one.next), (vec![utc("06-01T04:00:00")], Some(utc("06-01T04:05:00"))));
        assert_eq!(one.skipped.map(|skipped| skipped.first), Some(utc("06-01T03:00:00")));
    }

    #[test]
    fn all_go_on_where_the_limit_cut_them_off() {
        let all = planned("* * * * *", Missed::All, "06-01T03:00:00", "06-01T04:00:00", 10);
        assert_eq!((all.due.len(), all.next), (10, Some(utc("06-01T03:10:00"))));
    }

    proptest! {
        /// However often and however late a schedule is looked at, each due time is decided about once, and with `all` every
        /// one makes a job.
        #[test]
        fn nothing_is_decided_twice_or_left_out(
            missed in prop::sample::select(vec![Missed::Skip, Missed::One, Missed::All]),
            gaps in prop::collection::vec(1_i64..4_000, 1..12),
            limit in 1_usize..20,
        ) {
            let calendar = Calendar::parse("*/4 * * * *", "Europe/Paris").expect("valid");
            // Around the end of summer time.
            let begin = utc("10-25T00:00:00");
            let mut next = calendar.next_after(begin);
            let mut now = begin;
            let mut made: Vec<DateTime<Utc>> = Vec::new();
            for gap in gaps {
                now += Duration::seconds(gap);
                while let Some(from) = next.filter(|next| *next <= now) {
                    let plan = plan(&calendar, missed, from, now, limit);
                    prop_assert!(plan.next > Some(from), "it goes forward");
                    prop_assert!(plan.due.len() <= limit.max(1));
                    prop_assert!(plan.due.iter().all(|due| *due >= from && Some(*due) < plan.next && *due <= now));
                    if let Some(skipped) = plan.skipped {
                        prop_assert!(missed != Missed::All && skipped.first == from);
                        prop_assert!(plan.due.iter().all(|due| *due >= skipped.before));
                    }
                    made.extend(plan.due);
                    next = plan.next;
                }
            }
            prop_assert!(made.is_sorted_by(|a, b| a < b), "{:?}", made);
            if missed == Missed::All {
                let mut expected = Vec::new();
                let mut time = begin;
                while let Some(due) = calendar.next_after(time).filter(|due| *due <= now) {
                    expected.push(due);
                    time = due;
                }
                prop_assert_eq!(made, expected);
            }
        }
    }
}
