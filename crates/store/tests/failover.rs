//! The one transaction in which a refused job moves.

use gantry_core::cost::By;
use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome, Token, WorkItem};
use gantry_core::routing::failover::Routing;
use gantry_core::routing::{Question, route};
use gantry_core::state::Outcome;
use gantry_core::{ExecutorType, Failure, FailureClass, FleetId, HostId, JobId, TenantId, WorkerId};
use gantry_store::admission::{self, NewJob};
use gantry_store::claims::{self, Request};
use gantry_store::costs::{self, Days};
use gantry_store::hosts::{self, NewHost};
use gantry_store::jobs::{self, Cancelled};
use gantry_store::lines::{self, Ask};
use gantry_store::reports::{self, Applied, Failover};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Config, Scope, Store, tenants};
use gantry_testkit::TestDb;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use ExecutorType::{Cloudrun, Docker, Fargate};
use FailureClass::{InvalidSpec, Lost, NoCapacity};

struct Fleet {
    store: Store,
    sql: PgConnection,
    tenant: TenantId,
    /// A worker of docker, and its host: a start costs 1.
    docker: (WorkerId, HostId),
    /// The same of cloudrun: a start costs 9, and an hour 60.
    cloudrun: (WorkerId, HostId),
    db: TestDb,
}

impl Fleet {
    /// A docker host and a cloudrun host, each with a worker.
    async fn new() -> Self {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let docker = place(&store, None, Docker, [1, 0]).await;
        let cloudrun = place(&store, None, Cloudrun, [9, 60]).await;
        Self { store, sql, tenant, docker, cloudrun, db }
    }

    /// A job of a template with this list, claimed on docker.
    async fn claimed(&mut self, supported: &[ExecutorType]) -> Token {
        let question = Question { preferred: None, supported, with_active_host: &[Docker, Cloudrun] };
        let route = route(&question).expect("routed");
        let project: uuid::Uuid = sqlx::query_scalar("select id from projects where tenant_id = $1")
            .bind(self.tenant.uuid())
            .fetch_one(&mut self.sql)
            .await
            .expect("a project");
        let job = NewJob {
            id: JobId::new(),
            tenant: self.tenant,
            project: project.into(),
            name: "job".to_owned(),
            template: None,
            spec: serde_json::from_value(json!({ "image": "i", "timeout_seconds": 60 })).expect("a spec"),
            executor_type: route.executor,
            preferred_executor: None,
            routing: Routing::begin(&route),
            routing_reason: route.reason,
            override_command: None,
            override_environment: Default::default(),
            concurrency_key: Some("nightly".to_owned()),
            priority: 0,
            not_before: None,
            queue_timeout_seconds: None,
            idempotency: None,
            created_by: "test".to_owned(),
            schedule: None,
            at_once: false,
        };
        admission::insert(&self.store, Scope::Fleet, std::slice::from_ref(&job)).await.expect("stored");
        let items = self.dispatched(Docker).await;
        assert_eq!(self.claim(Docker, self.docker, &items).await, 1);
        Token { job: job.id, attempt: 1, epoch: 1 }
    }

    /// Everything in the lines of an executor type enters the window.
    async fn dispatched(&self, executor: ExecutorType) -> Vec<WorkItem> {
        let lines = lines::standing(&self.store, executor).await.expect("read");
        let asks: Vec<Ask> = lines.iter().map(|line| Ask { at: line.entrance(), jobs: 10, look: 10 }).collect();
        let served = lines::dispatch(&self.store, executor, &asks).await.expect("dispatched");
        served.into_iter().flat_map(|served| served.items).collect()
    }

    async fn claim(&self, executor: ExecutorType, (worker, host): (WorkerId, HostId), items: &[WorkItem]) -> usize {
        let fleet = FleetId::new();
        let request = Request { worker, fleet, executor, hosts: &[host], items, alone: false, launch_follows: true };
        claims::claim(&self.store, &request).await.expect("asked").claimed.len()
    }

    /// The end of an attempt that was refused.
    async fn refused(&self, token: Token, class: FailureClass, not_launched: bool) -> Applied {
        let outcome = Outcome::Failed(Failure::new(class, "no room")).into();
        self.ended(token, Ended { not_launched, ..Ended::bare(outcome) }).await
    }

    async fn ended(&self, token: Token, ended: Ended) -> Applied {
        let report = Report { token, traceparent: None, kind: ReportKind::Ended(ended) };
        reports::apply(&self.store, &[report], &|| 0.5).await.expect("applied")
    }

    /// A job's row, and its way.
    async fn job(&mut self, job: JobId) -> (Value, Routing) {
        let (row, routing): (Value, Value) = sqlx::query_as(
            "select to_jsonb(j), s.routing
             from container_jobs j join container_job_specs s on s.tenant_id = j.tenant_id and s.job_id = j.id where j.id = $1",
        )
        .bind(job.uuid())
        .fetch_one(&mut self.sql)
        .await
        .expect("a job");
        (row, serde_json::from_value(routing).expect("a way"))
    }

