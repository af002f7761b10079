//! A real container that counts while the workers that watch it are killed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use gantry_servers::{DockerEngine, Postgres, RabbitMq};
use rustix::process::Signal;

use super::engine::Engine;
use super::jobs::{Client, End};
use super::judge::{fleet, judge};
use super::lab::{Backend, Ground, Lab, Pace, Work};
use super::row::Row;

const WORKERS: [&str; 2] = ["worker-1", "worker-2"];
/// Kills.
const KILLS: i32 = 2;
/// Lines, ten a second.
const LINES: u32 = 250;
const SCRIPT: &str = "i=0; while [ $i -lt 250 ]; do echo $i; i=$((i+1)); usleep 100000; done; exit 7";
/// Longer than a lease and its judge take.
const ADOPTED_WITHIN: Duration = Duration::from_secs(30);
/// What a worker gets to watch between two kills.
const WATCHED: Duration = Duration::from_secs(3);

pub(super) async fn run(binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let mut row = Row::default();
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
        slots: 2,
        folder: folder.join("logs"),
        name: "container",
    })
    .await?;
    lab.start_all(&WORKERS, Pace::Quick)?;
    let mut client = Client::connect(vec![rabbitmq.amqp_url("/")]).await?;
    let lines: String = (0..LINES).map(|line| format!("{line}\n")).collect();
    client.submit("counter", lab.job(Work::Script(SCRIPT)), End::exits(7, lines)).await?;

    for kill in 1..=KILLS {
        let running =
            lab.until(ADOPTED_WITHIN, async |lab| Ok(lab.running().await?.iter().any(|run| run.epoch == kill))).await?;
        ensure!(running.is_some(), "the container is not watched with epoch {kill}");
        tokio::time::sleep(WATCHED).await;
        let run = lab.running().await?.into_iter().next().context("the container is over too soon")?;
        let owner = WORKERS.into_iter().find(|name| lab.pid(name) == run.pid).context("nobody here runs it")?;
        lab.end(owner, Signal::KILL).await?;
        row.faults += 1;
        row.did(format!("SIGKILL of {owner}, which watched with epoch {}", run.epoch));
        let adopted = lab
            .until(ADOPTED_WITHIN, async |lab| Ok(lab.running().await?.iter().any(|now| now.epoch > run.epoch)))
            .await?;
        let took = adopted.map_or("never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
        row.prove(
            adopted.is_some(),
            format!("another worker adopted it with a higher epoch, after {took} (lease 6 s)"),
        );
        lab.start(owner, Pace::Quick, &[])?;
    }
    lab.until(Duration::from_secs(60), async |lab| client.settled(lab).await).await?;
    let epoch: i32 = sqlx::query_scalar("select max(epoch) from container_executions").fetch_one(&lab.sql).await?;
    row.prove(epoch == KILLS + 1, format!("its epoch is {epoch}"));
    let ran = engine.ran(&fleet(&lab).await?)?;
    let told: Vec<String> =
        ran.values().map(|ran| format!("{} start(s), exit code {:?}", ran.started.len(), ran.exit_code)).collect();
    row.prove(
        ran.len() == 1 && ran.values().all(|ran| ran.started.len() == 1 && ran.exit_code == Some(7)),
        format!("the engine tells of {} container(s): {}", ran.len(), told.join("; ")),
    );
    row.did(format!("its stored log is compared with the {LINES} lines that it printed: wrong_result"));
    row.judged(client.jobs.len(), judge(&mut lab, &client).await?);
    lab.close().await?;
    docker.stop().await?;
    rabbitmq.stop().await?;
    postgres.stop().await?;
    Ok(row)
}
