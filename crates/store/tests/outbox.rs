//! The outbox: whoever writes events leaves one row that names them, and what RabbitMQ has not confirmed stays.

use std::time::Duration;

use gantry_core::bulk::{Deed, Filter};
use gantry_core::message::{Ended, Report, ReportKind, ReportedOutcome, Token, WorkItem};
use gantry_core::{ExecutorType, FleetId, JobId, OutboxId, TenantId, WorkerId};
use gantry_store::audit::Actor;
use gantry_store::bulk::{self, work};
use gantry_store::claims::{self, Request};
use gantry_store::events::{self, Batch, Rest};
use gantry_store::hosts::{self, NewHost};
use gantry_store::jobs::{self, Cancelled};
use gantry_store::lines::{self, Ask};
use gantry_store::queue;
use gantry_store::reach::Reach;
use gantry_store::reports::{self, Applied};
use gantry_store::retention::{self, Defaults};
use gantry_store::workers::{self, HostCheck, NewWorker};
use gantry_store::{Config, Scope, Store, tenants};
use gantry_testkit::{TestDb, eventually};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

const MOCK: ExecutorType = ExecutorType::Mock;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Db {
    store: Store,
    sql: PgConnection,
    tenant: TenantId,
    db: TestDb,
}

impl Db {
    /// One with so many pending jobs; returns their ids, too, in their order.
    async fn with(jobs: usize) -> (Self, Vec<JobId>) {
        let db = TestDb::create().await;
        let store = Store::new(&Config::new(db.fleet_url()), "test").expect("an address");
        let tenant = tenants::put_tenant(&store, "acme").await.expect("stored");
        let mut sql = PgConnection::connect(&db.owner_url()).await.expect("connected");
        let mut ids: Vec<Uuid> = (0..jobs).map(|_| JobId::new().uuid()).collect();
        ids.sort_unstable();
        sqlx::query(
            "with j as (
                insert into container_jobs (id, tenant_id, project_id, executor_type, name, routing_reason, created_by)
                select n.id, p.tenant_id, p.id, 'mock', 'job', '', 'test' from unnest($1::uuid[]) as n(id), projects p
                returning id, tenant_id)
             insert into container_job_specs (job_id, tenant_id, spec)
             select id, tenant_id, '{\"image\": \"i\", \"timeout_seconds\": 60}' from j",
        )
        .bind(&ids)
        .execute(&mut sql)
        .await
        .expect("stored");
        (Self { store, sql, tenant, db }, ids.into_iter().map(JobId::from).collect())
    }

    /// A store with the role of the API, and what it may see.
    fn api(&self) -> (Store, Scope) {
        let store = Store::new(&Config::new(self.db.api_url()), "test").expect("an address");
        (store, Scope::Tenant { id: self.tenant, operator: false })
    }

    async fn execute(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    async fn count(&mut self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&mut self.sql).await.expect("a count")
    }

    /// Lets the queue deadline of the first so many pending jobs pass.
    async fn end_overdue(&mut self, jobs: usize) {
        self.execute(&format!(
            "update container_jobs set queue_deadline_at = now() - interval '1 hour'
             where id in (select id from container_jobs where status = 'pending' order by id limit {jobs})"
        ))
        .await;
        assert_eq!(queue::end_overdue(&self.store, Reach::All, 100).await.expect("ended"), jobs);
    }

    /// Claims the first so many pending jobs with a worker and a host of their own.
    async fn claim(&mut self, jobs: usize) -> Vec<Token> {
        let host = NewHost {
            tenant: None,
            name: "mock",
            executor_type: MOCK,
            connection_config: json!({}),
            executor_config: json!({}),
            max_concurrent_jobs: 100,
            cost_per_job: Default::default(),
            cost_per_hour: Default::default(),
        };
        let host = hosts::insert(&self.store, Scope::Fleet, &host).await.expect("stored");
        let worker = WorkerId::new();
        let (name, version) = ("w", "1");
        let new = NewWorker { id: worker, executor_type: MOCK, name, version, reads_version: 1, lease_seconds: 600 };
        workers::register(&self.store, &new).await.expect("registered");
        let check = HostCheck { host, answered: true, healthy: true, detail: String::new() };
        workers::put_checks(&self.store, worker, &[check]).await.expect("stored");
        let lines = lines::standing(&self.store, MOCK).await.expect("read");
        let asks: Vec<Ask> = lines.iter().map(|line| Ask { at: line.entrance(), jobs, look: jobs }).collect();
        let served = lines::dispatch(&self.store, MOCK, &asks).await.expect("dispatched");
        let items: Vec<WorkItem> = served.into_iter().flat_map(|served| served.items).collect();
        let (fleet, hosts) = (FleetId::new(), &[host]);
        let request =
            Request { worker, fleet, executor: MOCK, hosts, items: &items, alone: false, launch_follows: true };
        let claimed = claims::claim(&self.store, &request).await.expect("asked").claimed;
        claimed.into_iter().map(|claimed| claimed.token).collect()
    }

    async fn report(&self, tokens: &[Token], kind: ReportKind) -> Applied {
        let report = |token: &Token| Report { token: *token, traceparent: None, kind: kind.clone() };
        let reports: Vec<Report> = tokens.iter().map(report).collect();
        reports::apply(&self.store, &reports, &|| 0.5).await.expect("applied")
    }

    /// One row names exactly the events that are there, so many. Then all of them go, for the next look.
    async fn told(&mut self, events: i64, by: &str) {
        let found: (i64, i64, i64, i64) = sqlx::query_as(
            "with o as (delete from outbox returning jobs, sequences),
                n as (select n.* from o cross join unnest(o.jobs, o.sequences) as n(job_id, sequence)),
                e as (delete from job_events returning job_id, sequence)
             select (select count(*) from o), (select count(*) from n), (select count(*) from e),
                (select count(*) from (select * from n intersect select * from e) named)",
        )
        .fetch_one(&mut self.sql)
        .await
        .expect("counts");
        assert_eq!(found, (1, events, events, events), "{by}: rows, what they name, events, and those that are named");
    }

    async fn rows(&self) -> Vec<Batch> {
        events::unpublished(&self.store, Reach::All, 0.0, 1_000).await.expect("read")
    }

    /// The only row, and what it names.
    async fn row(&self) -> (OutboxId, Vec<(JobId, i32)>) {
        let rows = self.rows().await;
        assert!(rows.len() == 1 && rows[0].unreadable.is_empty(), "{rows:?}");
        (rows[0].id, rows[0].events.iter().map(|event| (event.data.job_id, event.data.sequence)).collect())
    }
}