    async fn count(&mut self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.sql).await.expect("a count")
    }
}

/// A worker and its host, with the prices of a start and of an hour.
async fn place(
    store: &Store,
    tenant: Option<TenantId>,
    executor_type: ExecutorType,
    [per_job, per_hour]: [i64; 2],
) -> (WorkerId, HostId) {
    let host = NewHost {
        tenant,
        name: executor_type.as_str(),
        executor_type,
        connection_config: json!({}),
        executor_config: json!({}),
        max_concurrent_jobs: 4,
        cost_per_job: per_job.into(),
        cost_per_hour: per_hour.into(),
    };
    let host = hosts::insert(store, Scope::Fleet, &host).await.expect("stored");
    let worker = WorkerId::new();
    let new = NewWorker { id: worker, executor_type, name: "w", version: "1", reads_version: 1, lease_seconds: 600 };
    workers::register(store, &new).await.expect("registered");
    let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
    workers::put_checks(store, worker, &[check]).await.expect("stored");
    (worker, host)
}

#[tokio::test]
async fn all_of_it_is_one_commit_and_the_old_message_claims_nothing() {
    let mut fleet = Fleet::new().await;
    let token = fleet.claimed(&[Docker, Fargate, Cloudrun]).await;
    let applied = fleet.refused(token, NoCapacity, true).await;
    assert_eq!(applied.failovers, [Failover { from: Docker, to: Cloudrun, class: NoCapacity }], "fargate has no host");
    assert_eq!((applied.freed, applied.events.len()), (vec![Docker], 1));
    let told = &applied.events[0].events[0];
    assert_eq!((told.kind.as_str(), told.data.executor_type), ("retrying", Docker));
    let (row, way) = fleet.job(token.job).await;
    assert_eq!((&row["status"], &row["executor_type"]), (&json!("pending"), &json!("cloudrun")));
    assert_eq!((&row["parked_until"], &row["waiting_reason"]), (&Value::Null, &Value::Null), "in line at once");
    assert_eq!(row["infrastructure_retries"], 1);
    assert_eq!(row["routing_reason"], way.trace[1].reason);
    assert_eq!((way.trace.len(), way.trace[1].after_attempt, way.refusals.len()), (2, 1, 1));
    assert_eq!(fleet.count("select sum(current_job_count)::int8 from executor_hosts").await, 0);
    assert_eq!(fleet.count("select sum(running)::int8 from limits").await, 0);

    // The recorder did not hear of its commit, and the same comes again.
    let again = fleet.refused(token, NoCapacity, true).await;
    assert_eq!((again.superseded, again.failovers.len()), (1, 0));
    assert_eq!(fleet.job(token.job).await, (row, way));

    assert!(fleet.dispatched(Docker).await.is_empty(), "it has left the line of docker");
    let items = fleet.dispatched(Cloudrun).await;
    assert_eq!((items.len(), items[0].attempt), (1, 2));
    // Whatever is in the queue of docker, be it as good as the real one.
    for attempt in [1, 2] {
        let stale = WorkItem { attempt, ..items[0] };
        assert_eq!(fleet.claim(Docker, fleet.docker, &[stale]).await, 0);
    }
}

#[tokio::test]
async fn what_it_is_expected_to_cost_follows_the_job() {
    let mut fleet = Fleet::new().await;
    let token = fleet.claimed(&[Docker, Cloudrun]).await;
    assert_eq!(fleet.job(token.job).await.0["estimated_cost"], 1);
    fleet.refused(token, NoCapacity, true).await;
    assert_eq!(fleet.job(token.job).await.0["estimated_cost"], 10, "a start, and the minute that it may run");

    let items = fleet.dispatched(Cloudrun).await;
    assert_eq!(fleet.claim(Cloudrun, fleet.cloudrun, &items).await, 1);
    let ran = Ended {
        execution_id: Some("c".to_owned()),
        run_millis: Some(30_000),
        ..Ended::bare(ReportedOutcome::Exited { exit_code: 0 })
    };
    assert_eq!(fleet.ended(Token { attempt: 2, ..token }, ran).await.superseded, 0);
    let api = Store::new(&Config::new(fleet.db.api_url()), "test").expect("an address");
    let scope = Scope::Tenant { id: fleet.tenant, operator: false };
    let day = |year| chrono::NaiveDate::from_ymd_opt(year, 1, 1).expect("a day");
    let ever = Days { since: day(1970), until: day(9999) };
    let lines = costs::by_place(&api, scope, By::Executor, false, ever, None, 9).await.expect("read");
    let told: Vec<_> = lines.iter().map(|line| (line.key.as_str(), line.cost, line.estimated_cost)).collect();
    let nothing = Some(Decimal::ZERO);
    // Each is measured by its own prices.
    assert_eq!(told, [("cloudrun", Some(Decimal::new(95, 1)), Some(Decimal::from(10))), ("docker", nothing, nothing)]);

    // With a template, for as long as its runs took anywhere.
    let token = fleet.claimed(&[Docker, Cloudrun]).await;
    let history = "with t as (
            insert into container_templates (id, tenant_id, name, docker_image, created_by)
            select gen_random_uuid(), tenant_id, 'nightly', 'i', 'test' from container_jobs where id = $1 returning id, tenant_id
        ), c as (
            insert into cost_days (day, tenant_id, template, executor_host_id, executor_type, runs, completed, measured, untimed,
                run_millis, measured_millis, cost, failed_cost, estimated_cost)
            select '2026-01-01', tenant_id, id, gen_random_uuid(), 'mock', 2, 2, 2, 0, 60000, 60000, 0, 0, 0 from t
        )
        update container_jobs j set template = t.id from t where j.id = $1";
    sqlx::query(history).bind(token.job.uuid()).execute(&mut fleet.sql).await.expect("written");
    fleet.refused(token, NoCapacity, true).await;
    assert_eq!(fleet.job(token.job).await.0["estimated_cost"], 9.5);
}

