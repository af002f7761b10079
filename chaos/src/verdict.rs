//! What must hold when all is over. What ran is read from what the containers wrote down, what was accepted from what
//! the producer was told, and only the results from Gantry's rows.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use gantry_core::{FailureClass, JobId, retry};
use gantry_executor_mock::ledger::Ledger;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::fleet::Fleet;
use crate::load::Load;
use crate::producer::Received;
use crate::workload::{self, End, Stdout, Submitted};
use crate::{crowd, past, schedules};

/// Faults of a row that are told in words at most.
const NOTES: usize = 20;

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
    /// What is not as it would be on a quiet day, and by the rules: no fault.
    pub(crate) excused: Vec<String>,
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

    /// The first faults in words, and how many there are beside them: one in the code may be hundreds in a crowd.
    pub(crate) fn first_notes(&self) -> Vec<String> {
        let more = self.notes.len().saturating_sub(NOTES);
        let rest = (more > 0).then(|| format!("and {more} more"));
        self.notes.iter().take(NOTES).cloned().chain(rest).collect()
    }

    /// Adds the counts of another, and what it excuses; not its notes, which are told where they belong.
    pub(crate) fn add(&mut self, other: &Self) {
        self.excused.extend(other.excused.iter().cloned());
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.over_limit += other.over_limit;
        self.leaked_slots += other.leaked_slots;
        self.orphans += other.orphans;
        self.wrong_result += other.wrong_result;
    }

    pub(crate) fn excuse(&mut self, note: String) {
        self.excused.push(note);
    }

    pub(crate) fn lose(&mut self, note: String) {
        self.lost += 1;
        self.notes.push(format!("lost: {note}"));
    }

    pub(crate) fn duplicate(&mut self, note: String) {
        self.duplicated += 1;
        self.notes.push(format!("duplicated: {note}"));
    }

    pub(crate) fn wrong(&mut self, note: String) {
        self.wrong_result += 1;
        self.notes.push(format!("wrong result: {note}"));
    }
}

/// What is known when all is over.
pub(crate) struct Evidence {
    pub(crate) jobs: Vec<Submitted>,
    /// What the producer was told.
    pub(crate) received: Received,
    pub(crate) rows: Rows,
    /// What the containers of each engine wrote down themselves.
    pub(crate) engines: Vec<Engine>,
    /// Slots that hosts count, and those that attempts hold.
    pub(crate) slots: i64,
}

/// Gantry's own rows, by job.
pub(crate) type Rows = BTreeMap<JobId, Value>;

/// Of one engine.
pub(crate) struct Engine {
    pub(crate) ledger: Ledger,
    /// Containers that the engine has forgotten, because it was killed while it started them: it calls them created, though
    /// they run on. Nobody can tell them from those that never ran, nor stop them: they do not count as running.
    pub(crate) forgotten: Ledger,
    /// Containers that may run at once.
    pub(crate) limit: usize,
    /// What each attempt has printed, where its container told.
    pub(crate) printed: BTreeMap<(JobId, i32), Printed>,
    /// Names of the containers that are still there.
    pub(crate) left: Vec<String>,
}

/// What a container printed, in lines, as far as it came to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Printed {
    /// While its engine was there to put it into the log.
    pub(crate) heard: u32,
    /// Also when it outlived its engine: what it prints then is lost with the engine, whoever reads the log later.
    pub(crate) in_all: u32,
}

