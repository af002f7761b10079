//! What is done behind Gantry's back to show that the counters can rise: each kind must be noticed.

use anyhow::{Context, ensure};
use clap::ValueEnum;
use gantry_core::JobId;
use gantry_servers::TEST_IMAGE;
use rustix::process::Signal;
use serde_json::Value;

use super::fleet::{DOCKER_SLOTS, Fleet};
use super::producer::Producer;
use super::servers::output;
use crate::part::Part;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sabotage {
    /// An accepted job's row is deleted: lost.
    DeletedJob,
    /// A second container of an attempt that runs: duplicated.
    SecondContainer,
    /// More containers than the engine's limit: `over_limit`.
    OverLimit,
    /// A host counts one slot too many: `leaked_slots`.
    LeakedSlot,
    /// A container of an attempt that is over, and no worker that could reap it: orphans.
    Orphan,
    /// An exit code that the container did not have: `wrong_result`.
    FalseExitCode,
}

impl Sabotage {
    /// The part of it that needs jobs at work.
    pub(crate) async fn while_jobs_run(self, fleet: &Fleet) -> anyhow::Result<()> {
        match self {
            Self::SecondContainer => second_container(fleet).await,
            Self::OverLimit => {
                for _ in 0..=DOCKER_SLOTS {
                    run(fleet, &[&format!("GANTRY_JOB_ID={}", JobId::new()), "GANTRY_ATTEMPT=1"], &[]).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The part of it that comes when all is over.
    pub(crate) async fn after_the_end(self, fleet: &Fleet, producer: &Producer) -> anyhow::Result<()> {
        let (_, received) = producer.ledger();
        ensure!(received.ended() > 0, "no job has ended that could be tampered with");
        let sql = match self {
            Self::DeletedJob => {
                "delete from container_jobs where id = (select id from container_jobs where status = 'completed' limit 1)"
            }
            Self::LeakedSlot => {
                "update executor_hosts set current_job_count = 1 where id = (select id from executor_hosts limit 1)"
            }
            Self::FalseExitCode => {
                "update container_jobs set exit_code = 4
                 where id = (select id from container_jobs where status = 'failed' and exit_code = 3 limit 1)"
            }
            Self::Orphan => return orphan(fleet).await,
            Self::SecondContainer | Self::OverLimit => return Ok(()),
        };
        let changed = sqlx::query(sql).execute(&fleet.sql).await?.rows_affected();
        ensure!(changed == 1, "{changed} rows were tampered with");
        Ok(())
    }
}

/// Starts a container with the name, labels and variables of one that runs.
async fn second_container(fleet: &Fleet) -> anyhow::Result<()> {
    let mut list = fleet.addresses.docker();
    list.args(["ps", "--quiet", "--filter", &format!("label=gantry.fleet={}", fleet.id())]);
    let first = output(list).await?.lines().next().map(str::to_owned).context("no container runs")?;
    let mut inspect = fleet.addresses.docker();
    inspect.args(["inspect", "--format", "{{json .Config}}", &first]);
    let config: Value = serde_json::from_str(&output(inspect).await?)?;
    let environment: Vec<&str> = config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let labels: Vec<String> = config["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    run(fleet, &environment, &labels.iter().map(String::as_str).collect::<Vec<_>>()).await
}

/// A container of an attempt that is over, when there is nobody to reap it.
async fn orphan(fleet: &Fleet) -> anyhow::Result<()> {
    for worker in fleet.processes.iter().filter(|process| process.member.part == Part::DockerWorker) {
        worker.want(false);
        worker.signal(Signal::KILL, true)?;
    }
    let over: (String, i32) = sqlx::query_as(
        "select e.job_id::text, e.attempt from container_executions e join executor_hosts h on h.id = e.executor_host_id
         where h.executor_type = 'docker' and e.ended_at is not null limit 1",
    )
    .fetch_one(&fleet.sql)
    .await?;
    let mut create = fleet.addresses.docker();
    create.args(["create", "--network", "none"]);
    let labels = [("fleet", fleet.id().to_owned()), ("job", over.0), ("attempt", over.1.to_string())];
    for (name, value) in labels {
        create.args(["--label", &format!("gantry.{name}={value}")]);
    }
    create.args([TEST_IMAGE, "true"]);
    output(create).await?;
    Ok(())
}

/// Runs a container for some seconds that writes to the ledger like any other.
async fn run(fleet: &Fleet, environment: &[&str], labels: &[&str]) -> anyhow::Result<()> {
    let mut run = fleet.addresses.docker();
    run.args(["run", "--detach", "--network", "none"]);
    for variable in environment {
        run.args(["--env", variable]);
    }
    // Over what it may have been told above.
    for variable in ["LINES=25", "CODE=0", "ON_TERM=exit 143"] {
        run.args(["--env", variable]);
    }
    for label in labels {
        run.args(["--label", label]);
    }
    run.args(["--mount", &format!("type=bind,source={},target=/ledger", fleet.ledger().display())]);
    run.args([TEST_IMAGE, "/bin/sh", "-c", super::jobs::SCRIPT]);
    output(run).await?;
    Ok(())
}
