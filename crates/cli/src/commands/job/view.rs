//! Jobs for people.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_api::wire::{Attempt, BulkChange, Job, JobDetail, JobList, RoutingDecision};
use gantry_core::lost::Condition;
use rust_decimal::Decimal;

use crate::output::{ago, fields, money, plain, rough, short, table};

const NAME: usize = 32;
const OUTPUT: usize = 2_000;

/// Jobs, one a line.
pub(super) fn list(list: &JobList, now: DateTime<Utc>) -> String {
    let rows = list.jobs.iter().map(|job| {
        [
            job.id.to_string(),
            short(&job.name, NAME),
            state(job),
            job.executor_type.to_string(),
            job.host.clone().unwrap_or_default(),
            job.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            ago(now, job.created_at),
            took(job, now).unwrap_or_default(),
        ]
    });
    table(["ID", "NAME", "STATUS", "EXECUTOR", "HOST", "EXIT", "CREATED", "TOOK"], &[5], rows.collect())
}

/// A job with everything that tells why it is where it is.
pub(super) fn detail(detail: &JobDetail, now: DateTime<Utc>) -> String {
    let JobDetail { job, spec, labels, routing, attempts, changes } = detail;
    let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| words.join(" "));
    let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let time = |time: Option<DateTime<Utc>>| {
        time.map(|time| format!("{} ({})", time.to_rfc3339_opts(SecondsFormat::Millis, true), ago(now, time)))
    };
    let failure = job.failure_class.map(|class| match &job.error_message {
        Some(message) => format!("{class}: {message}"),
        None => class.to_string(),
    });
    let head = fields(&[
        ("id", Some(job.id.to_string())),
        ("name", Some(job.name.clone())),
        ("status", Some(state(job))),
        ("failure", failure),
        ("exit code", job.exit_code.map(|code| code.to_string())),
        ("executor", Some(format!("{} ({})", job.executor_type, job.routing_reason))),
        ("was sent on", sent_on(routing)),
        ("host", job.host.clone()),
        ("image", Some(spec.image.clone())),
        ("entrypoint", words(&spec.entrypoint)),
        ("command", words(&spec.command)),
        ("memory", spec.memory_limit_mb.map(|mb| format!("{mb} MiB"))),
        ("cpus", spec.cpu_limit.map(|cpus| cpus.to_string())),
        ("timeout", spec.timeout_seconds.map(|seconds| rough(Duration::from_secs(seconds.into())))),
        ("labels", Some(labels.join(", ")).filter(|labels| !labels.is_empty())),
        ("priority", Some(job.priority.to_string()).filter(|_| job.priority != 0)),
        ("key", job.idempotency_key.clone()),
        ("created", time(Some(job.created_at))),
        ("cancel asked", time(job.cancel_requested_at)),
        ("started", time(job.started_at)),
        ("ended", time(job.completed_at)),
        ("took", took(job, now)),
        ("cost", cost(job, attempts)),
        ("estimated cost", job.estimated_cost.filter(|cost| !cost.is_zero()).map(money)),
        ("submitted by", Some(job.created_by.clone())),
        ("changed by", told(changes)),
    ]);
    let rest = (!attempts.is_empty()).then(|| format!("\n\n{}{}", attempt_table(attempts, now), remarks(attempts)));
    format!("{head}{}", rest.unwrap_or_default())
}

/// What it cost so far, and how much of it for nothing. Left out where nobody pays.
fn cost(job: &Job, attempts: &[Attempt]) -> Option<String> {
    let over = attempts.iter().filter(|attempt| attempt.ended_at.is_some());
    let (unknown, known): (Vec<_>, Vec<_>) = over.partition(|attempt| attempt.cost.is_none());
    let failed = known.iter().filter(|attempt| attempt.failure_class.is_some());
    let failed: Decimal = failed.filter_map(|attempt| attempt.cost).sum();
    let mut told: Vec<String> = job.actual_cost.filter(|cost| !cost.is_zero()).map(money).into_iter().collect();
    if !failed.is_zero() {
        told.push(format!("{} of it for attempts that did not complete", money(failed)));
    }
    if !unknown.is_empty() {
        told.push(format!("unknown for {}, whose backend told no times", unknown.len()));
    }
    Some(told.join(", ")).filter(|told| !told.is_empty())
}

