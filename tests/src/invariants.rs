//! What holds of every fleet at every moment, and is therefore checked whenever one is dropped: the promises that do
//! not depend on what the test was about.

#![expect(clippy::disallowed_methods, reason = "asks the backend itself, as nobody of the fleet")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use gantry_core::host::Host;
use gantry_core::{ExecutorType, FleetId, HostId};
use gantry_executor_docker::DockerExecutor;
use gantry_executor_mock::ledger;
use gantry_testkit::{TestDocker, eventually};
use gantry_worker::executor::Executor as _;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

/// Each gives the rows that break it, in words.
const RULES: [(&str, &str); 7] = [
    (
        "a host counts the slots that its attempts hold",
        "select format('host %s counts %s, and %s are held', h.name, h.current_job_count, n.held)
         from executor_hosts h cross join lateral (
             select count(*) as held from container_executions e where e.executor_host_id = h.id and e.slot_held) n
         where h.current_job_count <> n.held",
    ),
    (
        "no host is above its limit",
        "select format('host %s: %s of %s', name, current_job_count, max_concurrent_jobs) from executor_hosts
         where current_job_count > max_concurrent_jobs",
    ),
    (
        "a job that has ended has one terminal event, and one that has not has none",
        "select format('job %s is %s with %s', j.id, j.status, n.ends) from container_jobs j cross join lateral (
             select count(*) as ends from job_events e
             where e.job_id = j.id and e.kind in ('completed', 'failed', 'timeout', 'cancelled')) n
         where n.ends <> case when j.status in ('pending', 'running') then 0 else 1 end",
    ),
    (
        "its terminal event tells its status",
        "select format('job %s is %s, its event says %s', j.id, j.status, e.kind) from container_jobs j
         join job_events e on e.job_id = j.id and e.kind in ('completed', 'failed', 'timeout', 'cancelled')
         where e.kind <> j.status::text",
    ),
    (
        "a running job has one open attempt, any other none",
        "select format('job %s is %s with %s', j.id, j.status, n.open) from container_jobs j cross join lateral (
             select count(*) as open from container_executions e where e.job_id = j.id and e.ended_at is null) n
         where n.open <> case when j.status = 'running' then 1 else 0 end",
    ),
    (
        "attempts are numbered from 1 to the job's count",
        "select format('job %s: %s of %s', j.id, n.attempts, j.attempt) from container_jobs j cross join lateral (
             select count(*) as attempts from container_executions e where e.job_id = j.id) n
         where n.attempts <> j.attempt",
    ),
    (
        "what is named is there",
        "select format('%s of %s names what is not there', n.what, n.id) from (
             select 'a spec', s.job_id, exists (select from container_jobs j where j.id = s.job_id and j.tenant_id = s.tenant_id)
             from container_job_specs s
             union all
             select 'an event', job_id, exists (select from container_jobs where id = job_id) from job_events
             union all
             select 'an attempt', job_id, exists (select from container_jobs where id = job_id)
                 and exists (select from executor_hosts where id = executor_host_id)
                 and exists (select from workers where id = worker_id)
             from container_executions
             union all
             select 'the project', j.id, exists (select from projects p where p.id = j.project_id and p.tenant_id = j.tenant_id)
             from container_jobs j
             union all
             select 'the host', id, executor_host_id is null or exists (select from executor_hosts h where h.id = executor_host_id)
             from container_jobs) n(what, id, is_there)
         where not n.is_there",
    ),
];

/// The same, of a fleet from which nothing is removed.
const PAID: (&str, &str) = (
    "each attempt that has ended is paid for once",
    "select format('%s ended, and %s are counted', n.ended, n.counted) from (
         select (select count(*) from container_executions where ended_at is not null) as ended,
             (select coalesce(sum(runs), 0) from cost_days) as counted) n
     where n.counted <> n.ended",
);

/// Checks, after removing the containers that a fleet left on the test's engine. On a thread and a runtime of its
/// own, because it is called where nothing can be awaited.
///
/// # Panics
/// Where a promise is broken, unless the test is failing already.
pub(crate) fn check(database: String, folder: &Path, on_engine: Option<FleetId>, forgets: bool) {
    let ledger = ledger::read(folder).ok();
    let checked = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            if let Some(fleet) = on_engine {
                remove_containers(fleet).await;
            }
            check_rows(&database, forgets).await;
        });
    })
    .join();
    if std::thread::panicking() {
        return;
    }
    if let Err(broken) = checked {
        std::panic::resume_unwind(broken);
    }
    // No ledger: nothing was simulated.
    if let Some(ledger) = ledger {
        let twice: Vec<_> = ledger.starts().into_iter().filter(|(_, starts)| *starts > 1).collect();
        assert!(twice.is_empty(), "attempts that launched more than one container: {twice:?}");
        assert_eq!(ledger.alive_twice(), BTreeSet::new(), "jobs with two containers alive at once");
    }
}

async fn check_rows(database: &str, forgets: bool) {
    let mut connection = PgConnection::connect(database).await.expect("Postgres answers");
    for (rule, sql) in RULES.into_iter().chain((!forgets).then_some(PAID)) {
        let broken: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("the rule is SQL");
        assert!(broken.is_empty(), "{rule}, but: {broken:#?}");
    }
}

async fn remove_containers(fleet: FleetId) {
    let (executor, host) = (DockerExecutor::new(), engine());
    eventually(Duration::from_secs(20), async || {
        let Ok(owned) = executor.list_owned(&host, fleet).await else { return false };
        for container in &owned {
            let _ = executor.stop(&host, &container.id, Duration::ZERO).await;
            let _ = executor.remove(&host, &container.id).await;
        }
        owned.is_empty()
    })
    .await;
}

/// The test's engine as an executor sees it.
pub(crate) fn engine() -> Host {
    Host {
        id: HostId::new(),
        name: "docker".into(),
        executor_type: ExecutorType::Docker,
        connection_config: json!({ "endpoint": TestDocker::find().host() }),
        executor_config: json!({}),
    }
}
