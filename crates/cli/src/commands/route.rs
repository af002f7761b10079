//! `gantry route`: where a job would go.

use std::path::PathBuf;
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use gantry_api::wire::{BacklogCap, Host, Limit, RouteExplanation, RoutingCandidate};
use gantry_core::clock::{Clock, SystemClock};
use gantry_core::why::Ahead;

use super::values::document;
use crate::client::Client;
use crate::error::Result;
use crate::output::{Format, ago, fields, money, table};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Say where a job would go, and what it would meet there, without submitting it
    Explain(Explain),
}

#[derive(Args)]
pub(crate) struct Explain {
    /// The submission: a file with YAML or JSON, or `-` for stdin
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, as `-o json` does
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, client: &Client, format: Format) -> Result<ExitCode> {
        let Self::Explain(Explain { file, json }) = self;
        let explanation = client.explain_route(&document(&file)?).await?;
        let format = if json { Format::Json } else { format };
        format.print(&explanation, |explanation| told(explanation, SystemClock.now()))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn told(explanation: &RouteExplanation, now: DateTime<Utc>) -> String {
    let RouteExplanation { executor_type, reason, candidates, failover, hosts, limits, .. } = explanation;
    let waiting = explanation.waiting.as_ref();
    let onward: Vec<&str> = failover.iter().map(|executor| executor.as_str()).collect();
    let onward = match onward.is_empty() {
        true => "tried again there: nothing else is named".to_owned(),
        false => format!("on to {}", onward.join(", then ")),
    };
    let start = waiting.map(|waiting| match waiting.estimated_start {
        Some(start) => {
            let at = start.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!("{at} ({}) ({})", ago(now, start), waiting.estimate)
        }
        None => waiting.estimate.clone(),
    });
    let line = waiting.and_then(|waiting| waiting.ahead).map(|Ahead { jobs, own, more }| match more {
        true => format!("more than {jobs} jobs before it"),
        false => format!("{jobs} jobs before it, {own} of them its tenant's own"),
    });
    let backlog = explanation.backlog.map(|BacklogCap { max_pending, waiting }| {
        let refused = if waiting >= max_pending.into() { ": it would be refused" } else { "" };
        format!("{waiting} of at most {max_pending} jobs wait{refused}")
    });
    let head = fields(&[
        ("executor", Some(executor_type.to_string())),
        ("because", Some(reason.clone())),
        ("if refused", Some(onward)),
        ("it would wait", Some(explanation.summary.clone())),
        ("what helps", explanation.remedy.clone()),
        ("backlog", backlog),
        ("in line", line),
        ("may start", start),
        ("expected cost", explanation.estimated_cost.map(money)),
    ]);
    let mut parts = vec![head, candidate_table(candidates)];
    parts.extend((!hosts.is_empty()).then(|| host_table(hosts)));
    parts.extend((!limits.is_empty()).then(|| limit_table(limits)));
    parts.join("\n\n")
}

fn candidate_table(candidates: &[RoutingCandidate]) -> String {
    let rows =
        candidates.iter().map(|candidate| [candidate.executor.to_string(), candidate.verdict.words().to_owned()]);
    table(["EXECUTOR", "VERDICT"], &[], rows.collect())
}

fn host_table(hosts: &[Host]) -> String {
    let rows = hosts.iter().map(|host| {
        [
            host.name.clone(),
            host.executor_type.to_string(),
            format!("{} of {}", host.available_slots, host.max_concurrent_jobs),
            host.reason.clone().unwrap_or_else(|| "takes jobs".to_owned()),
        ]
    });
    table(["HOST", "EXECUTOR", "FREE", "CONDITION"], &[], rows.collect())
}

fn limit_table(limits: &[Limit]) -> String {
    let rows = limits.iter().map(|limit| {
        let most = limit.max_running.map_or_else(|| "any number".to_owned(), |most| most.to_string());
        [limit.kind.to_string(), limit.name.clone(), limit.running.to_string(), most, limit.waiting.to_string()]
    });
    table(["LIMIT", "NAME", "RUNNING", "OF", "WAITING"], &[2, 4], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_is_told_all_of_it() {
        let explanation = serde_json::from_value(json!({
            "executor_type": "docker", "reason": "docker is the first of the template's executors with an active host",
            "candidates": [
                { "executor": "docker", "verdict": "chosen" }, { "executor": "cloudrun", "verdict": "no_host" },
                { "executor": "mock", "verdict": "not_named" }
            ],
            "failover": ["cloudrun", "fargate"],
            "hosts": [{
                "id": "0192f0c0-0000-7000-8000-000000000001", "name": "rack1", "executor_type": "docker", "shared": true,
                "is_active": true, "state": "active", "max_concurrent_jobs": 4, "current_job_count": 4,
                "available_slots": 0, "condition": "full", "reason": "all of its slots are held (4 of 4)", "workers": 1,
                "health_check_failures": 0
            }],
            "backlog": { "max_pending": 5, "waiting": 5 },
            "limits": [{ "kind": "key", "name": "nightly", "max_running": 1, "running": 1, "waiting": 2 }],
            "summary": "all 4 slots are taken", "remedy": "a job there must end", "estimated_cost": "0.5",
            "waiting": {
                "reason": "host_full", "estimate": "3 jobs before it", "estimated_start": "2026-01-01T00:07:40Z",
                "ahead": { "jobs": 3, "own": 1, "more": false },
                "hosts": {
                    "total": 1, "active": 1, "cordoned": 0, "draining": 0, "lost": 0, "inactive": 0, "served": 1,
                    "slots": 4, "free": 0, "workers": 1
                }
            }
        }));
        let explanation = explanation.expect("an explanation");
        let text = told(&explanation, DateTime::from_timestamp(1_767_226_000, 0).expect("a time"));
        for line in [
            "executor       docker",
            "if refused     on to cloudrun, then fargate",
            "it would wait  all 4 slots are taken",
            "in line        3 jobs before it, 1 of them its tenant's own",
            "may start      2026-01-01T00:07:40Z (in 60s) (3 jobs before it)",
            "expected cost  0.50",
            "backlog        5 of at most 5 jobs wait: it would be refused",
            "cloudrun  has no active host that takes the tenant's jobs",
            "mock      neither the job nor its template names it",
            "rack1  docker    0 of 4  all of its slots are held (4 of 4)",
            "key    nightly        1  1         2",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
        let alone = RouteExplanation { failover: Vec::new(), waiting: None, ..explanation };
        assert!(told(&alone, DateTime::UNIX_EPOCH).contains("if refused     tried again there"));
    }

    #[test]
    fn yaml_and_json_are_read_alike() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |text: &str| {
            let file = folder.path().join("job.yaml");
            std::fs::write(&file, text).expect("written");
            document(&file)
        };
        let job = json!({ "template": "report", "labels": { "a": "1" }, "priority": 5 });
        assert_eq!(read("template: report\nlabels:\n  a: '1'\npriority: 5\n").expect("YAML"), job);
        assert_eq!(read(&job.to_string()).expect("JSON"), job);
        let refused = read("a: [").expect_err("neither").to_string();
        assert!(refused.contains("job.yaml is neither YAML nor JSON"), "{refused}");
    }
}
