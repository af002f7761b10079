//! What must hold when all is over. What ran is told by the engine, what was accepted by the answers to the producer, and
//! only the results by Gantry's rows.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use gantry_core::JobId;
use gantry_executor_mock::ledger;
use serde_json::{Value, json};

use super::cloud::Place;
use super::engine::{self, Ran};
use super::jobs::{Client, Job};
use super::lab::{Backend, Lab, POLL};
use crate::verdict::Verdict;

/// In which every container must be gone. One that its worker could not remove waits for the orphan reaper, which takes
/// what has been over for 30 s, 10 s after the start of a worker and every 60 s from then on: two of its rounds and a half,
/// because one may find its backend not ready, or stop a container that only the next removes.
const REMOVED_WITHIN: Duration = Duration::from_secs(200);
/// In which it must be known whose a container is that ran at a cloud.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);
/// In which the end of a job must be told after it was committed, and its slot counted.
const TOLD_WITHIN: Duration = Duration::from_secs(20);

/// Waits for the last removals and events, and counts.
pub(crate) async fn judge(lab: &mut Lab, client: &Client) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    lab.until(REMOVED_WITHIN, async |lab| Ok(left(lab).await?.is_empty())).await?;
    lab.until(TOLD_WITHIN, async |lab| Ok(untold(lab, client).await? == 0)).await?;
    let orphans = left(lab).await?;
    verdict.orphans = orphans.len();
    verdict.notes.extend(orphans.iter().map(|container| format!("orphan: {container}")));
    let ran = containers(&mut verdict, lab).await?;
    launched_again(&mut verdict, lab).await?;
    let rows = rows(lab).await?;
    let mut known = BTreeSet::new();
    for (index, job) in client.jobs.iter().enumerate() {
        answered(&mut verdict, client, job);
        let Some(id) = client.id(index) else { continue };
        known.insert(id);
        match rows.get(&id) {
            Some(row) if row["over"] == true => ended(&mut verdict, job, row, ran.contains(&id)),
            row => lose(&mut verdict, format!("{} ({id}) is not over: {row:?}", job.name)),
        }
        if client.ends(id) > 1 {
            duplicate(&mut verdict, format!("{} ({id}) had {} ends told", job.name, client.ends(id)));
        }
    }
    for id in rows.keys().filter(|id| !known.contains(id)) {
        duplicate(&mut verdict, format!("nobody was told of job {id}"));
    }
    let untold = untold(lab, client).await?;
    if untold > 0 {
        verdict.lost += untold;
        verdict.notes.push(format!("lost: {untold} ends were never told"));
    }
    let slots: i64 = sqlx::query_scalar(
        "select (select coalesce(sum(current_job_count), 0) from executor_hosts)
             + (select count(*) from container_executions where slot_held)",
    )
    .fetch_one(&lab.sql)
    .await?;
    verdict.leaked_slots = usize::try_from(slots)?;
    Ok(verdict)
}

/// Ends that the producer should have heard of and has not; while it was away, those that no event says.
async fn untold(lab: &Lab, client: &Client) -> anyhow::Result<usize> {
    let unpublished: i64 = sqlx::query_scalar("select count(*) from outbox, unnest(jobs)").fetch_one(&lab.sql).await?;
    let unheard =
        (0..client.jobs.len()).filter_map(|index| client.id(index)).filter(|id| client.ends(*id) == 0).count();
    Ok(if client.heard_all() { unheard } else { usize::try_from(unpublished)? })
}

fn lose(verdict: &mut Verdict, note: String) {
    verdict.lost += 1;
    verdict.notes.push(format!("lost: {note}"));
}

fn duplicate(verdict: &mut Verdict, note: String) {
    verdict.duplicated += 1;
    verdict.notes.push(format!("duplicated: {note}"));
}

