//! How fast the mock is by itself, on one thread: `cargo run --release --example throughput -- [DIR]`.
//! Gantry's own numbers mean something only while they are well below these.

#![expect(clippy::disallowed_methods, reason = "measures the executor itself")]

use std::time::{Duration, Instant};

use gantry_core::host::Host;
use gantry_core::naming::external_name;
use gantry_core::{ExecutorType, FleetId, HostId, JobId};
use gantry_executor_mock::{MockExecutor, ledger};
use gantry_worker::executor::{Executor, Launch};
use serde_json::json;

const CONTAINERS: usize = 20_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let temporary = tempfile::tempdir()?;
    let dir = std::env::args_os().nth(1).map_or_else(|| temporary.path().join("engine"), Into::into);
    let host = Host {
        id: HostId::new(),
        name: "mock".into(),
        executor_type: ExecutorType::Mock,
        connection_config: json!({ "dir": dir }),
        executor_config: json!({"duration": "1h"}),
    };
    let executor = MockExecutor::new();
    executor.check(&host).await?;
    let fleet = FleetId::new();
    let spec: gantry_core::spec::ResolvedSpec = serde_json::from_value(json!({"image": "any"}))?;

    let began = Instant::now();
    let mut ids = Vec::with_capacity(CONTAINERS);
    for _ in 0..CONTAINERS {
        let (job, attempt) = (JobId::new(), 1);
        let launch = Launch { name: external_name(fleet, job, attempt), fleet, job, attempt, spec: spec.clone() };
        ids.push(executor.launch(&host, &launch).await?);
    }
    tell("launch", began.elapsed());
    let began = Instant::now();
    executor.observe(&host, &ids).await?;
    tell("observe, running", began.elapsed());
    let began = Instant::now();
    executor.list_owned(&host, fleet).await?;
    tell("list_owned", began.elapsed());
    let began = Instant::now();
    for id in &ids {
        executor.stop(&host, id, Duration::ZERO).await?;
    }
    tell("stop", began.elapsed());
    let began = Instant::now();
    executor.observe(&host, &ids).await?;
    tell("observe, ended", began.elapsed());
    let began = Instant::now();
    for id in &ids {
        executor.logs(&host, id, None, 65_536).await?;
    }
    tell("logs", began.elapsed());
    let began = Instant::now();
    for id in &ids {
        executor.remove(&host, id).await?;
    }
    tell("remove", began.elapsed());
    println!("at most {} at once, by the ledger", ledger::read(&dir)?.max_concurrency());
    Ok(())
}

fn tell(what: &str, took: Duration) {
    println!("{what:<18}{:>10.0} a second", CONTAINERS as f64 / took.as_secs_f64());
}