/// What operations on many jobs did to it.
pub(super) fn told(changes: &[BulkChange]) -> Option<String> {
    let told = changes.iter().map(|change| format!("{} in bulk {} {}", change.action, change.operation, change.detail));
    Some(told.collect::<Vec<_>>().join("; ")).filter(|told| !told.is_empty())
}

/// Each refusal that sent it on.
pub(super) fn sent_on(routing: &[RoutingDecision]) -> Option<String> {
    let told: Vec<&str> =
        routing.iter().filter(|step| step.after_attempt > 0).map(|step| step.reason.as_str()).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

fn attempt_table(attempts: &[Attempt], now: DateTime<Utc>) -> String {
    let rows = attempts.iter().map(|attempt| {
        [
            attempt.attempt.to_string(),
            attempt.host.clone(),
            outcome(attempt),
            attempt.exit_code.map(|code| code.to_string()).unwrap_or_default(),
            ago(now, attempt.claimed_at),
            attempt.run_millis.map(millis).unwrap_or_default(),
            attempt.max_memory_bytes.map(|bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0)).unwrap_or_default(),
            attempt.external_name.clone(),
        ]
    });
    table(["ATTEMPT", "HOST", "OUTCOME", "EXIT", "CLAIMED", "RAN", "MEMORY", "CONTAINER"], &[0, 3, 6], rows.collect())
}

fn outcome(attempt: &Attempt) -> String {
    match (attempt.failure_class, attempt.ended_at, attempt.started_at) {
        (Some(class), _, _) => class.to_string(),
        (None, Some(_), _) => "completed".to_owned(),
        (None, None, _) if let Some(condition) = away(attempt) => condition.to_owned(),
        (None, None, Some(_)) => "running".to_owned(),
        (None, None, None) => "starting".to_owned(),
    }
}

/// Why nobody knows how an open attempt is, in a word.
fn away(attempt: &Attempt) -> Option<&'static str> {
    match attempt.standing.as_ref()?.condition {
        Condition::Owned => None,
        Condition::Unreachable => Some("unreachable"),
        Condition::Unowned => Some("unowned"),
    }
}

/// What the attempts have to say in more than a word.
fn remarks(attempts: &[Attempt]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        let mut remark = |what: &str, said: Option<String>| {
            if let Some(said) = said.filter(|said| !said.trim().is_empty()) {
                text.push_str(&format!("\n\nattempt {}, {what}:", attempt.attempt));
                for line in short(said.trim_end(), OUTPUT).lines() {
                    text.push_str(&format!("\n  {}", plain(line)));
                }
            }
        };
        if let (Some(condition), Some(standing)) = (away(attempt), &attempt.standing) {
            let since =
                standing.since.map(|since| format!(" (since {})", since.to_rfc3339_opts(SecondsFormat::Secs, true)));
            remark(condition, Some(format!("{}{}", standing.cause, since.unwrap_or_default())));
        }
        remark("given up by", attempt.abandoned.as_ref().map(|given_up| given_up.by.clone()));
        remark("failed", attempt.error_message.clone());
        remark("stopped", attempt.stop_reason.map(|reason| reason.to_string()));
        remark("the backend said", attempt.backend_log.clone());
        remark("log", attempt.logs_incomplete.then(|| "part of it could not be stored".to_owned()));
        remark(
            "log",
            attempt
                .logs_expired_at
                .map(|at| format!("not kept any more since {}", at.to_rfc3339_opts(SecondsFormat::Secs, true))),
        );
        match &attempt.parsed_output {
            Some(output) => remark("output", serde_json::to_string_pretty(output).ok()),
            None => remark("output", attempt.clean_output.clone()),
        }
    }
    text
}

/// The status, and what a pending job waits for.
fn state(job: &Job) -> String {
    match (job.waiting_reason, job.cancel_requested_at) {
        (Some(reason), _) => format!("{} ({reason})", job.status),
        (None, Some(_)) if !job.status.is_terminal() => format!("{} (cancelling)", job.status),
        _ => job.status.to_string(),
    }
}