fn answered(verdict: &mut Verdict, client: &Client, job: &Job) {
    let answers = client.answers(&job.key);
    if answers.is_empty() {
        lose(verdict, format!("{} was not answered", job.name));
    }
    let ids: BTreeSet<&str> = answers.iter().filter_map(|answer| answer["job_id"].as_str()).collect();
    if ids.len() > 1 {
        duplicate(verdict, format!("{} is {} jobs", job.name, ids.len()));
    }
    if let Some(refused) = answers.iter().find(|answer| answer["result"] != "accepted") {
        verdict.wrong_result += 1;
        verdict.notes.push(format!("wrong result: {} was refused: {refused}", job.name));
    }
}

fn ended(verdict: &mut Verdict, job: &Job, row: &Value, ran: bool) {
    let end = &job.end;
    let mut expected = json!({ "status": end.status, "stdout": end.stdout, "attempts": end.attempts, "ends": 1 });
    let mut found = json!({
        "status": row["status"], "stdout": row["stdout"], "attempts": row["attempts"], "ends": row["ends"],
    });
    // A container that is stopped exits with whatever the stop made of it.
    if let Some(code) = end.exit_code {
        (expected["exit_code"], found["exit_code"]) = (json!(code), row["exit_code"].clone());
    }
    if expected != found || ran != end.ran {
        verdict.wrong_result += 1;
        let note =
            format!("{} ({}): expected {expected}, found {found}, ran: {ran}; {}", job.name, row["id"], row["error"]);
        verdict.notes.push(format!("wrong result: {note}"));
    }
}

/// Every job of the fleet.
async fn rows(lab: &Lab) -> anyhow::Result<BTreeMap<JobId, Value>> {
    let rows: Vec<(uuid::Uuid, Value)> = sqlx::query_as(
        "select j.id, jsonb_build_object('id', j.id, 'status', j.status, 'exit_code', j.exit_code,
             'error', j.error_message, 'over', j.completed_at is not null,
             -- An attempt whose place failed is none of the job's own.
             'attempts', (select count(*) from container_executions e
                          where e.job_id = j.id and e.retried_by is distinct from 'infrastructure'),
             'ends', (select count(*) from job_events e
                      where e.job_id = j.id and e.kind in ('completed', 'failed', 'timeout', 'cancelled')),
             'stdout', (select coalesce(convert_from(string_agg(c.data, ''::bytea order by c.byte_offset), 'UTF8'), '')
                        from container_log_chunks c
                        where c.job_id = j.id and c.attempt = j.attempt and c.stream = 'stdout'))
         from container_jobs j",
    )
    .fetch_all(&lab.sql)
    .await?;
    Ok(rows.into_iter().map(|(id, row)| (id.into(), row)).collect())
}

/// The fleet's id, which its containers bear.
pub(crate) async fn fleet(lab: &Lab) -> anyhow::Result<String> {
    Ok(sqlx::query_scalar("select id::text from fleet").fetch_one(&lab.sql).await?)
}

/// Containers that are still there.
async fn left(lab: &Lab) -> anyhow::Result<Vec<String>> {
    match &lab.backend {
        Backend::Mock(folder) => simulated(folder),
        Backend::Docker(engine) => engine.containers(&fleet(lab).await?).await,
        Backend::Cloud(place) => {
            place.engine.left_of(&cloud_ran(lab, place).await?, !place.cloud.keeps_what_is_over()).await
        }
    }
}

