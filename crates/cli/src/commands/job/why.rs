//! `gantry job why`.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_api::wire::Why;
use gantry_core::JobId;
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::why::{Ahead, Attempt, Phase, Waiting};

use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, ago, fields, note, plain, print_line, table};
use crate::patience::Patience;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints why a job is where it is; with `watch` again whenever that changes, until the job has ended.
pub(super) async fn print(client: &Client, id: JobId, watch: bool, format: Format) -> Result<()> {
    let mut shown = client.why(id).await?;
    show(&shown, format, watch)?;
    let mut patience = Patience::new();
    while watch && shown.phase != Phase::Ended {
        tokio::time::sleep(PAUSE).await;
        match client.why(id).await {
            Ok(why) if differs(&why, &shown) => {
                patience.renew();
                if format == Format::Table {
                    note("");
                }
                show(&why, format, watch)?;
                shown = why;
            }
            Ok(_) => patience.renew(),
            Err(error) => patience.after(error).await?,
        }
    }
    Ok(())
}

fn show(why: &Why, format: Format, watch: bool) -> Result<()> {
    let now = SystemClock.now();
    match (format, watch) {
        (Format::Json, true) => print_line(why),
        _ => format.print(why, |why| told(why, now)),
    }
}

/// Whether there is more to tell than that time passes.
fn differs(why: &Why, shown: &Why) -> bool {
    let timeless = |why: &Why| {
        let mut why = why.clone();
        if let Some(waiting) = &mut why.waiting {
            (waiting.estimated_start, waiting.until) = (None, None);
            waiting.estimate.clear();
        }
        why
    };
    timeless(why) != timeless(shown)
}

fn told(why: &Why, now: DateTime<Utc>) -> String {
    let time =
        |time: DateTime<Utc>| format!("{} ({})", time.to_rfc3339_opts(SecondsFormat::Secs, true), ago(now, time));
    let waiting = why.waiting.as_ref();
    let hosts = waiting.map(|waiting| {
        let hosts = &waiting.hosts;
        format!(
            "{} of its type, {} active, {} reached by a worker; {} of {} slots free",
            hosts.total, hosts.active, hosts.served, hosts.free, hosts.slots
        )
    });
    let limit = waiting.and_then(|waiting| waiting.limit.as_ref()).map(|limit| match limit.max_running {
        Some(most) => format!("{} of {most} run", limit.running),
        None => "lifted".to_owned(),
    });
    let start = waiting.map(|waiting| match waiting.estimated_start {
        Some(start) => format!("{} ({})", time(start), waiting.estimate),
        None => waiting.estimate.clone(),
    });
    let head = fields(&[
        ("job", Some(why.id.to_string())),
        ("status", Some(state(why))),
        ("since", Some(time(why.since))),
        ("why", Some(why.summary.clone())),
        ("what helps", why.remedy.clone()),
        ("executor", Some(why.executor.to_string())),
        ("was sent on", super::view::sent_on(&why.routing)),
        ("hosts", hosts),
        ("limit", limit),
        ("in line", waiting.and_then(place)),
        ("looked at", waiting.and_then(|waiting| waiting.until).map(time)),
        ("may start", start),
        ("changed by", super::view::told(&why.changes)),
    ]);
    match why.attempts.is_empty() {
        true => head,
        false => format!("{head}\n\n{}", attempts(&why.attempts, now)),
    }
}

fn state(why: &Why) -> String {
    let phase = match (why.phase, &why.waiting) {
        (Phase::Waiting, Some(waiting)) => waiting.reason.to_string(),
        (Phase::Waiting | Phase::Running | Phase::Ended, _) => return why.status.to_string(),
        (Phase::Claimed, _) => "claimed".to_owned(),
        (Phase::Pulling, _) => "pulling".to_owned(),
        (Phase::Starting, _) => "starting".to_owned(),
        (Phase::Stopping, _) => "stopping".to_owned(),
    };
    format!("{} ({phase})", why.status)
}

fn place(waiting: &Waiting) -> Option<String> {
    waiting.ahead.map(|Ahead { jobs, own, more }| match (jobs, more) {
        (0, false) => "nobody before it".to_owned(),
        (1, false) => "1 job before it".to_owned(),
        (_, false) => format!("{jobs} jobs before it, {own} of them its tenant's own"),
        (_, true) => format!("more than {jobs} jobs before it"),
    })
}

fn attempts(attempts: &[Attempt], now: DateTime<Utc>) -> String {
    let rows = attempts.iter().map(|attempt| {
        [attempt.attempt.to_string(), attempt.host.clone(), ago(now, attempt.claimed_at), plain(&attempt.summary)]
    });
    table(["ATTEMPT", "HOST", "CLAIMED", "WHAT BECAME OF IT"], &[0], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn why(more: Value) -> Why {
        let mut why = json!({
            "id": "0192f0c0-0000-7000-8000-000000000001", "status": "pending", "phase": "waiting",
            "since": "2026-01-01T00:00:00Z", "summary": "all slots are taken", "remedy": "a job must end",
            "executor": "cloudrun",
            "routing": [
                { "after_attempt": 0, "executor": "docker", "reason": "the job prefers docker", "candidates": [] },
                { "after_attempt": 1, "executor": "cloudrun", "reason": "docker refused attempt 1", "candidates": [] }
            ],
            "attempts": [{
                "attempt": 1, "host": "rack1", "phase": "ended", "claimed_at": "2026-01-01T00:00:00Z",
                "summary": "it exited\nwith code 3"
            }],
            "waiting": {
                "reason": "host_full", "estimate": "4 jobs before it", "estimated_start": "2026-01-01T00:07:40Z",
                "ahead": { "jobs": 4, "own": 2, "more": false },
                "hosts": {
                    "total": 2, "active": 2, "cordoned": 0, "draining": 0, "lost": 0, "inactive": 0, "served": 1,
                    "slots": 3, "free": 0, "workers": 1
                }
            }
        });
        let (fields, more) = (why.as_object_mut().expect("an object"), more.as_object().cloned().expect("an object"));
        fields.extend(more);
        serde_json::from_value(why).expect("an explanation")
    }

    #[test]
    fn a_person_is_told_all_of_it() {
        let now = DateTime::from_timestamp(1_767_226_000, 0).expect("a time");
        let text = told(&why(json!({})), now);
        for line in [
            "status       pending (host_full)",
            "since        2026-01-01T00:00:00Z (6m ago)",
            "why          all slots are taken",
            "what helps   a job must end",
            "executor     cloudrun",
            "was sent on  docker refused attempt 1",
            "hosts        2 of its type, 2 active, 1 reached by a worker; 0 of 3 slots free",
            "in line      4 jobs before it, 2 of them its tenant's own",
            "may start    2026-01-01T00:07:40Z (in 60s) (4 jobs before it)",
            "      1  rack1  6m ago   it exited with code 3",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        let pulling = why(json!({ "status": "running", "phase": "pulling", "waiting": null, "remedy": null }));
        let text = told(&pulling, now);
        assert!(text.contains("running (pulling)") && !text.contains("what helps"), "{text}");
    }

    #[test]
    fn that_time_passes_is_no_news() {
        let before = why(json!({}));
        let mut later = before.clone();
        later.waiting.as_mut().expect("it waits").estimated_start = None;
        assert!(!differs(&later, &before));
        later.waiting.as_mut().expect("it waits").ahead = None;
        assert!(differs(&later, &before));
    }
}
