//! What containers use, sampled now and then: the engine keeps nothing of it after the end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use chrono::{DateTime, Utc};
use futures::StreamExt;

use crate::engine::Engine;

/// A container is first sampled when it has been seen running for this long: short ones cost nothing.
const FIRST_AFTER: Duration = Duration::from_secs(1);
/// The time between two samples of a container.
const INTERVAL: Duration = Duration::from_secs(5);
/// Requests at a time, and engine.
const CONCURRENCY: usize = 4;

/// The samples of the containers that this process watches.
#[derive(Default)]
pub(crate) struct Usage {
    containers: Mutex<HashMap<String, Sampled>>,
    sampling: AtomicBool,
}

struct Sampled {
    due: Instant,
    peak_memory: Option<u64>,
    cpu: Option<Cpu>,
}

/// CPU time used up to a time of the engine's clock.
#[derive(Clone, Copy)]
struct Cpu {
    nanoseconds: u64,
    at: DateTime<Utc>,
}

impl Usage {
    /// The highest memory use seen, in bytes.
    pub(crate) fn peak_memory(&self, id: &str) -> Option<u64> {
        self.lock().get(id)?.peak_memory
    }

    /// The mean CPU use between the container's start and its last sample, in percent of one CPU.
    pub(crate) fn cpu_percent(&self, id: &str, started_at: DateTime<Utc>) -> Option<f64> {
        let cpu = self.lock().get(id)?.cpu?;
        let run = (cpu.at - started_at).num_nanoseconds().filter(|run| *run > 0)?;
        Some(cpu.nanoseconds as f64 / run as f64 * 100.0)
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Those of the running containers whose next sample is due.
    fn due(&self, running: &[String]) -> Vec<String> {
        let now = Instant::now();
        let mut containers = self.lock();
        let mut due = Vec::new();
        for id in running {
            let new = || Sampled { due: now + FIRST_AFTER, peak_memory: None, cpu: None };
            let sampled = containers.entry(id.clone()).or_insert_with(new);
            if sampled.due <= now {
                sampled.due = now + INTERVAL;
                due.push(id.clone());
            }
        }
        due
    }

    fn record(&self, id: &str, stats: &ContainerStatsResponse) {
        let mut containers = self.lock();
        // Forgotten meanwhile: it is gone.
        let Some(sampled) = containers.get_mut(id) else { return };
        let memory = stats.memory_stats.as_ref();
        // The kernel's own high-water mark where it keeps one (cgroup v1), else what is used right now.
        let memory = memory.and_then(|memory| memory.max_usage.max(memory.usage));
        sampled.peak_memory = sampled.peak_memory.max(memory);
        let nanoseconds = stats.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
        let at = stats.read.as_ref().and_then(|at| at.parse().ok());
        if let (Some(nanoseconds @ 1..), Some(at)) = (nanoseconds, at) {
            sampled.cpu = Some(Cpu { nanoseconds, at });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sampled>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples those of the running containers that are due, in the background: observing must not wait for it.
pub(crate) fn sample(engine: &Arc<Engine>, docker: &Docker, running: &[String]) {
    if engine.usage.sampling.swap(true, Ordering::AcqRel) {
        return;
    }
    let round = Round(Arc::clone(engine));
    let due = engine.usage.due(running);
    if due.is_empty() {
        return;
    }
    let docker = docker.clone();
    tokio::spawn(async move {
        let (docker, usage) = (&docker, &round.0.usage);
        futures::stream::iter(due)
            .for_each_concurrent(CONCURRENCY, async |id| {
                let once = StatsOptionsBuilder::new().stream(false).one_shot(true).build();
                // A sample that cannot be had, mostly of a container that has just ended, is left out.
                if let Some(Ok(stats)) = std::pin::pin!(docker.stats(&id, Some(once))).next().await {
                    usage.record(&id, &stats);
                }
            })
            .await;
    });
}

/// One round of samples at a time, also when its task is aborted.
struct Round(Arc<Engine>);

impl Drop for Round {
    fn drop(&mut self) {
        self.0.usage.sampling.store(false, Ordering::Release);
    }
}
