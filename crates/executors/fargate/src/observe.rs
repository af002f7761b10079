//! The states of tasks, a hundred at a time, and what is not to be seen.

use std::time::Duration;

use aws_sdk_ecs::types::Task;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use gantry_core::Failure;
use gantry_worker::executor::{ExecutionId, Observed};

use crate::client::Client;
use crate::config::Options;
use crate::end;
use crate::error::Trouble;

/// The most that DescribeTasks takes.
const TASKS: usize = 100;
/// Requests at a time.
const CONCURRENCY: usize = 4;

/// Tasks as ECS knows them, and those that it says it does not have.
pub(crate) struct Described {
    pub(crate) tasks: Vec<Task>,
    pub(crate) missing: Vec<String>,
}

pub(crate) async fn describe(client: &Client, arns: &[String]) -> Result<Described, Failure> {
    let answers: Vec<_> = stream::iter(arns.chunks(TASKS).map(<[String]>::to_vec))
        .map(async |arns| {
            let request = client.ecs.describe_tasks().cluster(&client.connection.cluster).set_tasks(Some(arns));
            request.send().await.map_err(|error| Trouble::of("DescribeTasks", &error).failure())
        })
        .buffered(CONCURRENCY)
        .try_collect()
        .await?;
    let mut described = Described { tasks: Vec::new(), missing: Vec::new() };
    for answer in answers {
        described.tasks.extend(answer.tasks.unwrap_or_default());
        // Another reason than this says nothing about the task.
        let missing =
            answer.failures.unwrap_or_default().into_iter().filter(|f| f.reason.as_deref() == Some("MISSING"));
        described.missing.extend(missing.filter_map(|failure| failure.arn));
    }
    Ok(described)
}

pub(crate) async fn observe(
    client: &Client,
    options: &Options,
    ids: &[ExecutionId],
) -> Result<Vec<(ExecutionId, Observed)>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let (removed, asked): (Vec<_>, Vec<_>) =
        ids.iter().map(|id| id.0.clone()).partition(|id| client.memory.removed.get(id).is_some());
    let mut states: Vec<_> = removed.into_iter().map(|id| (ExecutionId(id), Observed::Gone)).collect();
    let described = describe(client, &asked).await?;
    for task in &described.tasks {
        if let Some(arn) = &task.task_arn {
            client.memory.missing.forget(arn);
            states.push((ExecutionId(arn.clone()), state(client, arn, task)));
        }
    }
    for arn in described.missing {
        // Left out of the answer while it may only be slow to show: that is unknown.
        if client.memory.missing.note(&arn) >= Duration::from_secs(options.settle_seconds) {
            states.push((ExecutionId(arn), Observed::Gone));
        }
    }
    Ok(states)
}

fn state(client: &Client, arn: &str, task: &Task) -> Observed {
    let state = of(task);
    match state {
        Observed::Ended(_) => {
            client.memory.ended.note(arn);
            client.memory.alive.forget(arn);
        }
        _ => {
            client.memory.alive.note(arn);
        }
    }
    state
}

/// Source: "Amazon ECS task lifecycle", Amazon ECS Developer Guide. A task is over when it is `STOPPED`, and not before:
/// on the way there exit codes come one by one.
fn of(task: &Task) -> Observed {
    match task.last_status.as_deref() {
        Some("STOPPED" | "DELETED") => Observed::Ended(end::of(task)),
        Some("RUNNING") => Observed::Running,
        Some("DEACTIVATING" | "STOPPING" | "DEPROVISIONING") if task.started_at.is_some() => Observed::Running,
        _ => Observed::Starting,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_ecs::primitives::DateTime;

    use super::*;

    #[test]
    fn every_status_is_a_state() {
        let started = Some(DateTime::from_secs(1));
        let table = [
            ("PROVISIONING", None, "starting"),
            ("PENDING", None, "starting"),
            ("ACTIVATING", None, "starting"),
            ("RUNNING", started, "running"),
            ("DEACTIVATING", started, "running"),
            ("STOPPING", started, "running"),
            ("DEPROVISIONING", started, "running"),
            ("STOPPING", None, "starting"),
            ("DEPROVISIONING", None, "starting"),
            ("STOPPED", started, "ended"),
            ("STOPPED", None, "ended"),
            ("DELETED", None, "ended"),
        ];
        for (status, started, expected) in table {
            let got = match of(&Task::builder().last_status(status).set_started_at(started).build()) {
                Observed::Starting => "starting",
                Observed::Running => "running",
                Observed::Ended(_) => "ended",
                Observed::Gone => "gone",
            };
            assert_eq!(got, expected, "{status}");
        }
    }
}