/// Judges a fleet of simulated containers.
pub(crate) async fn judge(fleet: &Fleet, load: &Load) -> anyhow::Result<Verdict> {
    let engines = fleet.engines()?;
    let ran: BTreeSet<JobId> = whole(&engines).starts().into_keys().map(|(job, _)| job).collect();
    let evidence = Evidence {
        jobs: load.jobs.clone(),
        received: load.producer.received(),
        rows: rows(&fleet.sql).await?,
        engines,
        slots: slots(&fleet.sql).await?,
    };
    let mut verdict = evidence.judge()?;
    tried_again(&fleet.sql, &mut verdict).await?;
    load.letters.judge(&fleet.sql, &mut verdict).await?;
    schedules::judge(&fleet.sql, &evidence.received, &mut verdict).await?;
    load.crowd.judge(&fleet.sql, &evidence.received, &mut verdict).await?;
    load.past.judge(&fleet.sql, &evidence.received, &mut verdict).await?;
    for job in load.crowd.failed().chain(load.past.jobs()).filter(|job| ran.contains(job)) {
        verdict.duplicate(format!("{job} ran, which had no container to run any more"));
    }
    Ok(verdict)
}

/// What ran on all of them.
fn whole(engines: &[Engine]) -> Ledger {
    let mut whole = Ledger::default();
    for engine in engines {
        whole.add_all(&engine.ledger);
    }
    whole
}

/// Attempts that failed for their place's reasons: there should be none but those that were given up on purpose, because
/// whoever adopts one finds its container, or may launch it under its name.
async fn tried_again(sql: &PgPool, verdict: &mut Verdict) -> anyhow::Result<()> {
    let again: Vec<(Uuid, i32, String)> = sqlx::query_as(
        "select job_id, attempt, coalesce(failure_class::text, 'none') from container_executions
         where retried_by = 'infrastructure' and abandoned_at is null order by job_id, attempt",
    )
    .fetch_all(sql)
    .await?;
    for (job, attempt, class) in again {
        verdict.wrong(format!("attempt {attempt} of {job} ended as {class}"));
    }
    Ok(())
}

impl Evidence {
    /// Counts.
    pub(crate) fn judge(&self) -> anyhow::Result<Verdict> {
        let mut verdict = Verdict::default();
        self.answers(&mut verdict);
        for engine in &self.engines {
            engine.judge(&mut verdict);
        }
        let mut forgotten = Ledger::default();
        self.engines.iter().for_each(|engine| forgotten.add_all(&engine.forgotten));
        let ran = ran(&whole(&self.engines), &forgotten, &mut verdict);
        for (job, end, id) in workload::accepted(&self.received, &self.jobs) {
            match self.rows.get(&id) {
                Some(row) if row["over"] == true => self.ended(&mut verdict, job, end, row, ran.contains(&id)),
                row => verdict.lose(format!("{} ({id}) is not over: {row:?}", job.name)),
            }
            let told = self.received.ends(id);
            let written = self.rows.get(&id).and_then(|row| row["ends"].as_u64()).unwrap_or(0);
            if told == 0 {
                verdict.lose(format!("nobody was told of the end of {} ({id})", job.name));
            } else if told > 1 || written > 1 {
                verdict.duplicate(format!("{} ({id}) has {told} ends told, {written} written", job.name));
            }
        }
        verdict.leaked_slots = usize::try_from(self.slots).context("a negative number of slots")?;
        if verdict.leaked_slots > 0 {
            verdict.notes.push(format!("leaked slots: hosts count and attempts hold {} in all", self.slots));
        }
        Ok(verdict)
    }

