//! Schedules for people.

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_api::wire::{Schedule, ScheduleList, ScheduleRunList};
use gantry_core::schedule::Calendar;

use crate::output::{ago, fields, short, table};

/// Characters of a name.
const NAME: usize = 32;
/// Characters of a detail.
const DETAIL: usize = 80;

pub(super) fn stored(schedule: &Schedule, now: DateTime<Utc>) -> String {
    format!("schedule {} is {}", schedule.name, next(schedule, now))
}

/// When it is due next, in its own zone, or why it is not.
fn next(schedule: &Schedule, now: DateTime<Utc>) -> String {
    match (schedule.next_due_at, schedule.paused_at) {
        (_, Some(since)) => format!("paused since {}", ago(now, since)),
        (Some(due), None) => format!("due {} ({})", local(schedule, due), ago(now, due)),
        (None, None) => "never due again".to_owned(),
    }
}

fn local(schedule: &Schedule, time: DateTime<Utc>) -> String {
    match Calendar::parse(&schedule.cron, &schedule.time_zone) {
        Ok(calendar) => calendar.local(time),
        // This program knows fewer zones than the one that took it.
        Err(_) => time.to_rfc3339_opts(SecondsFormat::Secs, true),
    }
}

pub(super) fn listing(list: &ScheduleList, now: DateTime<Utc>) -> String {
    let rows = list.schedules.iter().map(|schedule| {
        [
            short(&schedule.name, NAME),
            schedule.cron.clone(),
            schedule.time_zone.clone(),
            match (schedule.paused_at, schedule.next_due_at) {
                (Some(_), _) => "paused".to_owned(),
                (None, Some(due)) => ago(now, due),
                (None, None) => "never".to_owned(),
            },
            schedule.last_due_at.map_or_else(|| "never".to_owned(), |due| ago(now, due)),
            last_job(schedule),
        ]
    });
    table(["NAME", "CRON", "TIME ZONE", "NEXT", "LAST", "LAST JOB"], &[], rows.collect())
}

fn last_job(schedule: &Schedule) -> String {
    match (&schedule.last_error, schedule.last_job_status) {
        (Some(_), _) => "refused".to_owned(),
        (None, Some(status)) => status.to_string(),
        (None, None) => "-".to_owned(),
    }
}

pub(super) fn detail(schedule: &Schedule, now: DateTime<Utc>) -> String {
    let at = |time: DateTime<Utc>| format!("{} ({})", local(schedule, time), ago(now, time));
    let error = schedule.last_error.as_ref().zip(schedule.last_error_at);
    fields(&[
        ("name", Some(schedule.name.clone())),
        ("id", Some(schedule.id.to_string())),
        ("cron", Some(schedule.cron.clone())),
        ("time zone", Some(schedule.time_zone.clone())),
        ("missed", Some(schedule.missed.to_string())),
        ("overlap", Some(schedule.overlap.to_string())),
        ("next", Some(next(schedule, now))),
        ("last due", schedule.last_due_at.map(at)),
        ("last job", schedule.last_job_id.map(|job| format!("{job} ({})", last_status(schedule)))),
        ("last error", error.map(|(error, time)| format!("{error} ({})", ago(now, time)))),
        ("waiting", (schedule.waiting > 0).then(|| schedule.waiting.to_string())),
        ("submission", Some(schedule.submission.to_string())),
        ("put by", Some(schedule.created_by.clone())),
        ("created", Some(at(schedule.created_at))),
        ("changed", Some(at(schedule.updated_at))),
    ])
}

fn last_status(schedule: &Schedule) -> String {
    schedule.last_job_status.map_or_else(|| "gone".to_owned(), |status| status.to_string())
}

pub(super) fn runs(list: &ScheduleRunList, now: DateTime<Utc>) -> String {
    let rows = list.runs.iter().map(|run| {
        [
            run.due_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            ago(now, run.due_at),
            run.outcome.to_string(),
            run.job_id.map_or_else(|| "-".to_owned(), |job| job.to_string()),
            run.job_status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            match (&run.detail, &run.triggered_by) {
                (Some(detail), _) => short(detail, DETAIL),
                (None, Some(by)) => format!("triggered by {by}"),
                (None, None) => String::new(),
            },
        ]
    });
    table(["DUE", "WHEN", "OUTCOME", "JOB", "STATUS", "DETAIL"], &[], rows.collect())
}
