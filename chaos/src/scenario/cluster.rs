//! A node of a RabbitMQ cluster is killed under load: the leader of the reports' queue, with parts connected to it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gantry_servers::{Postgres, RabbitCluster};
use rustix::process::Signal;

use super::jobs::{Client, End};
use super::judge::judge;
use super::lab::{Backend, Ground, Lab, Pace, Work};
use super::management::Management;
use super::row::Row;

const QUEUES: [&str; 3] = ["gantry.submissions", "gantry.jobs.mock", "gantry.reports"];
/// Jobs handed in before, around and after the kill, and when the node is back.
const BEFORE: usize = 60;
const AROUND: usize = 120;
const BACK: usize = 30;
/// In which all must be over.
const RECOVERED_WITHIN: Duration = Duration::from_secs(90);

pub(super) async fn run(binaries: &Path, folder: &Path) -> anyhow::Result<Row> {
    let mut row = Row::default();
    let (postgres, cluster) = tokio::join!(Postgres::start(folder), RabbitCluster::start(folder));
    let (postgres, mut cluster) = (postgres?, cluster?);
    let addresses = cluster.amqp_urls("/");
    let mut lab = Lab::create(Ground {
        binaries,
        postgres: &postgres,
        broker: addresses.join(","),
        backend: Backend::Mock(folder.join("mock")),
        slots: 12,
        folder: folder.join("logs"),
        name: "cluster",
    })
    .await?;
    lab.start_all(&["worker-1", "worker-2", "worker-3"], Pace::Quick)?;

    let names = cluster.names();
    let managements = cluster.management_urls().map(|url| Management::new(&url));
    let [first, second, third] = managements;
    let managements = [first?, second?, third?];
    replicated(&mut row, &managements[0]).await?;
    let leader = leader(&managements[0], &names, "gantry.reports").await?;
    let survivor = (leader + 1) % names.len();
    let there = connected(&mut lab, &managements[survivor], &names[leader]).await?;

    // The producer sits on a node that stays: it is not what is tried here.
    let mut client = Client::connect(vec![addresses[survivor].clone()]).await?;
    submit(&mut client, &lab, BEFORE).await?;
    let begun = lab.until(Duration::from_secs(60), async |lab| Ok(Client::over(lab).await? > 10)).await?;
    ensure!(begun.is_some(), "nothing runs on a healthy cluster");
    let before = Client::over(&lab).await?;
    cluster.kill(leader).await?;
    let killed = Instant::now();
    row.faults = 1;
    row.did(format!(
        "SIGKILL of {}, leader of gantry.reports, {there} connections of parts to it, {before} jobs over",
        names[leader]
    ));
    submit(&mut client, &lab, AROUND).await?;

    let target = before + 20;
    let flowed = lab.until(RECOVERED_WITHIN, async |lab| Ok(Client::over(lab).await? >= target)).await?;
    let seconds = |time: Option<Duration>| match time {
        Some(_) => format!("{:.1} s after the kill", killed.elapsed().as_secs_f64()),
        None => "never".to_owned(),
    };
    row.figure(format!("20 more jobs over: {}", seconds(flowed)));
    let settled = lab.until(RECOVERED_WITHIN, async |lab| client.settled(lab).await).await?;
    let all = client.jobs.len();
    row.prove(settled.is_some(), format!("all {all} jobs over without the node: {}", seconds(settled)));
    let running = managements[survivor].running_nodes().await?;
    row.prove(!running.contains(&names[leader]), format!("running nodes after it: {}", running.join(", ")));
    let now = self::leader(&managements[survivor], &names, "gantry.reports").await?;
    row.prove(now != leader, format!("gantry.reports is led by {} now", names[now]));
    row.prove(lab.said("lost the broker")? > 0, "parts say that they lost the broker");

    let without = online(&managements[survivor]).await?;
    row.prove(without == names.len() - 1, format!("{without} members of gantry.reports are online without it"));

    cluster.restart(leader).await?;
    row.did(format!("{} started again", names[leader]));
    let whole =
        lab.until(Duration::from_secs(60), async |_| Ok(online(&managements[survivor]).await? == names.len())).await?;
    row.prove(whole.is_some(), "all members of gantry.reports are online again");
    submit(&mut client, &lab, BACK).await?;
    lab.until(RECOVERED_WITHIN, async |lab| client.settled(lab).await).await?;
    let ended = lab.ended()?;
    row.prove(ended.is_empty(), format!("parts that ended by themselves: {ended:?}"));
    row.judged(client.jobs.len(), judge(&mut lab, &client).await?);
    lab.close().await?;
    cluster.stop().await?;
    postgres.stop().await?;
    Ok(row)
}

async fn submit(client: &mut Client, lab: &Lab, count: usize) -> anyhow::Result<()> {
    for index in 0..count {
        let (duration, text) = (format!("{}ms", 200 + 50 * (index % 12)), format!("job {index}\n"));
        let job = lab.job(Work::Labels(&[("duration", &duration), ("stdout", &text)]));
        client.submit(&format!("job {index}"), job, End::exits(0, &text)).await?;
    }
    Ok(())
}

/// Every work queue has three members.
async fn replicated(row: &mut Row, management: &Management) -> anyhow::Result<()> {
    for queue in QUEUES {
        let found = management.queue(queue).await?;
        let members = found["members"].as_array().map_or(0, Vec::len);
        row.prove(members == 3, format!("{queue}: {members} members, led by {}", found["leader"]));
    }
    Ok(())
}

/// How many members of the reports' queue are up.
async fn online(management: &Management) -> anyhow::Result<usize> {
    let reports = management.queue("gantry.reports").await?;
    Ok(reports["online"].as_array().map_or(0, Vec::len))
}

async fn leader(management: &Management, names: &[String], queue: &str) -> anyhow::Result<usize> {
    let queue = management.queue(queue).await?;
    names.iter().position(|name| queue["leader"] == name.as_str()).context("the queue has no leader")
}

/// How many parts are connected to a node, at least one: chance decides, so a part is started again until it is so.
async fn connected(lab: &mut Lab, management: &Management, node: &str) -> anyhow::Result<usize> {
    for _ in 0..20 {
        // RabbitMQ's statistics are up to 5 s old.
        let all = lab.until(Duration::from_secs(30), async |_| Ok(management.connections().await?.len() >= 5)).await?;
        ensure!(all.is_some(), "the parts do not connect");
        let there = management.connections().await?.values().filter(|(_, at)| at == node).count();
        if there > 0 {
            return Ok(there);
        }
        lab.end("recorder", Signal::TERM).await?;
        lab.start("recorder", Pace::Quick, &[])?;
    }
    anyhow::bail!("no part connects to {node}")
}
