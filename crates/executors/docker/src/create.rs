//! The body of a create request: what a job asks for, within what the host allows.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
};
use gantry_core::gpus::Gpus;
use gantry_core::spec::ContainerSpec;
use gantry_worker::executor::Launch;

use crate::config::Options;
use crate::{image, labels};

/// The container of one launch.
pub(crate) fn body(options: &Options, launch: &Launch) -> ContainerCreateBody {
    let spec = &launch.spec.container;
    ContainerCreateBody {
        // With its tag, so that the engine does not take a name for the beginning of some image's id.
        image: Some(image::with_tag(&spec.image)),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        working_dir: spec.working_dir.clone(),
        env: Some(spec.environment.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        user: options.user_of(spec).map(str::to_owned),
        labels: Some(labels::of(options, launch)),
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
        readonly_rootfs: Some(spec.read_only_root),
        tmpfs: tmpfs(spec),
        ulimits: Some(ulimits(options)),
        device_requests: spec.gpus.map(|gpus| vec![gpu_request(gpus)]),
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

/// Most programs need some place to write to; `/tmp` is the one that all expect.
fn tmpfs(spec: &ContainerSpec) -> Option<HashMap<String, String>> {
    let is_mounted = spec.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == "/tmp");
    (spec.read_only_root && !is_mounted).then(|| HashMap::from([("/tmp".into(), "mode=1777".into())]))
}

fn ulimits(options: &Options) -> Vec<ResourcesUlimits> {
    let ulimit = |(name, limit): (&String, &crate::config::Ulimit)| {
        let (soft, hard) = limit.values();
        ResourcesUlimits { name: Some(name.clone()), soft: Some(soft), hard: Some(hard) }
    };
    options.ulimits.iter().map(ulimit).collect()
}

/// As `docker run --gpus`.
fn gpu_request(gpus: Gpus) -> DeviceRequest {
    let count = match gpus {
        Gpus::Count(count) => i64::from(count),
        Gpus::All(_) => -1,
    };
    DeviceRequest { count: Some(count), capabilities: Some(vec![vec!["gpu".into()]]), ..Default::default() }
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