#[tokio::test]
async fn nothing_moves_without_certainty() {
    let mut fleet = Fleet::new().await;
    for (class, not_launched) in [(NoCapacity, false), (Lost, true), (Lost, false)] {
        let token = fleet.claimed(&[Docker, Cloudrun]).await;
        assert_eq!(fleet.refused(token, class, not_launched).await.failovers, []);
        let (row, way) = fleet.job(token.job).await;
        assert_eq!((&row["executor_type"], &row["waiting_reason"]), (&json!("docker"), &json!("retry_backoff")));
        assert_eq!(way.trace.len(), 1);
    }
    // Somebody has seen a container of it.
    let token = fleet.claimed(&[Docker, Cloudrun]).await;
    let seen = "update container_executions set execution_id = 'c' where job_id = $1";
    sqlx::query(seen).bind(token.job.uuid()).execute(&mut fleet.sql).await.expect("written");
    assert_eq!(fleet.refused(token, NoCapacity, true).await.failovers, []);
}

#[tokio::test]
async fn a_cancel_is_before_or_after_and_decides_both_times() {
    let mut fleet = Fleet::new().await;
    let before = fleet.claimed(&[Docker, Cloudrun]).await;
    let cancel = async |fleet: &Fleet, job| jobs::cancel(&fleet.store, Scope::Fleet, job).await.expect("asked");
    assert_eq!(cancel(&fleet, before.job).await, Some(Cancelled::Requested));
    assert_eq!(fleet.refused(before, NoCapacity, true).await.failovers, []);
    let (row, way) = fleet.job(before.job).await;
    assert_eq!((&row["status"], &row["executor_type"], way.trace.len()), (&json!("cancelled"), &json!("docker"), 1));

    let after = fleet.claimed(&[Docker, Cloudrun]).await;
    assert_eq!(fleet.refused(after, NoCapacity, true).await.failovers.len(), 1);
    assert_eq!(cancel(&fleet, after.job).await, Some(Cancelled::Ended));
    let (row, _) = fleet.job(after.job).await;
    assert_eq!((&row["status"], &row["executor_type"]), (&json!("cancelled"), &json!("cloudrun")));
    assert!(fleet.dispatched(Cloudrun).await.is_empty());
}

#[tokio::test]
async fn another_tenants_host_is_none_and_who_cannot_run_it_fails_nobody() {
    let mut fleet = Fleet::new().await;
    let other = tenants::put_tenant(&fleet.store, "other").await.expect("stored");
    place(&fleet.store, Some(other), Fargate, [0, 0]).await;
    let token = fleet.claimed(&[Docker, Fargate]).await;
    assert_eq!(fleet.refused(token, NoCapacity, true).await.failovers.len(), 1, "its round begins again");
    let (row, _) = fleet.job(token.job).await;
    assert_eq!((&row["executor_type"], &row["waiting_reason"]), (&json!("docker"), &json!("retry_backoff")));

    // Alone in the list it is a failure of the job's, with another it is not.
    let alone = fleet.claimed(&[Docker]).await;
    fleet.refused(alone, InvalidSpec, true).await;
    assert_eq!(fleet.job(alone.job).await.0["status"], "failed");
    let token = fleet.claimed(&[Docker, Cloudrun]).await;
    fleet.refused(token, InvalidSpec, true).await;
    let (row, _) = fleet.job(token.job).await;
    assert_eq!((&row["status"], &row["executor_type"]), (&json!("pending"), &json!("cloudrun")));
}
