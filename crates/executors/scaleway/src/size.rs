//! How large a run is: what the job asks for, rounded up to what the service offers.

use gantry_core::spec::ContainerSpec;
use gantry_core::{Failure, FailureClass};

use crate::config::Options;
use crate::wire::Resource;

/// The service's own bounds: thousandths of a vCPU, and MiB.
const LEAST: Size = Size { cpu: 70, memory: 128 };
const MOST: Size = Size { cpu: 6_000, memory: 16_384 };

/// CPU in thousandths of a vCPU, and memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size {
    pub(crate) memory: u32,
    pub(crate) cpu: u32,
}

/// What the job asks for; more than the service has anywhere is refused (`invalid_spec`).
pub(crate) fn wanted(options: &Options, spec: &ContainerSpec) -> Result<Size, Failure> {
    let cpu = match spec.cpu_limit {
        // Rounded up, but 0.28 * 1000 is a little more than 280.
        Some(cpus) => (cpus * 1000.0 - 1e-6).ceil() as u32,
        // Whatever CPU comes with the memory: more of it would only cost more.
        None if spec.memory_limit_mb.is_some() => LEAST.cpu,
        None => options.cpu_limit,
    };
    let memory = spec.memory_limit_mb.unwrap_or(options.memory_limit);
    if cpu > MOST.cpu {
        let message = format!("cpu_limit: a run has at most {} CPUs here", f64::from(MOST.cpu) / 1000.0);
        return Err(Failure::new(FailureClass::InvalidSpec, message));
    }
    if memory > MOST.memory {
        let message = format!("memory_limit_mb: a run has at most {} MiB here", MOST.memory);
        return Err(Failure::new(FailureClass::InvalidSpec, message));
    }
    Ok(Size { cpu: cpu.max(LEAST.cpu), memory: memory.max(LEAST.memory) })
}

/// The smallest size on offer that has as much. Where the service names no sizes, it takes any within its bounds.
pub(crate) fn fitting(offers: &[Size], wanted: Size) -> Result<Size, Failure> {
    if offers.is_empty() {
        return Ok(wanted);
    }
    let fits = |offer: &&Size| offer.cpu >= wanted.cpu && offer.memory >= wanted.memory;
    offers.iter().filter(fits).min().copied().ok_or_else(|| {
        let message = format!(
            "no size of a run has {} thousandths of a CPU and {} MiB of memory here",
            wanted.cpu, wanted.memory
        );
        Failure::new(FailureClass::InvalidSpec, message)
    })
}

impl From<Resource> for Size {
    fn from(resource: Resource) -> Self {
        // Some sizes are given in whole MB, some in whole MiB; the service's own unit elsewhere is the number alone.
        let bytes = resource.memory_limit_bytes;
        let memory = if bytes.is_multiple_of(1 << 20) { bytes >> 20 } else { bytes / 1_000_000 };
        Self { cpu: resource.compute_limit_mvcpu, memory: u32::try_from(memory).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked(value: serde_json::Value) -> Result<Size, Failure> {
        let mut spec = json!({"image": "i"});
        spec.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
        wanted(&Options::default(), &serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn a_job_gets_at_least_what_it_asks_for() {
        assert_eq!(asked(json!({})), Ok(Size { cpu: 1_120, memory: 2_048 }));
        assert_eq!(asked(json!({"cpu_limit": 0.28, "memory_limit_mb": 6})), Ok(Size { cpu: 280, memory: 128 }));
        assert_eq!(asked(json!({"cpu_limit": 0.2801})), Ok(Size { cpu: 281, memory: 2_048 }));
        assert_eq!(asked(json!({"memory_limit_mb": 300})), Ok(Size { cpu: 70, memory: 300 }));
        assert_eq!(asked(json!({"cpu_limit": 0.01})).expect("valid").cpu, 70);
        assert!(asked(json!({"cpu_limit": 6.5})).expect_err("too much").message.contains("cpu_limit"));
        assert!(asked(json!({"memory_limit_mb": 20_000})).expect_err("too much").message.contains("memory_limit_mb"));
    }

    #[test]
    fn the_smallest_offer_that_fits_is_taken() {
        let offers = [(1_120, 2_048), (140, 256), (280, 256), (560, 1_024)].map(|(cpu, memory)| Size { cpu, memory });
        assert_eq!(fitting(&offers, Size { cpu: 70, memory: 200 }), Ok(Size { cpu: 140, memory: 256 }));
        assert_eq!(fitting(&offers, Size { cpu: 300, memory: 128 }), Ok(Size { cpu: 560, memory: 1_024 }));
        assert!(fitting(&offers, Size { cpu: 2_000, memory: 128 }).is_err());
        assert_eq!(fitting(&[], Size { cpu: 71, memory: 129 }), Ok(Size { cpu: 71, memory: 129 }));
        let mb = Size::from(Resource { compute_limit_mvcpu: 70, memory_limit_bytes: 128_000_000 });
        let mib = Size::from(Resource { compute_limit_mvcpu: 70, memory_limit_bytes: 128 << 20 });
        assert_eq!((mb.memory, mib.memory), (128, 128));
    }
}
