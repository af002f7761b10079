//! Every part's wall clock is a minute off, some ahead and some behind; the engine's and Postgres' are right.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use gantry_core::JobId;
use gantry_servers::{DockerEngine, Postgres, RabbitMq};
use rustix::process::Signal;
use serde_json::json;

use super::engine::{Engine, Ran};
use super::jobs::{Client, End};
use super::judge::{fleet, judge};
use super::lab::{Backend, Ground, Lab, Pace, Work};
use super::row::Row;

/// Where Debian's package `libfaketime` puts it, by architecture.
const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];
/// Parts, and how many seconds their clocks are off.
const PARTS: [(&str, i32); 4] = [("dispatcher", 60), ("recorder", -60), ("worker-1", 60), ("worker-2", -60)];
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// The engine puts a start down when it hears of it: on a busy machine a moment after the program began.
const EARLY: f64 = 0.5;
/// What a busy machine may add to a time, in seconds; far less than the clocks are off.
const SLACK: f64 = 8.0;

pub(super) async fn run(binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let mut row = Row::default();
    let library = LIBRARIES.into_iter().find(|path| Path::new(path).exists());
    let library = library.context("libfaketime is missing: install the Debian package faketime")?;
    let (postgres, rabbitmq, docker) =
        tokio::join!(Postgres::start(folder), RabbitMq::start(folder), DockerEngine::start(folder));
    let (postgres, rabbitmq, docker) = (postgres?, rabbitmq?, docker?);
    docker.import_test_image().await?;
    let (engine, _events) = Engine::record(&docker, &folder.join("engine")).await?;
    let mut lab = Lab::create(Ground {
        binaries,
        postgres: &postgres,
        broker: rabbitmq.amqp_url("/"),
        backend: Backend::Docker(engine.clone()),
        slots: 8,
        folder: folder.join("logs"),
        name: "clock",
    })
    .await?;
    for (part, seconds) in PARTS {
        let off = start(&mut lab, library, part, seconds).await?;
        row.faults += 1;
        row.prove(
            (off - f64::from(seconds)).abs() < 5.0,
            format!("{part}'s log is {off:+.1} s off (asked for {seconds:+})"),
        );
    }
    let mut client = Client::connect(vec![rabbitmq.amqp_url("/")]).await?;
    let jobs = submit(&mut client, &lab).await?;

    // What must happen on time is over before anybody dies.
    let calm = lab.until(Duration::from_secs(60), async |lab| Ok(Client::over(lab).await? >= 6)).await?;
    ensure!(calm.is_some(), "the short jobs do not end");
    let dead = count_dead(&lab).await?;
    row.prove(dead == 0, format!("{dead} workers declared dead while all of them live"));
    let running = lab.running().await?;
    let adopted =
        running.iter().find(|run| Some(run.job) == client.id(jobs.adopted)).context("the long job is over too soon")?;
    let owner = WORKERS.into_iter().find(|name| lab.pid(name) == adopted.pid).context("nobody here runs it")?;
    lab.end(owner, Signal::KILL).await?;
    row.faults += 1;
    lab.until(Duration::from_secs(90), async |lab| client.settled(lab).await).await?;
    let dead = count_dead(&lab).await?;
    row.prove(dead == 1, format!("{owner} was killed, and {dead} worker declared dead"));
    let epoch: i32 = sqlx::query_scalar("select max(epoch) from container_executions").fetch_one(&lab.sql).await?;
    row.prove(epoch > 1, "its containers were adopted by a worker whose clock is 120 s away from its own");

    times(&mut row, &lab, &client, &jobs, &engine.ran(&fleet(&lab).await?)?).await?;
    row.judged(client.jobs.len(), judge(&mut lab, &client).await?);
    lab.close().await?;
    docker.stop().await?;
    rabbitmq.stop().await?;
    postgres.stop().await?;
    Ok(row)
}

/// Starts a part with its wall clock off, and nothing else; returns by how many seconds its first log line is.
async fn start(lab: &mut Lab, library: &str, part: &str, seconds: i32) -> anyhow::Result<f64> {
    let now: f64 = sqlx::query_scalar("select extract(epoch from now())::float8").fetch_one(&lab.sql).await?;
    let environment = [
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME", format!("{seconds:+}")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // The same for versions before 0.9.10.
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("NO_FAKE_STAT", "1".to_owned()),
    ];
    lab.start(part, Pace::Quick, &environment)?;
    let log = lab.log(part);
    let mut stamp = None;
    lab.until(Duration::from_secs(30), async |_| {
        let text = std::fs::read_to_string(&log)?;
        stamp = text.split_whitespace().next().map(str::to_owned);
        Ok(stamp.is_some())
    })
    .await?;
    let stamp = stamp.with_context(|| format!("{part} says nothing"))?;
    let said: f64 = sqlx::query_scalar("select extract(epoch from $1::text::timestamptz)::float8")
        .bind(stamp)
        .fetch_one(&lab.sql)
        .await?;
    Ok(said - now)
}