/// From the start to the end, or to now.
fn took(job: &Job, now: DateTime<Utc>) -> Option<String> {
    let started = job.started_at?;
    (job.completed_at.unwrap_or(now) - started).to_std().ok().map(rough)
}

fn millis(millis: i64) -> String {
    rough(Duration::from_millis(u64::try_from(millis).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job() -> JobDetail {
        serde_json::from_value(json!({
            "id": "0192f0c0-0000-7000-8000-000000000001", "name": "count", "status": "failed",
            "project_id": "0192f0c0-0000-7000-8000-000000000002", "executor_type": "docker",
            "routing_reason": "the job asked for it", "host": "local", "priority": 0, "attempt": 1,
            "exit_code": 137, "failure_class": "oom_killed", "error_message": "killed at its memory limit",
            "created_at": "2026-01-01T00:00:00Z", "started_at": "2026-01-01T00:00:01Z",
            "completed_at": "2026-01-01T00:00:03.5Z", "created_by": "key:x",
            "spec": { "image": "busybox", "command": ["sh", "-c", "x"], "memory_limit_mb": 8, "timeout_seconds": 3600 },
            "labels": { "team": "a" },
            "attempts": [{
                "attempt": 1, "host": "local", "external_name": "gantry-1", "claimed_at": "2026-01-01T00:00:00Z",
                "started_at": "2026-01-01T00:00:01Z", "ended_at": "2026-01-01T00:00:03Z", "exit_code": 137,
                "failure_class": "oom_killed", "error_message": "killed at its\nmemory limit", "run_millis": 2500,
                "max_memory_bytes": 8388608, "logs_incomplete": false, "clean_output": "out\u{1b}[0m\n"
            }]
        }))
        .expect("a job")
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_226_000, 0).expect("a time")
    }

    #[test]
    fn a_line_says_where_a_job_stands() {
        let mut job = job().job;
        let line = |job: &Job| list(&JobList { jobs: vec![job.clone()], next: None }, now());
        assert_eq!(
            line(&job),
            "ID                                    NAME   STATUS  EXECUTOR  HOST   EXIT  CREATED  TOOK\n\
             0192f0c0-0000-7000-8000-000000000001  count  failed  docker    local   137  6m ago   2.5s"
        );
        job.status = gantry_core::Status::Pending;
        job.waiting_reason = Some(gantry_core::WaitingReason::HostFull);
        assert!(line(&job).contains("pending (host_full)"));
    }

    #[test]
    fn what_was_paid_for_nothing_and_what_nobody_knows_is_told_apart() {
        let mut detail = job();
        assert_eq!(cost(&detail.job, &detail.attempts).as_deref(), Some("unknown for 1, whose backend told no times"));
        let money = |text: &str| text.parse::<Decimal>().ok();
        (detail.attempts[0].cost, detail.job.actual_cost) = (money("0.25"), money("0.750001"));
        let completed = Attempt { failure_class: None, cost: money("0.500001"), ..detail.attempts[0].clone() };
        detail.attempts.push(completed);
        let told = cost(&detail.job, &detail.attempts);
        assert_eq!(told.as_deref(), Some("0.750001, 0.25 of it for attempts that did not complete"));
        for attempt in &mut detail.attempts {
            attempt.cost = money("0");
        }
        detail.job.actual_cost = money("0");
        assert_eq!(cost(&detail.job, &detail.attempts), None, "nobody pays for it");
    }

    #[test]
    fn the_detail_says_why_and_cannot_steer_the_terminal() {
        let text = detail(&job(), now());
        for part in [
            "failure       oom_killed: killed at its memory limit",
            "executor      docker (the job asked for it)",
            "took          2.5s",
            "      1  local  oom_killed   137  6m ago   2.5s  8.0 MiB  gantry-1",
            "attempt 1, failed:\n  killed at its\n  memory limit",
            "attempt 1, output:\n  out [0m",
        ] {
            assert!(text.contains(part), "{part}\nis not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
