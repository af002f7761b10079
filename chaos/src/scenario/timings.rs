//! How long what must be quick takes, with the settings that a fleet has by default.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gantry_core::JobId;
use gantry_servers::{DockerEngine, Postgres, RabbitMq};
use lapin::{Connection, ConnectionProperties};
use rustix::process::Signal;

use super::engine::Engine;
use super::jobs::{Client, End};
use super::judge::judge;
use super::lab::{Backend, Ground, Lab, Pace, Running, Work};
use super::row::Row;

const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// From SIGKILL until another worker owns what the dead one ran.
const ADOPTION: Duration = Duration::from_secs(30);
/// From SIGTERM to the end of the process, which has handed over then.
const HAND_OVER: Duration = Duration::from_secs(3);
/// From then until another worker owns what it ran: its next beat, which comes every 2 s.
const TAKEN: Duration = Duration::from_secs(3);
/// From the first connection that RabbitMQ takes after its restart until a job handed in then is over.
const FLOWING: Duration = Duration::from_secs(10);
/// How long the broker is away: long enough for every pause between two attempts to be its longest.
const AWAY: Duration = Duration::from_secs(20);
/// Kills of which each is measured.
const KILLS: usize = 3;
/// Runs until it is asked to stop.
const FOR_EVER: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";
/// In which nothing that works takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks where the time is measured.
const SHARP: Duration = Duration::from_millis(20);
/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(3);

pub(super) async fn run(binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let mut row = Row::default();
    let (postgres, rabbitmq, docker) =
        tokio::join!(Postgres::start(folder), RabbitMq::start(folder), DockerEngine::start(folder));
    let (postgres, rabbitmq, docker) = (postgres?, rabbitmq?, docker?);
    docker.import_test_image().await?;
    let (engine, _events) = Engine::record(&docker, &folder.join("engine")).await?;
    let broker = rabbitmq.amqp_url("/");
    let mut lab = Lab::create(Ground {
        binaries,
        postgres: &postgres,
        broker: broker.clone(),
        backend: Backend::Docker(engine),
        slots: 6,
        folder: folder.join("logs"),
        name: "timings",
    })
    .await?;
    lab.start_all(&WORKERS, Pace::Default)?;
    let mut client = Client::connect(vec![broker.clone()]).await?;
    let mut for_ever = Vec::new();
    for index in 0..3 {
        for_ever.push(
            client.submit(&format!("for ever {index}"), lab.job(Work::Script(FOR_EVER)), End::cancelled()).await?,
        );
    }
    let running = lab.until(PATIENCE, async |lab| Ok(lab.running().await?.len() == 3)).await?;
    ensure!(running.is_some(), "the jobs do not run");

    for kill in 1..=KILLS {
        let (owner, owned) = owner(&lab).await?;
        lab.end(owner, Signal::KILL).await?;
        let killed = Instant::now();
        lab.start(owner, Pace::Default, &[])?;
        row.faults += 1;
        let adopted = adopted(&mut lab, &owned, killed).await?;
        row.within(&format!("kill {kill}: SIGKILL to adoption of {} containers", owned.len()), adopted, ADOPTION);
    }
    let (leaving, owned) = owner(&lab).await?;
    let exit = lab.end(leaving, Signal::TERM).await?;
    let handed_over = Instant::now();
    row.faults += 1;
    row.within(&format!("SIGTERM of a worker with {} containers to its exit", owned.len()), Some(exit), HAND_OVER);
    let adopted = adopted(&mut lab, &owned, handed_over).await?;
    row.within("its exit to adoption", adopted, TAKEN);
    lab.start(leaving, Pace::Default, &[])?;

    for index in 0..6 {
        let job = lab.job(Work::Script("sleep 2; echo done"));
        client.submit(&format!("2 s, {index}"), job, End::exits(0, "done\n")).await?;
    }
    let began = Instant::now();
    rabbitmq.stop().await?;
    row.faults += 1;
    tokio::time::sleep(AWAY.saturating_sub(began.elapsed())).await;
    row.did(format!("RabbitMQ stopped under load, away for {:.0} s, started", began.elapsed().as_secs_f64()));
    let (rabbitmq, flowing) = tokio::join!(RabbitMq::start(folder), flowing(&broker, &mut lab, &mut client));
    let rabbitmq = rabbitmq?;
    row.within("RabbitMQ reachable again to the end of a job handed in then", flowing?, FLOWING);

    let store = lab.store()?;
    for index in for_ever {
        let id = client.id(index).context("it was accepted")?;
        gantry_store::jobs::cancel(&store, gantry_store::Scope::Fleet, id).await?;
    }
    store.close().await;
    lab.until(PATIENCE, async |lab| client.settled(lab).await).await?;
    row.judged(client.jobs.len(), judge(&mut lab, &client).await?);
    lab.close().await?;
    docker.stop().await?;
    rabbitmq.stop().await?;
    postgres.stop().await?;
    Ok(row)
}

/// The worker that owns most, and what it owns.
async fn owner(lab: &Lab) -> anyhow::Result<(&'static str, Vec<Running>)> {
    let running = lab.running().await?;
    let owned = |name: &str| running.iter().filter(|run| run.pid == lab.pid(name)).cloned().collect::<Vec<_>>();
    let most = WORKERS.into_iter().map(|name| (name, owned(name))).max_by_key(|(_, owned)| owned.len());
    most.filter(|(_, owned)| !owned.is_empty()).context("no worker owns anything")
}

/// How long after `since` all of these belonged to another worker, with a higher epoch.
async fn adopted(lab: &mut Lab, owned: &[Running], since: Instant) -> anyhow::Result<Option<Duration>> {
    while since.elapsed() < PATIENCE {
        let now = lab.running().await?;
        let taken = |before: &Running| {
            now.iter().any(|run| run.job == before.job && run.epoch > before.epoch && run.worker != before.worker)
        };
        if owned.iter().all(taken) {
            return Ok(Some(since.elapsed()));
        }
        tokio::time::sleep(SHARP).await;
    }
    Ok(None)
}

/// Waits until RabbitMQ takes a connection, hands a job in, and tells how long it then took until that was over.
async fn flowing(url: &str, lab: &mut Lab, client: &mut Client) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    // A node that is on its way up may take a connection and say nothing on it.
    let connect = || tokio::time::timeout(CONNECT, Connection::connect(url, ConnectionProperties::default()));
    while !matches!(connect().await, Ok(Ok(_))) {
        ensure!(began.elapsed() < PATIENCE, "RabbitMQ does not come back");
        tokio::time::sleep(SHARP).await;
    }
    let reachable = Instant::now();
    let job = lab.job(Work::Script("echo again"));
    let index = client.submit("after the restart", job, End::exits(0, "again\n")).await?;
    while reachable.elapsed() < PATIENCE {
        client.all_answered().await?;
        if let Some(id) = client.id(index)
            && is_over(lab, id).await?
        {
            return Ok(Some(reachable.elapsed()));
        }
        tokio::time::sleep(SHARP).await;
    }
    Ok(None)
}

async fn is_over(lab: &Lab, job: JobId) -> anyhow::Result<bool> {
    let sql = "select completed_at is not null from container_jobs where id = $1";
    Ok(sqlx::query_scalar(sql).bind(job.uuid()).fetch_one(&lab.sql).await?)
}
