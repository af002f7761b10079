//! CPU and memory: what a job asks for, as what ECS sells.

use gantry_core::spec::ContainerSpec;
use gantry_core::{Failure, FailureClass};

use crate::config::Options;

/// CPU units of one CPU.
const UNITS: f64 = 1024.0;

/// Fargate's sizes on Linux: CPU units, the least and the most memory, and the step between, in MiB. Source: "Task CPU
/// and memory", Amazon ECS Developer Guide, task definition parameters for Fargate. 256 units have 512, 1,024 and
/// 2,048 MiB, which is two steps.
const FARGATE: [(u32, u32, u32, u32); 8] = [
    (256, 512, 1_024, 512),
    (256, 2_048, 2_048, 1_024),
    (512, 1_024, 4_096, 1_024),
    (1_024, 2_048, 8_192, 1_024),
    (2_048, 4_096, 16_384, 1_024),
    (4_096, 8_192, 30_720, 1_024),
    (8_192, 16_384, 61_440, 4_096),
    (16_384, 32_768, 122_880, 8_192),
];

/// What a task gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    /// CPU units: 1,024 are one CPU.
    pub(crate) cpu: u32,
    /// Memory in MiB.
    pub(crate) memory: u32,
}

/// The size of a job's task: on Fargate the smallest that is sold and holds what the job asks for.
pub(crate) fn of(options: &Options, spec: &ContainerSpec) -> Result<Size, Failure> {
    let cpus = spec.cpu_limit.unwrap_or(options.default_cpus);
    // Up, so that a job never has less than it asks for; rounded before, because 0.29 * 1024 has a tail.
    let cpu = ((cpus * UNITS * 1e6).round() / 1e6).ceil() as u32;
    let memory = spec.memory_limit_mb.unwrap_or(options.default_memory_mb);
    if !options.is_fargate() {
        // What a machine of the cluster may have; whether it has, ECS says at launch.
        return Ok(Size { cpu, memory });
    }
    let fits = FARGATE.iter().find(|(units, _, most, _)| cpu <= *units && memory <= *most);
    let Some((cpu, least, _, step)) = fits else {
        let message = format!(
            "cpu_limit {cpus} with memory_limit_mb {memory} is more than a Fargate task can have: up to 16 CPUs with 122880 MiB"
        );
        return Err(Failure::new(FailureClass::InvalidSpec, message));
    };
    Ok(Size { cpu: *cpu, memory: memory.next_multiple_of(*step).max(*least) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn size(cpus: Option<f64>, memory: Option<u32>, config: serde_json::Value) -> Result<(u32, u32), Failure> {
        let spec = serde_json::from_value(json!({"image": "i", "cpu_limit": cpus, "memory_limit_mb": memory}));
        let options: Options = serde_json::from_value(config).expect("options");
        of(&options, &spec.expect("a spec")).map(|size| (size.cpu, size.memory))
    }

    #[test]
    fn the_next_size_that_is_sold() {
        let table = [
            (None, None, (256, 512)),
            (Some(0.01), Some(6), (256, 512)),
            (Some(0.25), Some(513), (256, 1_024)),
            (Some(0.25), Some(1_025), (256, 2_048)),
            (Some(0.25), Some(2_049), (512, 3_072)),
            (Some(0.26), Some(512), (512, 1_024)),
            (Some(0.5), Some(4_097), (1_024, 5_120)),
            (Some(1.0), None, (1_024, 2_048)),
            (Some(1.5), Some(1_000), (2_048, 4_096)),
            (None, Some(30_720), (4_096, 30_720)),
            (None, Some(30_721), (8_192, 32_768)),
            (Some(8.0), Some(16_385), (8_192, 20_480)),
            (Some(8.01), None, (16_384, 32_768)),
            (Some(16.0), Some(122_880), (16_384, 122_880)),
        ];
        for (cpus, memory, expected) in table {
            let got = size(cpus, memory, json!({})).expect("it fits");
            assert_eq!(got, expected, "{cpus:?} CPUs, {memory:?} MiB");
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        for (cpus, memory) in [(Some(16.01), None), (None, Some(122_881)), (Some(32.0), Some(1))] {
            assert_eq!(size(cpus, memory, json!({})).expect_err("too large").class, FailureClass::InvalidSpec);
        }
    }

    #[test]
    fn own_machines_have_any_size() {
        assert_eq!(size(Some(0.29), Some(777), json!({"launch_type": "EC2"})), Ok((297, 777)));
        assert_eq!(size(Some(64.0), Some(500_000), json!({"launch_type": "EC2"})), Ok((65_536, 500_000)));
    }
}
