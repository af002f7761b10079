//! Whether a host can take jobs: its engine answers, and what its configuration names is there.

use std::path::PathBuf;

use bollard::models::SystemInfo;
use gantry_core::{Failure, FailureClass};
use gantry_worker::executor::Health;

use crate::config::Options;
use crate::engine::Engine;
use crate::error;

pub(crate) async fn check(engine: &Engine, options: &Options) -> Result<Health, Failure> {
    for registry in &options.registries {
        registry.check(&engine.secrets)?;
    }
    let info = info(engine).await?;
    let docker = engine.docker().await?;
    // `default` and another container's are ways to have a network, not names of one.
    if let Some(network) = options.network.as_ref().filter(|name| *name != "default" && !name.starts_with("container:"))
        && let Err(error) = docker.inspect_network(network, None).await
    {
        return Err(match error::answer(&error) {
            Some((404, _)) => {
                let remedy = format!("make it with `docker network create {network}` there");
                let message = format!("the engine has no network {network:?}, which `network` names: {remedy}");
                Failure::new(FailureClass::BackendError, message)
            }
            _ => error::failure("inspect the network", &error),
        });
    }
    let folder = info.docker_root_dir.as_ref().filter(|_| engine.is_local()).map(PathBuf::from);
    let free = engine.disk.check(folder, options.min_free_disk_mb).await?;
    Ok(Health { identity: identity_of(&info)?, detail: detail(&info, free) })
}

pub(crate) async fn identity(engine: &Engine) -> Result<String, Failure> {
    identity_of(&info(engine).await?)
}

async fn info(engine: &Engine) -> Result<SystemInfo, Failure> {
    match engine.docker().await?.info().await {
        Ok(info) => Ok(info),
        Err(error) => {
            engine.reconnect();
            Err(error::failure("info", &error))
        }
    }
}

/// The engine's id alone would not do: it lies in a file that is copied along with a machine's image, and that two
/// engines on one machine share.
fn identity_of(info: &SystemInfo) -> Result<String, Failure> {
    match (&info.id, &info.name, &info.docker_root_dir) {
        (Some(id), Some(name), Some(root)) => Ok(format!("{id}/{name}{root}")),
        _ => Err(Failure::new(FailureClass::BackendError, "info: the engine does not say which one it is")),
    }
}

fn detail(info: &SystemInfo, free: Option<u64>) -> String {
    let name = info.name.as_deref().unwrap_or("a machine without a name");
    let version = info.server_version.as_deref().unwrap_or("of unknown version");
    let cpus = info.ncpu.unwrap_or_default();
    let memory = info.mem_total.unwrap_or_default() >> 20;
    let disk = free.map(|free| format!(", {} GiB of disk free", free >> 10)).unwrap_or_default();
    format!("Docker {version} on {name}: {cpus} CPUs, {memory} MiB of memory{disk}")
}
