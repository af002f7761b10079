//! The memory of processes, as the kernel tells it.

use std::collections::BTreeMap;

use anyhow::Context;

/// Resident memory of some processes over a time, in KiB.
#[derive(Debug, Default)]
pub(super) struct Memory {
    samples: BTreeMap<&'static str, Vec<u64>>,
}

impl Memory {
    /// Reads it of one process.
    pub(super) fn sample(&mut self, name: &'static str, pid: u32) -> anyhow::Result<()> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("the {name} has ended by itself"))?;
        self.samples.entry(name).or_default().push(resident(&status).context("the kernel tells no VmRSS")?);
        Ok(())
    }

    /// The middle of what was read of each.
    pub(super) fn medians(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.samples.iter().map(|(name, samples)| {
            let mut samples = samples.clone();
            samples.sort_unstable();
            (*name, samples[samples.len() / 2])
        })
    }
}

fn resident(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_found_in_what_the_kernel_says() {
        assert_eq!(resident("Name:\tx\nVmHWM:\t   900 kB\nVmRSS:\t   812 kB\n"), Some(812));
        let mut memory = Memory::default();
        memory.sample("itself", std::process::id()).expect("this process runs");
        assert!(memory.medians().all(|(_, kib)| kib > 100));
    }
}