#[tokio::test]
async fn each_writer_leaves_one_row_that_names_exactly_its_events() {
    let (mut db, ids) = Db::with(14).await;
    let (api, scope) = db.api();
    assert_eq!(jobs::cancel(&api, scope, ids[0]).await.expect("asked"), Some(Cancelled::Ended));
    db.told(1, "a cancel").await;
    db.end_overdue(3).await;
    db.told(3, "the queue deadline").await;

    let unreadable = "update container_job_specs set spec = '{}' where (tenant_id, job_id) in (
        select tenant_id, id from container_jobs where status = 'pending' order by id limit 2)";
    db.execute(unreadable).await;
    let tokens = db.claim(4).await;
    assert_eq!(tokens.len(), 2, "the others cannot be read");
    db.told(2, "a claim").await;

    let started = ReportKind::Started { execution_id: "container".to_owned() };
    for _ in 0..2 {
        db.report(&tokens, started.clone()).await;
    }
    db.told(2, "starts that are reported twice").await;
    let ended = ReportKind::Ended(Ended::bare(ReportedOutcome::Exited { exit_code: 0 }));
    let applied = db.report(&tokens, ended).await;
    assert_eq!(applied.events.iter().map(|batch| batch.id).collect::<Vec<_>>(), [db.row().await.0]);
    db.told(2, "ends").await;

    let actor = Actor { tenant: db.tenant, name: "key:test".to_owned() };
    bulk::put(&api, scope, &actor, Deed::Cancel, &Filter::default()).await.expect("stored");
    assert_eq!(work::batch(&db.store).await.expect("a batch").expect("something to do").changed, 6);
    db.told(6, "an operation").await;
}

