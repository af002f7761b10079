//! The body of a create request: what a job asks for, within what the host allows.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType};
use gantry_worker::executor::Launch;

use crate::config::Options;
use crate::labels;

/// The container of one launch.
pub(crate) fn body(options: &Options, launch: &Launch) -> ContainerCreateBody {
    let spec = &launch.spec.container;
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        working_dir: spec.working_dir.clone(),
        env: Some(spec.environment.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        labels: Some(labels::of(launch)),
        host_config: Some(host_config(options, launch)),
        ..Default::default()
    }
}

fn host_config(options: &Options, launch: &Launch) -> HostConfig {
    let spec = &launch.spec.container;
    let memory = spec.memory_limit_mb.map(|mib| i64::from(mib) * 1024 * 1024);
    HostConfig {
        // Rounded, because 0.29 * 1e9 is a little less than 290,000,000.
        nano_cpus: spec.cpu_limit.map(|cpus| (cpus * 1e9).round() as i64),
        memory,
        // Memory and swap together: without this the container gets as much swap again.
        memory_swap: memory,
        pids_limit: Some(i64::from(options.pids_limit)),
        privileged: Some(false),
        security_opt: Some(vec!["no-new-privileges".into()]),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(options.capabilities.clone()),
        mounts: Some(spec.mounts.iter().map(bind).collect()),
        network_mode: spec.network.clone().or_else(|| options.network.clone()),
        log_config: Some(log_config()),
        ..Default::default()
    }
}

fn bind(mount: &gantry_core::spec::Mount) -> Mount {
    // A mount rather than a bind: the engine would create a bind's missing source, as root.
    Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.source.clone()),
        target: Some(mount.target.clone()),
        read_only: Some(!mount.writable),
        ..Default::default()
    }
}

/// The whole output in one file that is kept as it is, whatever the engine's default driver and its options:
/// a position in the output must stay a position. The driver is `local`, because `json-file` replaces every
/// byte that is not UTF-8, and each character that 16 KiB of a line happen to end in.
fn log_config() -> HostConfigLogConfig {
    let options = [("mode", "blocking"), ("max-size", "1000000t"), ("max-file", "1"), ("compress", "false")];
    HostConfigLogConfig {
        typ: Some("local".into()),
        config: Some(HashMap::from(options.map(|(key, value)| (key.into(), value.into())))),
    }
}