    /// What the producer was told of its submissions.
    fn answers(&self, verdict: &mut Verdict) {
        let mut known = BTreeSet::new();
        for job in &self.jobs {
            let answers = self.received.answers(&job.key);
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
        for id in self.rows.keys().filter(|id| !known.contains(id)) {
            verdict.duplicate(format!("nobody was told of job {id}"));
        }
    }

    fn ended(&self, verdict: &mut Verdict, job: &Submitted, end: &End, row: &Value, ran: bool) {
        let cancelled = end.or_cancelled && row["status"] == "cancelled";
        let end = if cancelled { &End { stdout: Stdout::Lines, ran, ..End::cancelled() } } else { end };
        let mut expected = json!({
            "status": end.status, "failure": end.failure, "retries": end.retries, "ran": end.ran,
        });
        let mut found = json!({
            "status": row["status"], "failure": row["failure"], "retries": row["retries"], "ran": ran,
        });
        // A container that is stopped exits with whatever the stop made of it.
        if let Some(code) = end.exit_code {
            expected["exit_code"] = json!(code);
            found["exit_code"] = row["exit_code"].clone();
        }
        if let Some(attempts) = end.attempts {
            expected["attempts"] = json!(attempts);
            found["attempts"] = row["attempt"].clone();
        }
        let (id, error) = (&row["id"], &row["error"]);
        if expected != found {
            if gave_up(row) {
                return verdict.excuse(format!(
                    "{} ({id}) used up its budget for the infrastructure's faults: {error}",
                    job.name
                ));
            }
            return verdict.wrong(format!("{} ({id}): expected {expected}, found {found}; {error}", job.name));
        }
        let stdout = row["stdout"].as_str().unwrap_or_default();
        let stored = u32::try_from(stdout.lines().count()).unwrap_or(u32::MAX);
        let Printed { heard, in_all } = self.printed(id, row);
        // What it printed while its engine was away may be missing, and nothing else, only at the end, and told.
        let cut_by_the_engine = (heard..in_all).contains(&stored) && stdout == workload::lines(stored);
        let whole = match &end.stdout {
            Stdout::Exactly(expected) => stdout == expected,
            Stdout::Lines => stored >= in_all && stdout == workload::lines(stored),
        };
        if !whole {
            let expected = match &end.stdout {
                Stdout::Exactly(expected) => in_short(expected),
                Stdout::Lines => format!("the {in_all} lines that its container tells of"),
            };
            let what = format!("{} ({id}): {} stored, expected {expected}", job.name, in_short(stdout));
            let excused = cut_by_the_engine && row["logs_incomplete"] == true;
            if excused { verdict.excuse(what) } else { verdict.wrong(what) }
        }
    }

    /// What the last attempt of a job has printed, as far as it is known.
    fn printed(&self, id: &Value, row: &Value) -> Printed {
        let id = id.as_str().and_then(|id| id.parse().ok());
        let attempt = row["attempt"].as_i64().and_then(|attempt| i32::try_from(attempt).ok());
        let Some(key) = id.zip(attempt) else { return Printed::default() };
        self.engines.iter().find_map(|engine| engine.printed.get(&key)).copied().unwrap_or_default()
    }
}

/// An output in words.
fn in_short(stdout: &str) -> String {
    let count = stdout.lines().count();
    if u32::try_from(count).is_ok_and(|count| stdout == workload::lines(count)) {
        format!("{count} lines without a gap")
    } else {
        format!("{stdout:?}")
    }
}

/// Whether a job failed because the infrastructure failed it more often than it is forgiven: an end by the rules.
fn gave_up(row: &Value) -> bool {
    let class = serde_json::from_value::<FailureClass>(row["failure"].clone());
    let retries = row["infrastructure_retries"].as_u64().unwrap_or(0);
    row["status"] == "failed"
        && class.is_ok_and(|class| class.is_infrastructure())
        && retries >= u64::from(retry::INFRASTRUCTURE_RETRIES)
}

impl Engine {
    /// How much of it ran at once, and what is left.
    fn judge(&self, verdict: &mut Verdict) {
        let most = self.ledger.max_concurrency();
        if most > self.limit {
            verdict.over_limit += most - self.limit;
            verdict.notes.push(format!("over limit: {most} containers ran at once where {} may", self.limit));
        }
        for run in self.forgotten.runs() {
            let (job, attempt) = (run.job, run.attempt);
            verdict.excuse(format!(
                "attempt {attempt} of {job}: the engine was killed while it started it, and forgot it"
            ));
        }
        verdict.orphans += self.left.len();
        verdict.notes.extend(self.left.iter().map(|name| format!("orphan: {name}")));
    }
}

/// What ran twice, on whichever hosts; returns the jobs that ran.
fn ran(ledger: &Ledger, forgotten: &Ledger, verdict: &mut Verdict) -> BTreeSet<JobId> {
    let mut starts = ledger.starts();
    for (attempt, count) in forgotten.starts() {
        *starts.entry(attempt).or_default() += count;
    }
    for ((job, attempt), count) in starts.iter().filter(|(_, count)| **count > 1) {
        verdict.duplicate(format!("attempt {attempt} of {job} had {count} containers"));
    }
    for job in ledger.alive_twice() {
        verdict.duplicate(format!("{job} had two containers alive at once"));
    }
    starts.into_keys().map(|(job, _)| job).collect()
}

/// Every job of the fleet that somebody handed in; `sql` as the database's owner.
pub(crate) async fn rows(sql: &PgPool) -> anyhow::Result<Rows> {
    let rows: Vec<Value> = sqlx::query_scalar(
        "select jsonb_build_object('id', j.id, 'status', j.status, 'exit_code', j.exit_code, 'failure', j.failure_class,
             'retries', j.user_retries, 'infrastructure_retries', j.infrastructure_retries, 'attempt', j.attempt,
             'error', j.error_message, 'over', j.completed_at is not null,
             'logs_incomplete', coalesce((select e.logs_incomplete from container_executions e
                                          where e.job_id = j.id and e.attempt = j.attempt), false),
             'ends', (select count(*) from job_events e
                      where e.job_id = j.id and e.kind in ('completed', 'failed', 'timeout', 'cancelled')),
             'stdout', (select coalesce(convert_from(string_agg(c.data, ''::bytea order by c.byte_offset), 'UTF8'), '')
                        from container_log_chunks c
                        where c.job_id = j.id and c.attempt = j.attempt and c.stream = 'stdout'))
         from container_jobs j where j.schedule_id is null and j.created_by <> all($1)",
    )
    .bind([crowd::MAKER, past::MAKER].as_slice())
    .fetch_all(sql)
    .await?;
    rows.into_iter()
        .map(|row| {
            let id = row["id"].as_str().and_then(|id| id.parse().ok()).context("a job without an id")?;
            Ok((id, row))
        })
        .collect()
}

