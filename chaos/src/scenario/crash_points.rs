//! Workers of real containers are killed right before and right after each request to Docker Engine, or to a cloud.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use gantry_servers::{DockerEngine, Postgres, RabbitMq};
use rustix::process::Signal;
use serde_json::json;

use super::cloud::{Cloud, Double};
use super::engine::Engine;
use super::jobs::{Client, End};
use super::judge::judge;
use super::lab::{Backend, Ground, Lab, Pace, Work};
use super::management::Management;
use super::row::Row;

/// Every request of a worker to its backend, and whether it is made only after another worker's death.
const REQUESTS: [(&str, bool); 10] = [
    ("launch", false),
    ("list_owned", false),
    ("remove", false),
    ("find", true),
    ("stop", false),
    ("prepare", false),
    ("observe", false),
    ("logs", false),
    ("check", false),
    ("changed", false),
];
/// Fleets side by side on one engine; each takes its share of the points, one after the other.
const LANES: usize = 3;
const WORKER: &str = "worker";
/// In which a point must be passed: the orphan reaper lists 10 s after the start, an adoption comes after a lease, and a
/// launch that a busy machine answers too late is looked for before it is seen to run.
const REACHED_WITHIN: Duration = Duration::from_secs(90);
/// In which all must be over after the restart.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

/// The names of those requests.
#[cfg(test)]
pub(crate) fn requests() -> impl Iterator<Item = &'static str> {
    REQUESTS.into_iter().map(|(name, _)| name)
}

/// A point and what its trial found.
struct Tried {
    point: String,
    fired: bool,
    recovered: Option<Duration>,
}

/// What a worker passes besides where a launch under one name is not idempotent for ever: it stores that it launches.
pub(crate) const LAUNCH_SENT: &str = "commit.attempts::put_launch_sent";
/// Fleets side by side on one cloud.
const CLOUD_LANES: usize = 2;

/// A point with its side, and whether it is passed only after another worker's death.
type Point = (String, bool);

/// A backend, what its fleets are called, how many there are side by side, and the points of its workers.
struct Trial {
    backend: Backend,
    name: &'static str,
    lanes: usize,
    points: Vec<Point>,
}

/// Workers of real containers on Docker Engine.
pub(super) async fn run(binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let docker = started_engine(folder).await?;
    let (engine, _events) = Engine::record(&docker, &folder.join("engine")).await?;
    let points = both_sides(&executor_points());
    let trial = Trial { backend: Backend::Docker(engine), name: "points", lanes: LANES, points };
    let row = try_all(vec![trial], binaries, folder).await?;
    docker.stop().await?;
    Ok(row)
}

/// Workers of clouds, whose doubles run real containers. All side by side: they wait more than they work.
pub(super) async fn run_on_clouds(clouds: &[Cloud], binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let docker = started_engine(folder).await?;
    let (engine, _events) = Engine::record(&docker, &folder.join("engine")).await?;
    let _inspector = engine.inspect()?;
    let (mut doubles, mut trials) = (Vec::new(), Vec::new());
    for cloud in clouds {
        let name = cloud.executor_type().as_str();
        let (double, place) = Double::start(*cloud, &engine, &folder.join(format!("double-{name}"))).await?;
        doubles.push(double);
        let mut points = executor_points();
        points.extend(cloud.stores_launches().then(|| (LAUNCH_SENT.to_owned(), false)));
        let points = both_sides(&points);
        trials.push(Trial { backend: Backend::Cloud(place), name, lanes: CLOUD_LANES, points });
    }
    let row = try_all(trials, binaries, folder).await?;
    for double in doubles {
        double.stop().await?;
    }
    docker.stop().await?;
    Ok(row)
}

async fn started_engine(folder: &Path) -> anyhow::Result<DockerEngine> {
    let docker = DockerEngine::start(folder).await?;
    docker.import_test_image().await?;
    Ok(docker)
}

