//! Asking a task to end, and no longer telling of one that has.

use std::time::Duration;

use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::{ExecutionId, Observed};

use crate::client::Client;
use crate::config::Options;
use crate::error::Trouble;
use crate::observe::observe;

/// What ECS then says of the task, as its `stoppedReason`.
const REASON: &str = "Stopped by Gantry";

/// SIGTERM, the definition's `stopTimeout`, SIGKILL: done by ECS.
pub(crate) async fn stop(client: &Client, options: &Options, id: &ExecutionId) -> Result<(), Failure> {
    if client.memory.ended.get(&id.0).is_some() || client.memory.removed.get(&id.0).is_some() {
        return Ok(());
    }
    let request = client.ecs.stop_task().cluster(&client.connection.cluster).task(&id.0).reason(REASON);
    let Err(error) = request.send().await else { return Ok(()) };
    let trouble = Trouble::of("StopTask", &error);
    let is_gone =
        trouble.says("InvalidParameterException", "not found") || trouble.says("ClientException", "not found");
    // A task that was launched just now may not be known everywhere yet: it runs on.
    let is_young =
        client.memory.launched.get(&id.0).is_some_and(|ago| ago < Duration::from_secs(options.settle_seconds));
    if is_gone && !is_young { Ok(()) } else { Err(trouble.failure()) }
}

/// ECS removes what ended, by itself and about an hour later: there is nothing to ask of it. This process does not tell
/// of the task any more.
pub(crate) async fn remove(client: &Client, options: &Options, id: &ExecutionId) -> Result<(), Failure> {
    if client.memory.ended.get(&id.0).is_none()
        && let Some((_, Observed::Starting | Observed::Running)) =
            observe(client, options, std::slice::from_ref(id)).await?.into_iter().next()
    {
        return Err(Failure::new(FailureClass::BackendError, format!("the task {id} runs: stop it first")));
    }
    client.memory.removed.note(&id.0);
    Ok(())
}