/// Attempts that ended as lost because their engine was restarted since it created their container and cannot know whether it
/// ran.
pub(crate) async fn doubted(sql: &PgPool) -> anyhow::Result<BTreeSet<(JobId, i32)>> {
    let doubted: Vec<(Uuid, i32)> = sqlx::query_as(
        "select job_id, attempt from container_executions
         where failure_class = 'lost' and started_at is null
           and error_message like 'the engine was restarted since it created the container%'",
    )
    .fetch_all(sql)
    .await?;
    Ok(doubted.into_iter().map(|(job, attempt)| (job.into(), attempt)).collect())
}

/// The slots that hosts count, and those that attempts hold.
pub(crate) async fn slots(sql: &PgPool) -> anyhow::Result<i64> {
    let sum = "select (select coalesce(sum(current_job_count), 0) from executor_hosts)
                   + (select count(*) from container_executions where slot_held)";
    Ok(sqlx::query_scalar(sum).fetch_one(sql).await?)
}

#[cfg(test)]
mod tests {
    use gantry_executor_mock::ledger::Run;

    use super::*;
    use crate::workload::Cancel;

    fn wrong(end: &End, heard: u32, row: &Value, ran: bool) -> (usize, usize) {
        let job = Submitted { name: "job", key: "key".to_owned(), cancel: Cancel::Never, end: None };
        let id: JobId = row["id"].as_str().expect("an id").parse().expect("an id");
        let engine = Engine {
            ledger: Ledger::default(),
            forgotten: Ledger::default(),
            limit: 1,
            printed: BTreeMap::from([((id, 1), Printed { heard, in_all: 9 })]),
            left: Vec::new(),
        };
        let evidence = Evidence {
            jobs: Vec::new(),
            received: Received::default(),
            rows: Rows::new(),
            engines: vec![engine],
            slots: 0,
        };
        let mut verdict = Verdict::default();
        evidence.ended(&mut verdict, &job, end, row, ran);
        (verdict.wrong_result, verdict.excused.len())
    }