fn simulated(folder: &Path) -> anyhow::Result<Vec<String>> {
    match ledger::read(folder) {
        Ok(ledger) => Ok(ledger.left().map(str::to_owned).collect()),
        // Where no worker ever looked, there is none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What really ran; returns the jobs that did.
async fn containers(verdict: &mut Verdict, lab: &Lab) -> anyhow::Result<BTreeSet<JobId>> {
    let (starts, twice, most) = match &lab.backend {
        Backend::Mock(folder) => {
            let ledger = ledger::read(folder)?;
            (ledger.starts(), ledger.alive_twice(), ledger.max_concurrency())
        }
        Backend::Docker(engine) => {
            let ran = engine.ran(&fleet(lab).await?)?;
            (starts(ran.values()), alive_twice(ran.values()), engine::most_at_once(ran.values()))
        }
        Backend::Cloud(place) => {
            let mut ran = known(lab, place).await?;
            for (id, _) in ran.extract_if(.., |_, ran| ran.job.is_none()) {
                duplicate(verdict, format!("container {id} is nobody's"));
            }
            (starts(ran.values()), alive_twice(ran.values()), engine::most_at_once(ran.values()))
        }
    };
    for ((job, attempt), count) in starts.iter().filter(|(_, count)| **count > 1) {
        duplicate(verdict, format!("attempt {attempt} of {job} had {count} containers"));
    }
    for job in twice {
        duplicate(verdict, format!("{job} had two containers alive at once"));
    }
    verdict.over_limit = most.saturating_sub(lab.slots);
    Ok(starts.into_keys().map(|(job, _)| job).collect())
}

/// What ran at a cloud for the jobs of this fleet.
async fn cloud_ran(lab: &Lab, place: &Place) -> anyhow::Result<BTreeMap<String, Ran>> {
    let jobs: Vec<uuid::Uuid> = sqlx::query_scalar("select id from container_jobs").fetch_all(&lab.sql).await?;
    place.engine.ran_of(&jobs.into_iter().map(JobId::from).collect())
}

/// What ran at a cloud, at a moment at which nothing is nobody's: fleets share its engine, and whose a container is that
/// another has just started is known a little later than that it runs. What stays nobody's is in it.
async fn known(lab: &Lab, place: &Place) -> anyhow::Result<BTreeMap<String, Ran>> {
    let began = Instant::now();
    loop {
        let ran = cloud_ran(lab, place).await?;
        if ran.values().all(|ran| ran.job.is_some()) || began.elapsed() > KNOWN_WITHIN {
            return Ok(ran);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Attempts that failed for their place's reasons: there should be none, because nothing breaks there. Only where a launch
/// is never repeated may one be lost, if its worker died after it wrote down that it launches and before the launch
/// arrived; of such a one nothing ever ran, since what runs is found by its name.
async fn launched_again(verdict: &mut Verdict, lab: &Lab) -> anyhow::Result<()> {
    let failed: Vec<(uuid::Uuid, i32, String, bool, bool)> = sqlx::query_as(
        "select job_id, attempt, coalesce(failure_class::text, 'none'), launch_sent_at is not null,
                started_at is not null
         from container_executions where retried_by = 'infrastructure' order by job_id, attempt",
    )
    .fetch_all(&lab.sql)
    .await?;
    let (ran, loses_launches) = match &lab.backend {
        Backend::Cloud(place) => (starts(cloud_ran(lab, place).await?.values()), place.cloud.loses_launches()),
        Backend::Mock(_) | Backend::Docker(_) => (BTreeMap::new(), false),
    };
    for (job, attempt, class, sent, started) in failed {
        let ran = started || ran.contains_key(&(job.into(), attempt));
        let what = format!("attempt {attempt} of {job} ended as {class}, sent: {sent}, ran: {ran}");
        if loses_launches && class == "lost" && sent && !ran {
            verdict.excuse(what);
        } else {
            verdict.wrong(what);
        }
    }
    Ok(())
}

fn starts<'a>(ran: impl Iterator<Item = &'a Ran>) -> BTreeMap<(JobId, i32), usize> {
    let mut starts = BTreeMap::new();
    for container in ran {
        if let Some(job) = container.job.filter(|_| !container.started.is_empty()) {
            *starts.entry((job, container.attempt)).or_default() += container.started.len();
        }
    }
    starts
}

fn alive_twice<'a>(ran: impl Iterator<Item = &'a Ran>) -> BTreeSet<JobId> {
    let mut by_job: BTreeMap<JobId, Vec<&Ran>> = BTreeMap::new();
    for container in ran {
        if let Some(job) = container.job {
            by_job.entry(job).or_default().push(container);
        }
    }
    by_job.retain(|_, ran| engine::most_at_once(ran.iter().copied()) > 1);
    by_job.into_keys().collect()
}
