//! Tasks by name and by fleet.

use std::time::Duration;

use aws_sdk_ecs::types::{DesiredStatus, Task};
use gantry_core::{Failure, FleetId};
use gantry_worker::executor::{ExecutionId, Found, Owned};

use crate::client::Client;
use crate::config::Options;
use crate::error::{Kind, Trouble};
use crate::observe::describe;
use crate::owner;

/// What became of a launch under this name.
pub(crate) async fn find(client: &Client, options: &Options, name: &str) -> Result<Found, Failure> {
    let mut all = started_by(client, name, &DesiredStatus::Running).await?;
    if all.is_empty() {
        all = started_by(client, name, &DesiredStatus::Stopped).await?;
    }
    // More than one only if a launch was repeated beyond its token's time, which Gantry does not do.
    all.sort();
    let removed = |arn: &String| client.memory.removed.get(arn).is_some();
    if let Some(arn) = all.iter().find(|arn| !removed(arn)) {
        client.memory.absent.forget(name);
        return Ok(Found::Found(ExecutionId(arn.clone())));
    }
    let settle = Duration::from_secs(options.settle_seconds);
    if all.iter().any(removed) || client.memory.absent.note(name) >= settle {
        return Ok(Found::Absent);
    }
    Ok(Found::Unknown(format!("ECS shows no task of {name} yet, and may take {settle:?} to")))
}

async fn started_by(client: &Client, name: &str, status: &DesiredStatus) -> Result<Vec<String>, Failure> {
    match list(client, status, Some(name)).await {
        // "When you specify startedBy as the filter, it must be the only filter": where ECS insists, all are looked at.
        Err(trouble) if trouble.kind == Kind::Refused && trouble.code == "InvalidParameterException" => {
            let all = list(client, status, None).await.map_err(Trouble::failure)?;
            let described = describe(client, &all).await?;
            let named = described.tasks.into_iter().filter(|task| task.started_by.as_deref() == Some(name));
            Ok(named.filter_map(|task| task.task_arn).collect())
        }
        other => other.map_err(Trouble::failure),
    }
}

/// Every task of this fleet. ECS cannot filter by group: all of the cluster's tasks are looked at.
pub(crate) async fn owned(client: &Client, fleet: FleetId) -> Result<Vec<Owned>, Failure> {
    let mut arns = list(client, &DesiredStatus::Running, None).await.map_err(Trouble::failure)?;
    arns.extend(list(client, &DesiredStatus::Stopped, None).await.map_err(Trouble::failure)?);
    // One that stops between the two requests is in both.
    arns.sort();
    arns.dedup();
    arns.retain(|arn| client.memory.removed.get(arn).is_none());
    let described = describe(client, &arns).await?;
    Ok(described.tasks.iter().filter_map(|task| owned_by(task, fleet)).collect())
}

fn owned_by(task: &Task, fleet: FleetId) -> Option<Owned> {
    let (name, job, attempt) = owner::of(task, fleet)?;
    let running = !matches!(task.last_status(), Some("STOPPED" | "DELETED"));
    Some(Owned { id: ExecutionId(task.task_arn.clone()?), name, job, attempt, running })
}

async fn list(client: &Client, status: &DesiredStatus, name: Option<&str>) -> Result<Vec<String>, Trouble> {
    let request = client.ecs.list_tasks().cluster(&client.connection.cluster).set_started_by(name.map(str::to_owned));
    // `RUNNING` is what ECS takes where none is given.
    let other = (*status != DesiredStatus::Running).then(|| status.clone());
    let mut pages = request.set_desired_status(other).into_paginator().send();
    let mut arns = Vec::new();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|error| Trouble::of("ListTasks", &error))?;
        arns.extend(page.task_arns.unwrap_or_default());
    }
    Ok(arns)
}