    fn with(row: &Value, fields: &[(&str, Value)]) -> Value {
        let mut row = row.clone();
        for (name, value) in fields {
            row[*name] = value.clone();
        }
        row
    }

    fn row(status: &str, stdout: &str) -> Value {
        json!({ "id": JobId::new(), "status": status, "exit_code": 0, "failure": null, "retries": 0, "stdout": stdout,
                "attempt": 1, "logs_incomplete": false, "infrastructure_retries": 0 })
    }

    #[test]
    fn a_result_must_be_the_jobs_own() {
        let end = End::exits(0).prints("one\n".to_owned());
        let right = row("completed", "one\n");
        assert_eq!(wrong(&end, 0, &right, true), (0, 0));
        assert_eq!(wrong(&end, 0, &right, false), (1, 0), "without a container");
        for (name, value) in [("stdout", json!("one\none\n")), ("exit_code", json!(1)), ("status", json!("failed"))] {
            assert_eq!(wrong(&end, 0, &with(&right, &[(name, value)]), true), (1, 0), "{name}");
        }
    }

    #[test]
    fn a_cancel_may_come_too_late_or_not_but_loses_no_line() {
        let end = End { or_cancelled: true, ..End::exits(0).prints(workload::lines(9)) };
        let cancelled = with(&row("cancelled", &workload::lines(5)), &[("failure", json!("cancelled"))]);
        let all = with(&cancelled, &[("stdout", json!(workload::lines(9)))]);
        assert_eq!(wrong(&end, 9, &all, true), (0, 0));
        assert_eq!(wrong(&end, 8, &all, true), (0, 0), "a line more than the container had time to tell of");
        let told = |row: &Value| with(row, &[("logs_incomplete", json!(true))]);
        assert_eq!(wrong(&end, 5, &told(&cancelled), true), (0, 1), "the engine was away for the rest");
        assert_eq!(wrong(&end, 5, &cancelled, true), (1, 0), "and nobody was told");
        assert_eq!(wrong(&end, 6, &told(&cancelled), true), (1, 0), "a line is missing");
        let completed = with(&row("completed", &workload::lines(5)), &[]);
        assert_eq!(wrong(&end, 5, &told(&completed), true), (0, 1), "it ended while the engine was away");
        assert_eq!(wrong(&end, 9, &told(&completed), true), (1, 0), "the engine was there all the time");
        assert_eq!(wrong(&end, 0, &with(&cancelled, &[("stdout", json!("line 2\n"))]), true), (1, 0), "a gap");
        assert_eq!(wrong(&End::exits(0), 0, &cancelled, true), (1, 0), "nobody asked");
    }

    #[test]
    fn an_end_by_the_rules_of_the_infrastructure_is_told_apart() {
        let end = End::exits(0);
        let failed = with(
            &row("failed", ""),
            &[("failure", json!("backend_error")), ("exit_code", json!(null)), ("infrastructure_retries", json!(5))],
        );
        assert_eq!(wrong(&end, 0, &failed, true), (0, 1));
        assert_eq!(wrong(&end, 0, &with(&failed, &[("infrastructure_retries", json!(4))]), true), (1, 0));
        assert_eq!(wrong(&end, 0, &with(&failed, &[("failure", json!("exit_nonzero"))]), true), (1, 0));
    }

