//! What must hold when all is over. What ran is read from what the containers wrote down, what was accepted from what
//! the producer was told, and only the results from Gantry's rows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use gantry_core::JobId;
use serde_json::{Value, json};

use crate::fleet::{Fleet, SLOTS};
use crate::load::Load;
use crate::workload::{End, Submitted};

/// What was counted; all must be 0.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    /// Submissions without an answer; accepted jobs without an end; ends that nobody was told of.
    pub(crate) lost: usize,
    /// Attempts that started twice; jobs with two containers alive at once; jobs nobody was told of; second terminal
    /// events; two jobs for one key.
    pub(crate) duplicated: usize,
    /// Containers above the limit, at the worst moment.
    pub(crate) over_limit: usize,
    /// Slots that the host counts or an attempt holds while nothing runs.
    pub(crate) leaked_slots: usize,
    /// Containers that are still there when even the orphan reaper has had its time.
    pub(crate) orphans: usize,
    /// Jobs that did not end as they must; submissions refused or accepted that should not have been.
    pub(crate) wrong_result: usize,
    /// Each fault in words.
    pub(crate) notes: Vec<String>,
}

impl Verdict {
    pub(crate) fn counts(&self) -> [(&'static str, usize); 6] {
        [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("over_limit", self.over_limit),
            ("leaked_slots", self.leaked_slots),
            ("orphans", self.orphans),
            ("wrong_result", self.wrong_result),
        ]
    }

    pub(crate) fn total(&self) -> usize {
        self.counts().iter().map(|(_, count)| count).sum()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.over_limit += other.over_limit;
        self.leaked_slots += other.leaked_slots;
        self.orphans += other.orphans;
        self.wrong_result += other.wrong_result;
    }

    fn lose(&mut self, note: String) {
        self.lost += 1;
        self.notes.push(format!("lost: {note}"));
    }

    fn duplicate(&mut self, note: String) {
        self.duplicated += 1;
        self.notes.push(format!("duplicated: {note}"));
    }

    fn wrong(&mut self, note: String) {
        self.wrong_result += 1;
        self.notes.push(format!("wrong result: {note}"));
    }
}

/// Counts.
pub(crate) async fn judge(fleet: &Fleet, load: &Load) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    let rows = rows(fleet).await?;
    answers(&mut verdict, load, &rows);
    let ran = containers(&mut verdict, fleet)?;
    for (job, end, id) in load.accepted() {
        match rows.get(&id) {
            Some(row) if row["over"] == true => ended(&mut verdict, job, end, row, ran.contains(&id)),
            row => verdict.lose(format!("{} ({id}) is not over: {row:?}", job.name)),
        }
        let told = load.producer.ends(id);
        let written = rows.get(&id).and_then(|row| row["ends"].as_u64()).unwrap_or(0);
        if told == 0 {
            verdict.lose(format!("nobody was told of the end of {} ({id})", job.name));
        } else if told > 1 || written > 1 {
            verdict.duplicate(format!("{} ({id}) has {told} ends told, {written} written", job.name));
        }
    }
    let slots: i64 = sqlx::query_scalar(
        "select (select coalesce(sum(current_job_count), 0) from executor_hosts)
             + (select count(*) from container_executions where slot_held)",
    )
    .fetch_one(&fleet.sql)
    .await?;
    verdict.leaked_slots = usize::try_from(slots).context("a negative number of slots")?;
    Ok(verdict)
}

/// Every job of the fleet.
async fn rows(fleet: &Fleet) -> anyhow::Result<BTreeMap<JobId, Value>> {
    let rows: Vec<Value> = sqlx::query_scalar(
        "select jsonb_build_object('id', j.id, 'status', j.status, 'exit_code', j.exit_code, 'failure', j.failure_class,
             'retries', j.user_retries, 'attempt', j.attempt, 'error', j.error_message,
             'over', j.completed_at is not null,
             'ends', (select count(*) from job_events e
                      where e.job_id = j.id and e.kind in ('completed', 'failed', 'timeout', 'cancelled')),
             'stdout', (select coalesce(convert_from(string_agg(c.data, ''::bytea order by c.byte_offset), 'UTF8'), '')
                        from container_log_chunks c
                        where c.job_id = j.id and c.attempt = j.attempt and c.stream = 'stdout'))
         from container_jobs j",
    )
    .fetch_all(&fleet.sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            let id = row["id"].as_str().and_then(|id| id.parse().ok()).context("a job without an id")?;
            Ok((id, row))
        })
        .collect()
}