/// Makes every trial's fleets, on one Postgres and one RabbitMQ, and lets each try its share of the points.
async fn try_all(trials: Vec<Trial>, binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let mut row = Row::default();
    let (postgres, rabbitmq) = tokio::join!(Postgres::start(folder), RabbitMq::start(folder));
    let (postgres, rabbitmq) = (postgres?, rabbitmq?);
    let management = Management::new(&rabbitmq.management_url())?;
    let mut lanes = Vec::new();
    for trial in &trials {
        for lane in 0..trial.lanes {
            let name = format!("{}_{lane}", trial.name);
            management.put_vhost(&name).await?;
            let lab = Lab::create(Ground {
                binaries,
                postgres: &postgres,
                broker: rabbitmq.amqp_url(&name),
                backend: trial.backend.clone(),
                slots: 4,
                folder: folder.join(&name),
                name: &name,
            })
            .await?;
            let client = Client::connect(vec![rabbitmq.amqp_url(&name)]).await?;
            let points: Vec<Point> = trial.points.iter().skip(lane).step_by(trial.lanes).cloned().collect();
            let named = trial.name;
            lanes.push(async move { Ok::<_, anyhow::Error>((named, self::lane(lab, client, points).await?)) });
        }
    }
    let mut seen = BTreeSet::new();
    for (name, (tried, jobs, verdict, passed)) in try_join_all(lanes).await? {
        for Tried { point, fired, recovered } in tried {
            row.faults += 1;
            let recovered = recovered.map_or("never".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()));
            let what = format!("{name}: {point}: fired: {fired}, all over after {recovered}");
            row.prove(fired && recovered != "never", what);
        }
        seen.extend(passed);
        row.judged(jobs, verdict);
    }
    let known: BTreeSet<String> = both_sides(&executor_points()).into_iter().map(|(point, _)| point).collect();
    let unknown: Vec<&String> =
        seen.iter().filter(|point| point.starts_with("executor.") && !known.contains(*point)).collect();
    row.prove(unknown.is_empty(), format!("executor points passed and not tried: {unknown:?}"));
    rabbitmq.stop().await?;
    postgres.stop().await?;
    Ok(row)
}

/// Every request to a backend as a point.
fn executor_points() -> Vec<(String, bool)> {
    REQUESTS.iter().map(|(name, adopts)| (format!("executor.{name}"), *adopts)).collect()
}

fn both_sides(points: &[(String, bool)]) -> Vec<Point> {
    let side = |side: &'static str| points.iter().map(move |(name, adopts)| (format!("{name}.{side}"), *adopts));
    side("before").chain(side("after")).collect()
}

type Lane = (Vec<Tried>, usize, crate::verdict::Verdict, BTreeSet<String>);

async fn lane(mut lab: Lab, mut client: Client, points: Vec<Point>) -> anyhow::Result<Lane> {
    lab.start_all(&[], Pace::Quick)?;
    let mut tried = Vec::new();
    for (point, adopts) in points {
        tried.push(try_point(&mut lab, &mut client, point, adopts).await?);
    }
    // What the killed ones left is for the orphan reaper of this one.
    lab.start(WORKER, Pace::Quick, &[])?;
    let verdict = judge(&mut lab, &client).await?;
    let passed = std::fs::read_to_string(lab.folder.join("seen"))?.lines().map(str::to_owned).collect();
    lab.close().await?;
    Ok((tried, client.jobs.len(), verdict, passed))
}

async fn try_point(lab: &mut Lab, client: &mut Client, point: String, adopts: bool) -> anyhow::Result<Tried> {
    let path = |name: &str| lab.folder.join(name).display().to_string();
    let fatal = [("GANTRY_FAILPOINT", point.clone()), ("GANTRY_FAILPOINT_FIRED", path("fired"))];
    let noting = [("GANTRY_FAILPOINTS_SEEN", path("seen"))];
    if adopts {
        lab.start(WORKER, Pace::Quick, &noting)?;
        submit(lab, client).await?;
        // If nothing runs, nothing will be adopted: the trial goes on and says that its point did not fire.
        lab.until(REACHED_WITHIN, async |lab| Ok(!lab.running().await?.is_empty())).await?;
        lab.end(WORKER, Signal::KILL).await?;
        lab.start(WORKER, Pace::Quick, &fatal)?;
    } else {
        lab.start(WORKER, Pace::Quick, &fatal)?;
        submit(lab, client).await?;
    }
    let died = lab.until(REACHED_WITHIN, async |lab| lab.has_ended(WORKER)).await?;
    lab.end(WORKER, Signal::KILL).await?;
    let fired = std::fs::read_to_string(lab.folder.join("fired")).unwrap_or_default();
    let fired = died.is_some() && fired.lines().any(|line| line == point);
    lab.start(WORKER, Pace::Quick, &noting)?;
    let recovered = lab.until(RECOVERED_WITHIN, async |lab| client.settled(lab).await).await?;
    lab.end(WORKER, Signal::KILL).await.context("the worker of the next point must not meet this one")?;
    Ok(Tried { point, fired, recovered })
}

/// Hands in what makes a worker send every request. Each runs for long enough to be looked at, and ends when it is
/// asked to.
async fn submit(lab: &Lab, client: &mut Client) -> anyhow::Result<()> {
    client.submit("prints", lab.job(Work::Script("echo one; sleep 2; echo two")), End::exits(0, "one\ntwo\n")).await?;
    client.submit("exit 3", lab.job(Work::Script("sleep 2; exit 3")), End::exits(3, "")).await?;
    let mut timeout = lab.job(Work::Script("trap 'exit 1' TERM; sleep 600 & wait"));
    timeout["spec"]["timeout_seconds"] = json!(2);
    client.submit("timeout", timeout, End::timeout()).await?;
    Ok(())
}