/// Two recorders had the same row, and RabbitMQ took something else from each. They write at once, one behind the other.
#[tokio::test]
async fn what_nobody_confirmed_stays_whoever_writes_last() {
    const WAITING: &str = "select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query like '/* events::mark_published */%'";
    for swapped in [false, true] {
        let (mut db, _) = Db::with(4).await;
        db.end_overdue(4).await;
        let (id, names) = db.row().await;
        let mut rests = [names[1..].to_vec(), vec![names[0], names[3]]];
        if swapped {
            rests.reverse();
        }
        let mut holder = PgConnection::connect(&db.db.owner_url()).await.expect("connected");
        sqlx::raw_sql("begin; select from outbox for update").execute(&mut holder).await.expect("held");
        let mut marks = Vec::new();
        for (before, rest) in (0..).zip(&rests) {
            let (store, rest) = (db.store.clone(), [Rest { id, events: rest.clone() }]);
            marks.push(tokio::spawn(async move { events::mark_published(&store, &[], &rest).await }));
            eventually(PATIENCE, async || db.count(WAITING).await > before).await;
        }
        sqlx::raw_sql("rollback").execute(&mut holder).await.expect("let go");
        for mark in marks {
            mark.await.expect("no panic").expect("marked");
        }
        let (_, left) = db.row().await;
        assert_eq!(left, rests[1], "what was confirmed may be told again");
        assert!(left.contains(&names[3]), "nobody confirmed it");

        // Whoever tells the rest takes the row, and who comes later makes none again.
        events::mark_published(&db.store, &[id], &[]).await.expect("marked");
        events::mark_published(&db.store, &[], &[Rest { id, events: names }]).await.expect("marked");
        assert_eq!(db.count("select count(*) from outbox").await, 0);
    }
}

#[tokio::test]
async fn events_that_nobody_can_read_hide_none_behind_them() {
    let (mut db, ids) = Db::with(2).await;
    db.execute(
        "with e as (
            insert into job_events (job_id, sequence, tenant_id, executor_type, kind, data)
            select j.id, n, j.tenant_id, j.executor_type, 'started', '{}'
            from (select * from container_jobs order by id limit 1) j cross join generate_series(1, 1000) n
            returning job_id, sequence)
         insert into outbox (id, jobs, sequences, created_at)
         select gen_random_uuid(), array_agg(job_id), array_agg(sequence), now() - interval '1 hour'
         from e group by sequence / 7",
    )
    .await;
    jobs::cancel(&db.store, Scope::Fleet, ids[1]).await.expect("asked");
    let rows = db.rows().await;
    assert_eq!(rows.iter().map(|row| row.unreadable.len()).sum::<usize>(), 1_000);
    let told: Vec<JobId> = rows.iter().flat_map(|row| &row.events).map(|event| event.data.job_id).collect();
    assert_eq!(told, [ids[1]]);

    // Who deletes a job by hand takes its events along: its row is there, and nothing to be told.
    db.execute(&format!("delete from container_jobs where id = '{}'", ids[1])).await;
    let empty = db.rows().await.into_iter().filter(|row| row.unreadable.is_empty() && row.events.is_empty());
    assert_eq!(empty.count(), 1);
}

/// As after a long outage of RabbitMQ: so many that their jobs are not looked for one by one.
#[tokio::test]
async fn jobs_whose_events_are_untold_stay() {
    let (mut db, ids) = Db::with(2_000).await;
    db.execute(
        "update container_jobs set status = 'failed', failure_class = 'exit_nonzero', exit_code = 1,
            completed_at = now() - interval '40 days'",
    )
    .await;
    db.execute(&format!(
        "insert into outbox (id, jobs, sequences) select gen_random_uuid(), array[id], array[7] from (
            select id from container_jobs where id <> '{}'
            union all select gen_random_uuid() from generate_series(2000, 100000)) as untold(id)",
        ids[0]
    ))
    .await;
    let month = Defaults { jobs_seconds: 30 * 86_400, logs_seconds: 7 * 86_400 };
    let removed = retention::remove_jobs(&db.store, month, 500).await.expect("within the time of a transaction");
    assert_eq!(removed.jobs, 1);
    assert_eq!(db.count("select count(*) from container_jobs").await, 1_999);
}