async fn count_dead(lab: &Lab) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("select count(*) from workers where state = 'dead'").fetch_one(&lab.sql).await?)
}

/// The places of jobs whose times are looked at.
struct Jobs {
    not_before: usize,
    /// The time of that, in seconds since the epoch.
    due: f64,
    timeout: usize,
    retried: usize,
    adopted: usize,
    adopted_timeout: usize,
}

async fn submit(client: &mut Client, lab: &Lab) -> anyhow::Result<Jobs> {
    let script = |script| lab.job(Work::Script(script));
    let with = |text, name: &str, value: serde_json::Value| {
        let mut job = script(text);
        job["spec"][name] = value;
        job
    };
    let (due, text): (f64, String) = sqlx::query_as(
        "select extract(epoch from at)::float8, to_char(at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
         from (select date_trunc('second', now() + interval '10 s') as at) as due",
    )
    .fetch_one(&lab.sql)
    .await?;
    client.submit("plain", script("echo plain"), End::exits(0, "plain\n")).await?;
    client.submit("exit 7", script("exit 7"), End::exits(7, "")).await?;
    let mut late = script("echo late");
    late["not_before"] = json!(text);
    let not_before = client.submit("not before", late, End::exits(0, "late\n")).await?;
    let timeout = client.submit("timeout", with("sleep 600", "timeout_seconds", json!(5)), End::timeout()).await?;
    let retry = json!({ "max_attempts": 2, "backoff_seconds": 2, "max_backoff_seconds": 2 });
    let end = End { attempts: 2, ..End::exits(9, "") };
    let retried = client.submit("retried", with("exit 9", "retry", retry), end).await?;
    let mut waits = script("true");
    // Nobody here runs simulated ones.
    (waits["preferred_executor"], waits["queue_timeout_seconds"]) = (json!("mock"), json!(4));
    client.submit("queue deadline", waits, End::waited()).await?;
    let adopted = client.submit("adopted", script("sleep 25; echo adopted"), End::exits(0, "adopted\n")).await?;
    let job = with("sleep 600", "timeout_seconds", json!(30));
    let adopted_timeout = client.submit("timeout after adoption", job, End::timeout()).await?;
    Ok(Jobs { not_before, due, timeout, retried, adopted, adopted_timeout })
}

/// What must have happened on time, by the engine's clock.
async fn times(
    row: &mut Row,
    lab: &Lab,
    client: &Client,
    jobs: &Jobs,
    ran: &BTreeMap<String, Ran>,
) -> anyhow::Result<()> {
    let of = |index: usize| -> Vec<&Ran> {
        let mut of: Vec<&Ran> = ran.values().filter(|ran| ran.job == client.id(index)).collect();
        of.sort_by_key(|ran| ran.attempt);
        of
    };
    let mut between = |what: &str, found: Option<f64>, least: f64| {
        let good = found.is_some_and(|found| found + EARLY >= least && found < least + SLACK);
        let found = found.map_or("never".to_owned(), |found| format!("{found:.1} s"));
        row.prove(good, format!("{what}: {found}, expected {least} s and a little more"));
    };
    let started = |ran: &Ran| ran.started.first().map(|at| seconds(*at));
    let lasted = |ran: &Ran| Some(seconds(ran.ended?) - started(ran)?);
    let late = of(jobs.not_before).first().and_then(|ran| started(ran)).map(|at| at - jobs.due);
    between("start after not_before", late, 0.0);
    between("run with timeout_seconds 5", of(jobs.timeout).first().and_then(|ran| lasted(ran)), 5.0);
    between("run with timeout_seconds 30, adopted", of(jobs.adopted_timeout).first().and_then(|ran| lasted(ran)), 30.0);
    between("run of sleep 25, adopted", of(jobs.adopted).first().and_then(|ran| lasted(ran)), 25.0);
    if let [first, second] = of(jobs.retried)[..] {
        let pause = started(second).zip(first.ended).map(|(start, end)| start - seconds(end));
        // Of the two seconds, jitter may take half.
        between("pause before the retry", pause, 1.0);
    }
    // Whatever is stored must be the engine's own times.
    let stored: Vec<(uuid::Uuid, i32, f64)> = sqlx::query_as(
        "select job_id, attempt, extract(epoch from started_at)::float8 from container_executions
         where started_at is not null",
    )
    .fetch_all(&lab.sql)
    .await?;
    let off = stored.iter().filter_map(|(job, attempt, stored)| {
        let job = JobId::from(*job);
        let found = ran.values().find(|ran| ran.job == Some(job) && ran.attempt == *attempt)?;
        Some((stored - started(found)?).abs())
    });
    let off = off.fold(0.0, f64::max);
    row.prove(off < 2.0 && !stored.is_empty(), format!("stored starts differ from the engine's by {off:.2} s at most"));
    Ok(())
}

fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}
