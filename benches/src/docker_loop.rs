//! The bare loop: what an engine does when nobody keeps books. The same calls as the executor makes for a job:
//! create, start, wait for the end by the event stream, inspect, logs, remove. What decides what a container costs an engine
//! is as the executor has it: the limits and the log driver.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions,
};
use futures::{StreamExt, TryStreamExt};
use gantry_servers::TEST_IMAGE;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::fleet::Fleet;

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

/// Containers per second.
pub(crate) async fn run(fleet: &Fleet, containers: usize, concurrency: u32) -> anyhow::Result<f64> {
    let docker = fleet.docker()?.negotiate_version().await?;
    let waiting = Waiting::default();
    let _events = AbortOnDropHandle::new(tokio::spawn(wake(docker.clone(), waiting.clone())));
    let began = Instant::now();
    futures::stream::iter(0..containers)
        .map(|_| one(&docker, &waiting))
        .buffer_unordered(usize::try_from(concurrency)?)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(containers as f64 / began.elapsed().as_secs_f64())
}

async fn wake(docker: Docker, waiting: Waiting) {
    let filters = HashMap::from([("type", vec!["container"]), ("event", vec!["die"])]);
    let mut events = docker.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
    while let Some(Ok(event)) = events.next().await {
        let name = event.actor.and_then(|actor| actor.attributes).and_then(|mut attributes| attributes.remove("name"));
        let ended = name.and_then(|name| waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(&name));
        if let Some(ended) = ended {
            // Whoever waited may have given up.
            let _ = ended.send(());
        }
    }
}

async fn one(docker: &Docker, waiting: &Waiting) -> anyhow::Result<()> {
    let name = format!("bare-{}", Uuid::now_v7().simple());
    let (ended, end) = oneshot::channel();
    waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(name.clone(), ended);
    let body = ContainerCreateBody {
        image: Some(TEST_IMAGE.to_owned()),
        cmd: Some(vec!["true".to_owned()]),
        host_config: Some(HostConfig {
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            pids_limit: Some(512),
            log_config: Some(log_config()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    docker.create_container(Some(options), body).await.context("create")?;
    docker.start_container(&name, None::<StartContainerOptions>).await.context("start")?;
    end.await.context("the event stream ended")?;
    docker.inspect_container(&name, None::<InspectContainerOptions>).await.context("inspect")?;
    let logs = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).build();
    docker.logs(&name, Some(logs)).try_collect::<Vec<_>>().await.context("logs")?;
    let volumes_too = RemoveContainerOptionsBuilder::new().v(true).build();
    docker.remove_container(&name, Some(volumes_too)).await.context("remove")?;
    Ok(())
}

fn log_config() -> HostConfigLogConfig {
    let options = [("mode", "blocking"), ("max-size", "1000000t"), ("max-file", "1"), ("compress", "false")];
    HostConfigLogConfig {
        typ: Some("local".to_owned()),
        config: Some(HashMap::from(options.map(|(key, value)| (key.to_owned(), value.to_owned())))),
    }
}