    /// One job that went as it must, and what is known of it.
    fn good() -> (Evidence, JobId) {
        let row = row("completed", "one\n");
        let id: JobId = row["id"].as_str().expect("an id").parse().expect("an id");
        let row = with(&row, &[("over", json!(true)), ("ends", json!(1))]);
        let end = Some(End::exits(0).prints("one\n".to_owned()));
        let mut received = Received::default();
        received.answer("key", json!({ "result": "accepted", "job_id": id }));
        received.take(None, event(id, "1").as_bytes());
        let mut ledger = Ledger::default();
        ledger.add(run("a", id, 1, 0..100));
        let engine =
            Engine { ledger, forgotten: Ledger::default(), limit: 1, printed: BTreeMap::new(), left: Vec::new() };
        let evidence = Evidence {
            jobs: vec![Submitted { name: "job", key: "key".to_owned(), cancel: Cancel::Never, end }],
            received,
            rows: Rows::from([(id, row)]),
            engines: vec![engine],
            slots: 0,
        };
        (evidence, id)
    }

    fn event(job: JobId, id: &str) -> String {
        json!({ "id": id, "type": "gantry.job.completed", "subject": job }).to_string()
    }

    fn run(id: &str, job: JobId, attempt: i32, time: std::ops::Range<u64>) -> Run {
        Run { id: id.into(), name: id.into(), job, attempt, started_ns: time.start, planned_end_ns: time.end }
    }

    #[test]
    fn every_counter_rises() {
        let counted = |tamper: &dyn Fn(&mut Evidence, JobId)| {
            let (mut evidence, id) = good();
            tamper(&mut evidence, id);
            evidence.judge().expect("it can be judged").counts().map(|(_, count)| count)
        };
        assert_eq!(counted(&|_, _| {}), [0; 6]);
        assert_eq!(counted(&|all, id| drop(all.rows.remove(&id))), [1, 0, 0, 0, 0, 0]);
        assert_eq!(
            counted(&|all, id| all.rows.get_mut(&id).expect("there")["over"] = json!(false)),
            [1, 0, 0, 0, 0, 0]
        );
        let untold = |all: &mut Evidence, id| {
            all.received = Received::default();
            all.received.answer("key", json!({ "result": "accepted", "job_id": id }));
        };
        assert_eq!(counted(&untold), [1, 0, 0, 0, 0, 0], "nobody was told of the end");
        let second_end = |all: &mut Evidence, id| all.received.take(None, event(id, "2").as_bytes());
        assert_eq!(counted(&second_end), [0, 1, 0, 0, 0, 0]);
        let started_twice = |all: &mut Evidence, id| all.engines[0].ledger.add(run("b", id, 1, 200..300));
        assert_eq!(counted(&started_twice), [0, 1, 0, 0, 0, 0]);
        let alive_twice = |all: &mut Evidence, id| {
            all.engines[0].limit = 2;
            all.engines[0].ledger.add(run("b", id, 2, 50..300));
        };
        assert_eq!(counted(&alive_twice), [0, 1, 0, 0, 0, 0]);
        let on_another_host = |all: &mut Evidence, id| {
            let mut ledger = Ledger::default();
            ledger.add(run("b", id, 2, 50..300));
            all.engines.push(Engine {
                ledger,
                forgotten: Ledger::default(),
                limit: 1,
                printed: BTreeMap::new(),
                left: Vec::new(),
            });
        };
        assert_eq!(counted(&on_another_host), [0, 1, 0, 0, 0, 0], "each within its limit");
        let another_job = |all: &mut Evidence, _| {
            let id = JobId::new();
            all.received.answer("key", json!({ "result": "accepted", "job_id": id }));
        };
        assert_eq!(counted(&another_job)[1], 1, "one key, two jobs");
        let crowd = |all: &mut Evidence, _| all.engines[0].ledger.add(run("b", JobId::new(), 1, 50..300));
        assert_eq!(counted(&crowd), [0, 0, 1, 0, 0, 0]);
        assert_eq!(counted(&|all, _| all.slots = 1), [0, 0, 0, 1, 0, 0]);
        assert_eq!(counted(&|all, _| all.engines[0].left.push("a".into())), [0, 0, 0, 0, 1, 0]);
        let false_code = |all: &mut Evidence, id| all.rows.get_mut(&id).expect("there")["exit_code"] = json!(1);
        assert_eq!(counted(&false_code), [0, 0, 0, 0, 0, 1]);
    }
}
