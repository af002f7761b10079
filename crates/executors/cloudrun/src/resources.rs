//! CPU and memory in the steps that Cloud Run sells them in.
//!
//! Sources: "Configure CPU limits for jobs" and "Configure memory limits for jobs" in Cloud Run's documentation.

use gantry_core::spec::ContainerSpec;
use gantry_core::{Failure, FailureClass};

/// A number of CPUs, and the least and the most memory in MiB that goes with it.
const STEPS: [(u32, u32, u32); 5] =
    [(1, 512, 4096), (2, 512, 8192), (4, 2048, 16384), (6, 4096, 24576), (8, 4096, 32768)];

/// What a container gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpus: u32,
    /// In MiB.
    pub(crate) memory: u32,
}

impl Resources {
    /// At least what the job asks for: rounded up, because less could break it. None if it asks for nothing: then
    /// Cloud Run gives 1 CPU and 512 MiB.
    pub(crate) fn of(spec: &ContainerSpec) -> Result<Option<Self>, Failure> {
        if spec.cpu_limit.is_none() && spec.memory_limit_mb.is_none() {
            return Ok(None);
        }
        let (cpus, memory) = (spec.cpu_limit.unwrap_or(0.0), spec.memory_limit_mb.unwrap_or(0));
        let (most_cpus, _, most_memory) = STEPS[STEPS.len() - 1];
        if cpus > f64::from(most_cpus) {
            return Err(invalid(format!("cpu_limit: Cloud Run has at most {most_cpus} CPUs, not {cpus}")));
        }
        if memory > most_memory {
            return Err(invalid(format!("memory_limit_mb: Cloud Run has at most {most_memory} MiB, not {memory}")));
        }
        let fits = |(has, _, most): &&(u32, u32, u32)| f64::from(*has) >= cpus && *most >= memory;
        let (cpus, least, _) = STEPS.iter().find(fits).expect("the last step has the most of both");
        Ok(Some(Self { cpus: *cpus, memory: memory.max(*least) }))
    }
}

fn invalid(message: String) -> Failure {
    Failure::new(FailureClass::InvalidSpec, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn given(cpus: Option<f64>, memory: Option<u32>) -> Result<Option<(u32, u32)>, Failure> {
        let spec = json!({ "image": "i", "cpu_limit": cpus, "memory_limit_mb": memory });
        let spec = serde_json::from_value(spec).expect("a spec");
        Ok(Resources::of(&spec)?.map(|resources| (resources.cpus, resources.memory)))
    }

    #[test]
    fn limits_are_rounded_up_to_what_there_is() {
        for (cpus, memory, expected) in [
            (None, None, None),
            (Some(0.5), None, Some((1, 512))),
            (Some(1.0), Some(100), Some((1, 512))),
            (None, Some(513), Some((1, 513))),
            (None, Some(4096), Some((1, 4096))),
            (None, Some(4097), Some((2, 4097))),
            (Some(3.0), None, Some((4, 2048))),
            (Some(4.0), Some(16385), Some((6, 16385))),
            (Some(7.5), Some(64), Some((8, 4096))),
            (Some(8.0), Some(32768), Some((8, 32768))),
        ] {
            assert_eq!(given(cpus, memory), Ok(expected), "{cpus:?} CPUs, {memory:?} MiB");
        }
    }

    #[test]
    fn more_than_there_is_is_refused_by_name() {
        for (cpus, memory, named) in [(Some(8.01), None, "cpu_limit"), (None, Some(32769), "memory_limit_mb")] {
            let failure = given(cpus, memory).expect_err("more than there is");
            assert_eq!(failure.class, FailureClass::InvalidSpec);
            assert!(failure.message.contains(named), "{failure}");
        }
    }
}