/// What the producer was told of its submissions.
fn answers(verdict: &mut Verdict, load: &Load, rows: &BTreeMap<JobId, Value>) {
    let mut known = BTreeSet::new();
    for job in &load.jobs {
        let answers = load.producer.answers(&job.key);
        if answers.is_empty() {
            verdict.lose(format!("{} was not answered", job.name));
        }
        let ids: BTreeSet<&str> = answers.iter().filter_map(|answer| answer["job_id"].as_str()).collect();
        known.extend(ids.iter().filter_map(|id| id.parse::<JobId>().ok()));
        if ids.len() > 1 {
            verdict.duplicate(format!("{} is {} jobs", job.name, ids.len()));
        }
        let expected = if job.end.is_some() { "accepted" } else { "rejected" };
        if let Some(other) = answers.iter().find(|answer| answer["result"] != expected) {
            verdict.wrong(format!("{} should be {expected}: {other}", job.name));
        }
    }
    for id in rows.keys().filter(|id| !known.contains(id)) {
        verdict.duplicate(format!("nobody was told of job {id}"));
    }
}

/// What really ran; returns the jobs that did.
fn containers(verdict: &mut Verdict, fleet: &Fleet) -> anyhow::Result<BTreeSet<JobId>> {
    let ledger = fleet.ledger()?;
    let starts = ledger.starts();
    for ((job, attempt), count) in starts.iter().filter(|(_, count)| **count > 1) {
        verdict.duplicate(format!("attempt {attempt} of {job} had {count} containers"));
    }
    for job in ledger.alive_twice() {
        verdict.duplicate(format!("{job} had two containers alive at once"));
    }
    verdict.over_limit = ledger.max_concurrency().saturating_sub(SLOTS.into());
    verdict.orphans = fleet.containers()?;
    Ok(starts.into_keys().map(|(job, _)| job).collect())
}

fn ended(verdict: &mut Verdict, job: &Submitted, end: &End, row: &Value, ran: bool) {
    let mut expected = json!({
        "status": end.status, "failure": end.failure, "retries": end.retries, "stdout": end.stdout, "ran": end.ran,
    });
    let mut found = json!({
        "status": row["status"], "failure": row["failure"], "retries": row["retries"], "stdout": row["stdout"],
        "ran": ran,
    });
    // A container that is stopped exits with whatever the stop made of it.
    if let Some(code) = end.exit_code {
        expected["exit_code"] = json!(code);
        found["exit_code"] = row["exit_code"].clone();
    }
    if expected != found {
        let id = &row["id"];
        verdict.wrong(format!("{} ({id}): expected {expected}, found {found}; {}", job.name, row["error"]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Cancel;

    #[test]
    fn a_result_must_be_the_jobs_own() {
        let end = End {
            status: "completed",
            exit_code: Some(0),
            failure: None,
            stdout: "one\n".to_owned(),
            retries: 0,
            ran: true,
        };
        let job = Submitted { name: "job", key: "key".to_owned(), cancel: Cancel::Never, end: None };
        let right = json!({ "status": "completed", "exit_code": 0, "failure": null, "retries": 0, "stdout": "one\n" });
        let wrong = |row: &Value, ran: bool| {
            let mut verdict = Verdict::default();
            ended(&mut verdict, &job, &end, row, ran);
            verdict.wrong_result
        };
        assert_eq!(wrong(&right, true), 0);
        assert_eq!(wrong(&right, false), 1, "without a container");
        for (name, value) in [("stdout", json!("one\none\n")), ("exit_code", json!(1)), ("status", json!("failed"))] {
            let mut row = right.clone();
            row[name] = value;
            assert_eq!(wrong(&row, true), 1, "{name}");
        }
    }
}
